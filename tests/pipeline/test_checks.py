"""What people said of applied relabels, told from everything else that they said."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.checks import RECENT_RUNS, Checks, checked
from pipeline.loop.model import promise_broken
from pipeline.records import Mode
from pipeline.settings import Settings
from pipeline.trail import append_machine
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
Scored = Callable[..., pa.Table]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: Mapping[str, Any] = {"relabels": {"rho": 0.8, "per_class": None}, "transition": [[1 / 3] * 3] * 3}


def answer(sample: str, label: str | None, number: int, *, kind: str = "check", run: str = "run-0") -> dict[str, Any]:
    said = {"answer": "class" if label else "not_sure", "label": label, "annotation_id": number, "origin": "review"}
    return {"sample_id": sample, **said, "asked_as": kind, "asked_by_run": run}


def add_run(root: Path, snapshot: "Snapshot", scores: pa.Table, number: int = 0) -> None:
    at = NOON + timedelta(days=number)
    append_machine(
        Workspace(folder=root), f"run-{number}", snapshot, scores, FITTED, mode="auto", mlflow_run_id="m", at=at
    )


def test_only_answers_to_checks_count_against_what_the_asking_run_had_said(
    tmp_path: Path, make_snapshot: Make, make_scores: Scored
) -> None:
    before = make_snapshot(tmp_path, noisy=dict.fromkeys("abcd", "dark"))
    add_run(tmp_path, before, make_scores(before, dict.fromkeys("abcd", ("grey", "relabel"))))
    after = make_snapshot(
        tmp_path,
        labels=[
            answer("a", "grey", 1),
            answer("b", "dark", 2),
            answer("c", "grey", 3, kind="targeted"),
            answer("c", "grey", 4, kind="audit"),
            answer("d", None, 5),
            answer("d", "grey", 6, run="of another place"),
        ],
    )
    assert checked(Workspace(folder=tmp_path), after) == Checks(answered=2, right=1)


def test_a_check_counts_once_however_many_answer_it_and_a_class_that_was_renamed_says_nothing(
    tmp_path: Path, make_snapshot: Make, make_scores: Scored
) -> None:
    before = make_snapshot(tmp_path, noisy=dict.fromkeys("abc", "dark"))
    add_run(tmp_path, before, make_scores(before, dict.fromkeys("abc", ("grey", "relabel"))))
    said = [answer("a", "dark", 7), answer("a", "grey", 2), answer("a", "grey", 3), answer("b", "dark", 4)]
    renamed = answer("c", "gray", 5) | {"answer": "unknown_class"}
    after = make_snapshot(tmp_path, labels=[*said, renamed])
    assert checked(Workspace(folder=tmp_path), after) == Checks(answered=2, right=1)


def test_checks_of_old_runs_are_forgotten(tmp_path: Path, make_snapshot: Make, make_scores: Scored) -> None:
    snapshot = make_snapshot(tmp_path, noisy={"a": "dark"}, labels=[answer("a", "dark", 1)])
    scores = make_scores(snapshot, {"a": ("grey", "relabel")})
    for number in range(RECENT_RUNS):
        add_run(tmp_path, snapshot, scores, number)
        assert checked(Workspace(folder=tmp_path), snapshot) == Checks(answered=1, right=0)
    add_run(tmp_path, snapshot, scores, RECENT_RUNS)
    assert checked(Workspace(folder=tmp_path), snapshot) == Checks(answered=0, right=0)


@pytest.mark.parametrize(
    ("right", "answered", "contradicted"),
    [(0, 0, False), (0, 1, False), (0, 2, True), (19, 20, False), (17, 20, False), (15, 20, True), (88, 100, True)],
)
def test_the_promise_is_contradicted_only_by_what_chance_does_not_explain(
    right: int, answered: int, contradicted: bool
) -> None:
    assert Checks(answered=answered, right=right).contradict(0.95) is contradicted


@pytest.mark.parametrize("mode", ["auto", "suggest"])
def test_a_promise_that_checks_contradict_is_broken_in_either_mode_and_as_long_when_a_round_is_repeated(
    tmp_path: Path, make_snapshot: Make, make_scores: Scored, mode: Mode
) -> None:
    said = [answer(sample, "dark", number) for number, sample in enumerate("abc", start=1)]
    snapshot = make_snapshot(tmp_path, noisy=dict.fromkeys("abc", "dark"), labels=said)
    scores, workspace = make_scores(snapshot, dict.fromkeys("abc", ("grey", "relabel"))), Workspace(folder=tmp_path)
    for number in range(RECENT_RUNS):
        add_run(tmp_path, snapshot, scores, number)
    settings, last = Settings(mode=mode), f"run-{RECENT_RUNS}"
    assert promise_broken(settings, workspace, snapshot, last)
    assert not promise_broken(settings.model_copy(update={"rho": 0.8}), workspace, snapshot, last), "set by hand"
    add_run(tmp_path, snapshot, scores, RECENT_RUNS)
    assert promise_broken(settings, workspace, snapshot, last), "its own record changes nothing"
    assert not promise_broken(settings, workspace, snapshot, "the next one")
