"""Which round `fasten push` goes on from, and what `fasten report` says of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import loop, trail
from pipeline.errors import DataError
from pipeline.loop import Found, outcome
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


def test_the_report_of_a_round_that_was_reverted_says_so_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path)
    workspace = Workspace.of(settings, 7)
    folder = workspace.run_folder("ab-cd")
    folder.mkdir(parents=True)
    (folder / "report.md").write_text("# FasTEN on cats\n", encoding="utf-8")
    monkeypatch.setattr(outcome, "last_run", lambda _: folder)
    trail.mark_reverted(workspace, "ab-ef", by="lead", at=datetime(2026, 1, 1, tzinfo=UTC))
    assert loop.last_report(settings) == "# FasTEN on cats\n", "another round was reverted"
    trail.mark_reverted(workspace, "ab-cd", by="the *lead*", at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    first, _, rest = loop.last_report(settings).partition("\n\n")
    assert first.startswith(r"**This round was reverted on 2026-01-02 03:04 UTC by the \*lead\*: ")
    assert rest == "# FasTEN on cats\n"
