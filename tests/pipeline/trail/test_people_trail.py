"""Every state of every answer is kept, once, also of those that somebody deleted."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import DataError
from pipeline.trail import append_people, keep_people, people, people_rows
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def vote(sample: str, label: str, number: int = 1, **more: Any) -> Mapping[str, Any]:
    return {"sample_id": sample, "label": label, "annotation_id": number, **more}


def review(sample: str, label: str | None, number: int, **more: Any) -> Mapping[str, Any]:
    return {"sample_id": sample, "label": label, "annotation_id": number, "project_id": 3, "origin": "review", **more}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(folder=tmp_path)


def kept(workspace: Workspace, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in people_rows(workspace)]


def test_what_is_as_it_was_is_not_kept_twice(workspace: Workspace, make_snapshot: Make) -> None:
    first = make_snapshot(workspace.folder, labels=[vote("a", "dark")], noisy={"a": "dark"})
    assert append_people(workspace, first, NOON) == 1
    assert append_people(workspace, first, LATER) == 0
    both = [vote("a", "dark"), vote("b", "grey", 2)]
    second = make_snapshot(workspace.folder, labels=both, noisy={"a": "dark", "b": "grey"})
    assert append_people(workspace, second, LATER) == 1
    assert kept(workspace, "sample_id", "label", "seen_in", "seen_at") == [
        ("a", "dark", first.snapshot_id, NOON),
        ("b", "grey", second.snapshot_id, LATER),
    ]


def test_a_changed_answer_is_a_second_row_and_the_first_one_stays(workspace: Workspace, make_snapshot: Make) -> None:
    for label in ("dark", "grey"):
        append_people(workspace, make_snapshot(workspace.folder, labels=[vote("a", label)], noisy={"a": label}), NOON)
    assert kept(workspace, "label") == [("dark",), ("grey",)]


def test_a_deleted_answer_is_kept_as_withdrawn_and_one_that_returns_stands_again(
    workspace: Workspace, make_snapshot: Make
) -> None:
    said = [vote("a", "dark"), vote("b", "grey", 2)]
    before = make_snapshot(workspace.folder, labels=said, noisy={"a": "dark", "b": "grey"})
    append_people(workspace, before, NOON)
    without = make_snapshot(workspace.folder, labels=said[:1], noisy={"a": "dark"})
    assert append_people(workspace, without, LATER) == 1
    assert append_people(workspace, without, LATER) == 0
    assert append_people(workspace, before, LATER) == 1
    assert kept(workspace, "sample_id", "label", "withdrawn_at") == [
        ("a", "dark", None),
        ("b", "grey", None),
        ("b", "grey", LATER),
        ("b", "grey", None),
    ]


def test_snapshots_that_a_dead_process_did_not_keep_are_caught_up_with(
    workspace: Workspace, make_snapshot: Make
) -> None:
    append_people(workspace, make_snapshot(workspace.folder, labels=[vote("a", "dark")], noisy={"a": "dark"}), NOON)
    make_snapshot(workspace.folder, labels=[vote("a", "dark"), vote("b", "grey", 2)], noisy={"a": "dark"})
    newest = make_snapshot(workspace.folder, labels=[vote("a", "dark"), vote("c", "grey", 3)], noisy={"a": "dark"})
    assert append_people(workspace, newest, LATER) == 3
    assert [(name, when is not None) for name, when in kept(workspace, "sample_id", "withdrawn_at")] == [
        ("a", False),
        ("b", False),
        ("c", False),
        ("b", True),
    ]


@pytest.mark.parametrize(
    ("row", "given", "expected"),
    [
        (vote("a", "dark"), "dark", "voted"),
        (vote("a", "dark", ground_truth=True), "grey", "chose another class"),
        (vote("a", "dark", ground_truth=True), None, "labelled"),
        (review("a", "dark", 7, suggestion="dark"), "grey", "accepted the suggestion"),
        (review("a", "grey", 7, suggestion="dark"), "grey", "kept the given label"),
        (review("a", "bright", 7, suggestion="dark"), "grey", "chose another class"),
        (review("a", None, 7, answer="not_sure"), "grey", "not sure"),
        (review("a", None, 7, answer="unusable"), "grey", "unusable"),
    ],
)
def test_the_outcome_says_what_an_answer_made_of_the_given_label(
    row: Mapping[str, Any], given: str | None, expected: str, workspace: Workspace, make_snapshot: Make
) -> None:
    clean = {"a": ("bright", given, "review"), "0": ("dark", "dark", "audit"), "b": ("dark", "dark", "audit")}
    append_people(workspace, make_snapshot(workspace.folder, labels=[row], clean=clean), NOON)
    assert kept(workspace, "given_label", "outcome") == [(given, expected)]


def test_one_sample_is_found_among_many_row_groups(
    workspace: Workspace, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.trail.files.ROWS_IN_GROUP", 3)
    names = {f"s{number:02d}": "dark" for number in range(10)}
    said = [vote(name, "dark", number + 1) for number, name in enumerate(names)]
    append_people(workspace, make_snapshot(workspace.folder, labels=said, noisy=names), NOON)
    assert [row["sample_id"] for row in people_rows(workspace, "s07")] == ["s07"]
    assert list(people_rows(workspace, "t")) == []


def test_a_damaged_file_is_named(workspace: Workspace, make_snapshot: Make) -> None:
    append_people(workspace, make_snapshot(workspace.folder, labels=[vote("a", "dark")], noisy={"a": "dark"}), NOON)
    [file] = people._files(workspace)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{file.name} is damaged: restore it"):
        list(people_rows(workspace))


def test_an_answer_that_only_an_unkept_pull_saw_is_kept_before_the_next_one(
    workspace: Workspace, make_snapshot: Make
) -> None:
    def pull(*said: Mapping[str, Any]) -> None:
        make_snapshot(workspace.folder, labels=said, noisy={"a": "dark"})

    assert keep_people(workspace, NOON) == 0
    pull(vote("a", "dark"))
    assert keep_people(workspace, NOON) == 1
    pull(vote("a", "dark"), vote("b", "grey", 2))  # and its process dies
    assert keep_people(workspace, LATER) == 1
    pull(vote("a", "dark"))
    assert keep_people(workspace, LATER) == 1
    assert kept(workspace, "sample_id", "withdrawn_at") == [("a", None), ("b", None), ("b", LATER)]


def test_without_knowing_what_was_kept_last_nothing_is_kept_twice(workspace: Workspace, make_snapshot: Make) -> None:
    for labels in ([vote("a", "dark")], [vote("a", "dark"), vote("b", "grey", 2)]):
        append_people(workspace, make_snapshot(workspace.folder, labels=labels, noisy={"a": "dark"}), NOON)
    (workspace.folder / "trail" / "people" / "kept.json").unlink()
    assert keep_people(workspace, LATER) == 0
