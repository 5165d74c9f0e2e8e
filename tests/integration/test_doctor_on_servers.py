"""Doctor before the real servers: what it finds well, and what it says of each thing that is not."""

import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from typer.testing import CliRunner

from pipeline import orchestrator
from pipeline.cli.app import app
from pipeline.doctor import Finding, examine
from pipeline.label_studio import LabelStudio
from pipeline.records import Project
from pipeline.review_screen import review_config
from pipeline.settings import load_settings
from pipeline.stack.health import free_port

if TYPE_CHECKING:
    from tests.integration.conftest import LabelStudioServer, MlflowServer

REPOSITORY = Path(__file__).parents[2]
_numbers = itertools.count(1)


def config(*classes: str, kind: str = "Choices") -> str:
    choices = "".join(f'<Choice value="{name}"/>' for name in classes)
    return f'<View><Image name="image" value="$image"/><{kind} name="label" toName="image">{choices}</{kind}></View>'


def made(door: LabelStudio, label_config: str) -> Project:
    return door.create_project(f"doctor {next(_numbers)}", label_config)


@pytest.fixture
def configured(
    label_studio: "LabelStudioServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The session's Label Studio, and nothing else, in the settings."""
    for name in [name for name in os.environ if name.startswith("FASTEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TOKEN", label_studio.token)
    monkeypatch.setenv("FASTEN_DEVICE", "cpu")
    return monkeypatch


def found() -> dict[str, Finding]:
    findings = {finding.what: finding for finding in examine(load_settings())}
    assert all("\n" not in finding.detail for finding in findings.values())
    return findings


def test_all_is_well_where_everything_is_there(
    configured: pytest.MonkeyPatch,
    label_studio: "LabelStudioServer",
    mlflow_server: "MlflowServer",
    prefect_server: str,
    door: LabelStudio,
    tmp_path: Path,
) -> None:
    labels, audit = (made(door, config("cat", "dog")) for _ in range(2))
    review = made(door, review_config(("cat", "dog")))
    configured.setenv("FASTEN_LABELS_PROJECT", labels.title)
    configured.setenv("FASTEN_AUDIT_PROJECT", str(audit.project_id))
    configured.setenv("FASTEN_REVIEW_PROJECT", review.title)
    configured.setenv("FASTEN_PREFECT_API_URL", prefect_server)
    configured.setenv("FASTEN_MLFLOW_TRACKING_URI", mlflow_server.uri)
    configured.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    orchestrator.deploy(prefect_server, REPOSITORY)
    with orchestrator.connected(prefect_server) as client:
        client.request(
            "POST",
            "/work_pools/{work_pool_name}/workers/heartbeat",
            path_params={"work_pool_name": orchestrator.WORK_POOL},
            json={"name": "doctor's", "heartbeat_interval_seconds": 60},
        )
    findings = found()
    assert {what for what, finding in findings.items() if finding.level != "ok"} == set()
    assert label_studio.username in findings["Label Studio"].detail
    assert "1.23" in findings["Label Studio"].detail
    assert f"“{labels.title}” ({labels.project_id}): control “label” on “$image”, 2 classes" in str(findings)
    assert findings["audit project"].detail.endswith("same classes")
    assert findings["review project"].detail.endswith("same classes")
    assert findings["deployment"].detail == "fasten/retrain, cron 0 2 * * *"
    assert re.match(r"[1-9]\d* online", findings["worker"].detail)
    assert mlflow_server.uri in findings["MLflow"].detail
    assert label_studio.token not in str(findings)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == len(findings)


def test_a_wrong_token_is_told_without_being_shown(configured: pytest.MonkeyPatch) -> None:
    configured.setenv("FASTEN_LABEL_STUDIO_TOKEN", "abcdef0123" * 4)
    findings = found()
    assert findings["Label Studio"].level == "problem"
    assert "FASTEN_LABEL_STUDIO_TOKEN" in findings["Label Studio"].detail
    assert "abcdef" not in str(findings)


def test_a_label_studio_that_is_gone_is_told_with_its_address(configured: pytest.MonkeyPatch) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    configured.setenv("FASTEN_LABEL_STUDIO_URL", nobody)
    finding = found()["Label Studio"]
    assert finding.level == "problem"
    assert nobody in finding.detail


@pytest.mark.usefixtures("configured")
def test_no_labels_project_is_a_problem_that_names_the_setting() -> None:
    findings = found()
    assert findings["Label Studio"].level == "ok"
    assert findings["projects"].level == "problem"
    assert "FASTEN_LABELS_PROJECT" in findings["projects"].detail


def test_a_project_that_is_not_there_is_told_with_near_titles(
    configured: pytest.MonkeyPatch, door: LabelStudio
) -> None:
    labels = made(door, config("cat", "dog"))
    configured.setenv("FASTEN_LABELS_PROJECT", labels.title.replace("doctor", "docter"))
    finding = found()["projects"]
    assert finding.level == "problem"
    assert labels.title in finding.detail


def test_a_project_without_choices_is_told_with_what_it_has(configured: pytest.MonkeyPatch, door: LabelStudio) -> None:
    labels = made(door, config("cat", "dog"))
    boxes = config("cat", kind="RectangleLabels").replace("<Choice ", "<Label ")
    changed = httpx.patch(
        f"{door.url}/api/projects/{labels.project_id}", json={"label_config": boxes}, headers=door.authorization()
    )
    assert changed.status_code == 200, changed.text
    configured.setenv("FASTEN_LABELS_PROJECT", str(labels.project_id))
    finding = found()["projects"]
    assert finding.level == "problem"
    assert "no Choices control (found: RectangleLabels 'label')" in finding.detail


def test_classes_that_differ_are_a_problem_that_lists_them(configured: pytest.MonkeyPatch, door: LabelStudio) -> None:
    labels, audit = made(door, config("cat", "dog")), made(door, config("dog", "cow"))
    configured.setenv("FASTEN_LABELS_PROJECT", str(labels.project_id))
    configured.setenv("FASTEN_AUDIT_PROJECT", str(audit.project_id))
    findings = found()
    assert findings["labels project"].level == "ok"
    assert findings["audit project"].level == "problem"
    assert "cow" in findings["audit project"].detail
    assert "cat" in findings["audit project"].detail


def test_no_audit_project_is_a_note_and_a_review_project_is_made_later(
    configured: pytest.MonkeyPatch, door: LabelStudio
) -> None:
    configured.setenv("FASTEN_LABELS_PROJECT", str(made(door, config("cat", "dog")).project_id))
    configured.setenv("FASTEN_REVIEW_PROJECT", "nobody has made this one")
    findings = found()
    assert findings["audit project"].level == "warning"
    assert "FASTEN_AUDIT_PROJECT" in findings["audit project"].detail
    assert findings["review project"].level == "ok"
    assert "“nobody has made this one” does not exist yet" in findings["review project"].detail
