"""What is refused before a server is asked."""

import subprocess
import sys

import pytest

from pipeline.errors import ConfigError
from pipeline.tracking import TrackingConfig


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:5000", "https://mlflow.example.org/team", "sqlite:////tmp/x.db", "postgresql://h/db"]
)
def test_servers_and_databases_are_taken(uri: str) -> None:
    assert TrackingConfig(uri=uri).uri == uri


@pytest.mark.parametrize(("uri", "complaint"), [("", "scheme"), ("file:./mlruns", "'file'"), ("http://", "no host")])
def test_other_addresses_are_refused_with_the_setting_to_change(uri: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        TrackingConfig(uri=uri)
    assert "FASTEN_MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        TrackingConfig(uri="https://me:hunter2@mlflow.example.org")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "it's", "line\nbreak"])
def test_model_names_that_break_a_model_uri_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="model name"):
        TrackingConfig(uri="http://127.0.0.1", model_name=name)


def test_the_configuration_is_had_without_importing_mlflow() -> None:
    code = "import sys, pipeline.tracking as t; t.TrackingConfig(uri='http://h'); sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
