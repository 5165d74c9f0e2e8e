"""One sample's story has everything in the order in which it happened, and ends with what is handed out today."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.records import ReviewTask
from pipeline.trail import append_asked, append_machine, append_people, mark_reverted, mark_withdrawn
from pipeline.trail.files import folder, write_rows
from pipeline.trail.schema import ASKED, WITHDRAWN
from pipeline.trail.story import known, story, today, unknown_sample
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
Scored = Callable[..., pa.Table]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: dict[str, Any] = {
    "relabels": {"rho": 0.8},
    "transition": [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.25, 0.75]],
}


def later(hours: int) -> datetime:
    return NOON + timedelta(hours=hours)


def said(label: str, number: int, hours: int, **more: Any) -> dict[str, Any]:
    at = {"created_at": later(hours), "updated_at": later(hours)}
    return {"sample_id": "a", "label": label, "annotation_id": number, **at, **more}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(folder=tmp_path)


def test_a_sample_tells_its_story(workspace: Workspace, make_snapshot: Make, make_scores: Scored) -> None:
    vote = said("dark", 1, 0)
    first = make_snapshot(workspace.folder, labels=[vote], noisy={"a": "dark", "b": "grey"})
    append_people(workspace, first, later(1))
    append_machine(
        workspace, "run-1", first, make_scores(first, {"a": ("grey", "relabel")}), FITTED,
        mode="auto", mlflow_run_id="m", at=later(2),
    )  # fmt: skip
    question = ReviewTask(
        push_key="k", sample_id="a", image_url="/a.png", current_label="dark", model_label="grey", confidence=0.9,
        reason="The model doubts it.", priority=0.4, model_version="fasten/1",
    )  # fmt: skip
    append_asked(workspace, "run-1", [question], later(3))
    assert today(workspace, first, "a", mode="auto").why == "run run-1 changed it (mode auto)"
    assert "suggests “grey”, but only people" in today(workspace, first, "a", mode="suggest").why
    assert today(workspace, first, "b", mode="auto").why == "run run-1 keeps the given label"

    asked = {"origin": "review", "project_id": 3, "annotator": "user:5", "asked_as": "targeted", "suggestion": "grey"}
    answer = said("grey", 9, 4, lead_time_s=3.25, **asked)
    clean = {"a": ("grey", "dark", "review")}
    second = make_snapshot(workspace.folder, labels=[vote, answer], noisy={"b": "grey"}, clean=clean)
    append_people(workspace, second, later(5))
    mark_reverted(workspace, "run-1", by="ada", at=later(6))
    mark_withdrawn(workspace, "run-1", {"k2": "a"}, at=later(7))
    now = today(workspace, second, "a", mode="auto")
    assert (now.label, now.source) == ("grey", "review")
    assert now.why == "user:9 decided (review: asked because the model doubted)"
    third = make_snapshot(workspace.folder, labels=[vote], noisy={"a": "dark", "b": "grey"})
    append_people(workspace, third, later(8))

    events = story(workspace, "a")
    assert [event.at for event in events] == [later(hours) for hours in (0, 2, 3, 4, 6, 7, 8)]
    assert [event.what for event in events] == [
        "answered “dark” in 2.5 s (labels project): voted",
        "changed “dark” to “grey”: q “grey” 90%, max p 80%, p “dark” 70%, ρ 0.80, T[grey, dark] 0.25; "
        "votes: user:1 “dark”",
        "asked people (targeted, “grey” suggested): The model doubts it.",
        "answered “grey” in 3.2 s (review project, asked as targeted): accepted the suggestion",
        "reverted run run-1: what it decided counts no longer",
        "its question was taken back, unanswered",
        "the answer “grey” is gone: deleted, or left out by a setting",
    ]
    assert events[4].who == "ada"
    assert (
        today(workspace, third, "a", mode="auto").why == "no run that counts has judged it, so the given label stands"
    )


def test_a_star_and_a_deleted_user_change_no_answer(workspace: Workspace, make_snapshot: Make) -> None:
    plain = said("dark", 1, 0)
    starred = plain | {"ground_truth": True, "updated_at": later(1)}
    nameless = starred | {"annotator": "user:deleted:1"}
    changed = nameless | {"label": "grey", "updated_at": later(5)}
    for hours, label in enumerate((plain, starred, nameless, changed), start=1):
        append_people(workspace, make_snapshot(workspace.folder, labels=[label]), later(hours))
    assert [(event.at, event.who, event.what) for event in story(workspace, "a")] == [
        (later(0), "user:1", "answered “dark” in 2.5 s (labels project): voted"),
        (later(1), "user:1", "keeps the answer “dark” in 2.5 s (labels project, as ground truth): labelled"),
        (later(3), "user:deleted:1", "has the answer “dark” of user:1"),
        (later(5), "user:deleted:1", "changed the answer to “grey” in 2.5 s (labels project, as ground truth): "
         "labelled"),
    ]  # fmt: skip


def test_what_people_could_not_decide_is_said(workspace: Workspace, make_snapshot: Make) -> None:
    undecided = {
        "u": ("dark", "unusable", ()),
        "d": ("dark", "disputed", ("grey", "bright")),
        "n": (None, "not_sure", ()),
    }
    labels = [said("dark", 1, 0) | {"sample_id": "n"}]
    snapshot = make_snapshot(workspace.folder, labels=labels, undecided=undecided)
    found = {name: today(workspace, snapshot, name, mode="auto") for name in (*undecided, "x")}
    assert {name: now.label for name, now in found.items()} == {"u": None, "d": "dark", "n": None, "x": None}
    assert found["u"].why == "people found its image unusable"
    assert found["d"].why == "people disagree, so the given label stands"
    assert found["n"].why == "it has no label, or no image"
    assert found["x"].why == "it is not in the latest snapshot"


def test_an_unknown_sample_is_answered_with_near_names(workspace: Workspace, make_snapshot: Make) -> None:
    labels = [said("dark", n, 0) | {"sample_id": f"digit-{n}"} for n in range(20)]
    snapshot = make_snapshot(workspace.folder, labels=labels)
    assert known(snapshot, "digit-7")
    assert not known(snapshot, "digit7")
    assert story(workspace, "digit7") == []
    assert "no sample 'digit7' is known (near: digit-7" in str(unknown_sample(snapshot, "digit7"))
    assert "near" not in str(unknown_sample(snapshot, "cat"))


def test_a_question_that_was_changed_withdrawn_and_asked_again_says_so(workspace: Workspace) -> None:
    asked = ReviewTask(
        push_key="k", sample_id="a", image_url="/a.png", current_label="dark", model_label="grey", confidence=0.9,
        reason="The model doubts it.", priority=0.4, model_version="fasten/1",
    )  # fmt: skip
    changed = replace(asked, model_label="bright", model_version="fasten/2")
    append_asked(workspace, "run-1", [asked], later(1))
    append_asked(workspace, "run-2", [changed], later(2), event="update")
    assert mark_withdrawn(workspace, "run-3", {"k": "a"}, at=later(3), why="the model no longer doubts “dark”") == 1
    assert mark_withdrawn(workspace, "run-3", {"k": "a"}, at=later(4), why="the model no longer doubts “dark”") == 0
    append_asked(workspace, "run-4", [asked], later(5), event="revive")
    assert [(event.who, event.what) for event in story(workspace, "a")] == [
        ("run run-1, fasten/1", "asked people (targeted, “grey” suggested): The model doubts it."),
        ("run run-2, fasten/2", "changed what people are asked (targeted, “bright” suggested): The model doubts it."),
        ("run run-3", "took the question back, unanswered: the model no longer doubts “dark”"),
        ("run run-4, fasten/1", "asked people again (targeted, “grey” suggested): The model doubts it."),
    ]


def test_files_of_before_questions_could_change_are_read(workspace: Workspace) -> None:
    older = pa.schema([field for field in ASKED if field.name != "event"])
    row = {
        "push_key": "k", "sample_id": "a", "asked_as": "targeted", "current_label": "dark", "suggestion": "grey",
        "confidence": 0.9, "reason": "doubt", "rank": 0.1, "priority": 0.4, "model_version": "fasten/1",
        "run_key": "run-1", "at": later(1),
    }  # fmt: skip
    write_rows(folder(workspace, "asked") / "run-1-0000.parquet", older, [row])
    taken = {"push_key": "k", "sample_id": "a", "run_key": "run-1", "at": later(2)}
    earlier = pa.schema([field for field in WITHDRAWN if field.name != "why"])
    write_rows(folder(workspace, "withdrawn") / "run-1-0000.parquet", earlier, [taken])
    assert [event.what for event in story(workspace, "a")] == [
        "asked people (targeted, “grey” suggested): doubt",
        "its question was taken back, unanswered",
    ]
