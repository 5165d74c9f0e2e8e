"""Which round `fasten push` goes on from."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import loop, trail
from pipeline.errors import DataError
from pipeline.loop import Found
from pipeline.records import LabelControl, Project
from pipeline.settings import Settings
from pipeline.workspace import Completed, Workspace

CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
FOUND = Found(
    labels=Project(project_id=7, title="cats", control=CONTROL),
    audit=None,
    review=None,
    states=(),
    fingerprint="now",
    nothing_new="",
)


def test_questions_of_a_run_that_was_reverted_are_not_asked_again(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    workspace = Workspace.of(settings, 7)
    workspace.remember(Completed(fingerprint="then", snapshot_id="ab", config="c", run_key="ab-cd"))
    pulled, scores = loop.last_round(settings, FOUND)
    assert (pulled.snapshot_id, scores) == ("ab", workspace.run_folder("ab-cd") / "scores.parquet")
    trail.mark_reverted(workspace, "ab-cd", by="lead", at=datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(DataError, match="ab-cd, was reverted"):
        loop.last_round(settings, FOUND)
