"""Where `s3://` leads: one endpoint, checked before anything is asked of it."""

import pytest
from pyarrow.fs import S3FileSystem

from pipeline.errors import ConfigError
from pipeline.s3 import S3Config


@pytest.mark.parametrize(
    "endpoint", ["", "localhost:9000", "ftp://host", "http://", "http://host/bucket", "http://host?x=1"]
)
def test_an_endpoint_that_is_no_server_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="FASTEN_S3_ENDPOINT"):
        S3Config(endpoint=endpoint)


def test_a_password_in_the_endpoint_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        S3Config(endpoint="https://me:hunter2@store.example")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_system_is_made_without_asking_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    made = S3Config(endpoint="http://127.0.0.1:9", region="eu-central-1").filesystem()
    assert isinstance(made, S3FileSystem)
    assert made.region == "eu-central-1"
