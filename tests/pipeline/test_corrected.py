"""People first, then the machine where it may, else the given label."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.corrected import CORRECTED, MOST_PROMISES, corrected_labels, corrected_rows, standing_relabels
from pipeline.trail import append_machine, mark_reverted
from pipeline.workspace import Completed, Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

Make = Callable[..., "Snapshot"]
Scored = Callable[..., pa.Table]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: dict[str, Any] = {"relabels": {"rho": 0.8}, "transition": [[0.8, 0.1, 0.1]] * 3}
RELABELS = {"a": ("grey", "relabel"), "b": ("dark", "low_confidence")}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(folder=tmp_path)


@pytest.fixture
def snapshot(workspace: Workspace, make_snapshot: Make) -> "Snapshot":
    return make_snapshot(
        workspace.folder,
        noisy={"a": "dark", "b": "grey", "c": "bright"},
        clean={"d": ("dark", "grey", "review"), "e": ("grey", None, "audit")},
        undecided={
            "f": ("dark", "unusable", ()),
            "g": ("bright", "disputed", ("dark", "dark", "grey", "grey")),
            "h": ("grey", "not_sure", ()),
            "i": (None, "not_sure", ()),
        },
    )


def run(workspace: Workspace, snapshot: "Snapshot", scores: pa.Table, key: str = "run-1", hour: int = 0) -> None:
    at = NOON + timedelta(hours=hour)
    append_machine(workspace, key, snapshot, scores, FITTED, mode="auto", mlflow_run_id="m", at=at)


def labels(workspace: Workspace, snapshot: "Snapshot", mode: Any = "auto") -> dict[str, tuple[str, str]]:
    return {row["sample_id"]: (row["label"], row["source"]) for row in corrected_rows(workspace, snapshot, mode=mode)}


PEOPLE = {
    "d": ("dark", "review"),
    "e": ("grey", "audit"),
    "g": ("bright", "original"),
    "h": ("grey", "original"),
}


def test_before_any_run_every_label_is_a_persons_or_the_given_one(workspace: Workspace, snapshot: "Snapshot") -> None:
    given = {"a": ("dark", "original"), "b": ("grey", "original"), "c": ("bright", "original")}
    assert labels(workspace, snapshot) == given | PEOPLE
    table = corrected_labels(workspace, snapshot, mode="auto")
    assert table.schema.equals(CORRECTED)
    assert table["sample_id"].to_pylist() == sorted(given | PEOPLE)
    soft = dict(zip(table["sample_id"].to_pylist(), table["soft_label"].to_pylist(), strict=True))
    assert soft["d"] == [0, 1, 0]
    assert soft["g"] == [0, 0.5, 0.5], "the shares of what people said"
    assert soft["h"] == [0, 0, 1]


def test_only_mode_auto_hands_out_a_relabel(workspace: Workspace, snapshot: "Snapshot", make_scores: Scored) -> None:
    run(workspace, snapshot, make_scores(snapshot, RELABELS))
    assert labels(workspace, snapshot, "suggest")["a"] == ("dark", "original")
    assert labels(workspace, snapshot)["a"] == ("grey", "model")
    assert labels(workspace, snapshot)["b"] == ("grey", "original"), "what the machine is not sure of stays"
    rows = {row["sample_id"]: row for row in corrected_rows(workspace, snapshot, mode="auto")}
    assert rows["b"]["soft_label"] == pytest.approx([0.05, 0.9, 0.05])
    assert (rows["a"]["decided_by"], rows["a"]["run_key"], rows["a"]["given_label"]) == ("fasten/1", "run-1", "dark")
    assert {name: labels(workspace, snapshot)[name] for name in PEOPLE} == PEOPLE


def test_the_latest_run_counts_and_a_reverted_one_never(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    run(workspace, snapshot, make_scores(snapshot, {"a": ("bright", "relabel")}), "run-1", 0)
    run(workspace, snapshot, make_scores(snapshot, RELABELS), "run-2", 1)
    assert labels(workspace, snapshot)["a"] == ("grey", "model")
    mark_reverted(workspace, "run-2", by="ada", at=NOON)
    assert labels(workspace, snapshot)["a"] == ("bright", "model")
    mark_reverted(workspace, "run-1", by="ada", at=NOON)
    assert labels(workspace, snapshot)["a"] == ("dark", "original")


def test_the_run_that_was_completed_last_counts_although_it_was_first_made_earlier(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    run(workspace, snapshot, make_scores(snapshot, {"a": ("bright", "relabel")}), "run-1", 0)
    run(workspace, snapshot, make_scores(snapshot, RELABELS), "run-2", 1)
    workspace.remember(Completed(fingerprint="", snapshot_id=snapshot.snapshot_id, config="", run_key="run-1"))
    assert labels(workspace, snapshot)["a"] == ("bright", "model")


def test_a_person_who_spoke_after_the_run_is_not_overwritten(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored, make_snapshot: Make
) -> None:
    run(workspace, snapshot, make_scores(snapshot, RELABELS))
    reviewed = make_snapshot(workspace.folder, noisy={"b": "grey"}, clean={"a": ("bright", "dark", "review")})
    assert labels(workspace, reviewed)["a"] == ("bright", "review")
    voted_anew = make_snapshot(workspace.folder, noisy={"a": "bright"})
    assert labels(workspace, voted_anew)["a"] == ("bright", "original")


def test_a_sample_that_the_run_does_not_know_has_nothing_of_its_neighbour(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored, make_snapshot: Make
) -> None:
    run(workspace, snapshot, make_scores(snapshot, RELABELS))
    more = make_snapshot(workspace.folder, noisy={"0": "dark", "a": "dark", "aa": "grey", "b": "grey", "z": "bright"})
    rows = {row["sample_id"]: row for row in corrected_rows(workspace, more, mode="auto")}
    assert {name: row["label"] for name, row in rows.items() if row["run_key"] is None} == {
        "0": "dark", "aa": "grey", "z": "bright",
    }  # fmt: skip
    assert rows["a"]["label"] == "grey"


def test_a_class_that_came_later_has_no_share_and_a_class_that_is_gone_ends_a_runs_say(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored, make_snapshot: Make
) -> None:
    run(workspace, snapshot, make_scores(snapshot, RELABELS))
    more = make_snapshot(workspace.folder, noisy={"a": "dark"}, classes=("grey", "new", "dark", "bright"))
    [row] = corrected_rows(workspace, more, mode="auto")
    assert row["label"] == "grey"
    assert row["soft_label"] == pytest.approx([0.9, 0, 0.05, 0.05])
    fewer = make_snapshot(workspace.folder, noisy={"a": "dark"}, classes=("dark", "bright"))
    assert labels(workspace, fewer) == {"a": ("dark", "original")}


def test_one_sample_is_as_in_the_whole(workspace: Workspace, snapshot: "Snapshot", make_scores: Scored) -> None:
    run(workspace, snapshot, make_scores(snapshot, RELABELS))
    for whole in corrected_rows(workspace, snapshot, mode="auto"):
        [alone] = corrected_rows(workspace, snapshot, mode="auto", sample_id=whole["sample_id"])
        assert alone == whole
    assert list(corrected_rows(workspace, snapshot, mode="auto", sample_id="f")) == []


def promise(made: bool) -> dict[str, Any]:
    rho = 0.8 if made else 2.0
    return {"relabels": {"rho": rho, "per_class": None, "target_precision": 0.95}, "transition": FITTED["transition"]}


def test_relabels_of_a_promise_stand_while_later_runs_can_promise_nothing(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    def add(key: str, hour: int, said: dict[str, tuple[str, str]], fitted: dict[str, Any]) -> None:
        at = NOON + timedelta(hours=hour)
        scores = make_scores(snapshot, said)
        append_machine(workspace, key, snapshot, scores, fitted, mode="auto", mlflow_run_id="m", at=at)

    doubted = {"a": ("grey", "low_confidence")}
    add("run-1", 1, RELABELS, promise(made=True))
    add("run-2", 2, doubted, promise(made=False))
    assert labels(workspace, snapshot)["a"] == ("grey", "model")
    assert labels(workspace, snapshot, "suggest")["a"] == ("dark", "original")
    assert standing_relabels(workspace, snapshot) == {"a": "grey"}
    add("run-3", 3, {"a": ("bright", "low_confidence"), "b": ("dark", "relabel")}, promise(made=True))
    now = labels(workspace, snapshot)
    assert (now["a"], now["b"]) == (("dark", "original"), ("dark", "model")), "the latest model suggests another label"
    mark_reverted(workspace, "run-3", by="me", at=NOON)
    assert labels(workspace, snapshot)["a"] == ("grey", "model")
    add("run-4", 4, doubted | {"b": ("dark", "relabel")}, promise(made=True))
    now = labels(workspace, snapshot)
    assert (now["a"], now["b"]) == (("grey", "model"), ("dark", "model")), "a smaller promise takes nothing back"
    assert standing_relabels(workspace, snapshot) == {"a": "grey", "b": "dark"}
    [row] = corrected_rows(workspace, snapshot, mode="auto", sample_id="a")
    assert (row["run_key"], row["source"]) == ("run-1", "model")
    mark_reverted(workspace, "run-1", by="me", at=NOON)
    assert labels(workspace, snapshot)["a"] == ("dark", "original"), "what made the promise is undone"


@pytest.mark.parametrize(
    "relabels", [{"rho": 2.0, "target_precision": 0.95, "broken": True}, {"rho": 2.0, "target_precision": None}]
)
def test_nothing_stands_where_checks_contradict_it_or_rho_is_set_by_hand(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored, relabels: dict[str, Any]
) -> None:
    for hour, (said, fitted) in enumerate(
        [(RELABELS, promise(made=True)), ({}, FITTED | {"relabels": relabels | {"per_class": None}})]
    ):
        at = NOON + timedelta(hours=hour)
        scores = make_scores(snapshot, said)
        append_machine(workspace, f"run-{hour}", snapshot, scores, fitted, mode="auto", mlflow_run_id="m", at=at)
    assert labels(workspace, snapshot)["a"] == ("dark", "original")


def test_what_was_promised_before_checks_contradicted_it_does_not_come_back(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    broken = {"rho": 2.0, "per_class": None, "target_precision": 0.95, "broken": True}
    for hour, fitted in enumerate([promise(made=True), FITTED | {"relabels": broken}, promise(made=False)]):
        said = RELABELS if hour == 0 else {"a": ("grey", "low_confidence")}
        at = NOON + timedelta(hours=hour)
        scores = make_scores(snapshot, said)
        append_machine(workspace, f"run-{hour}", snapshot, scores, fitted, mode="auto", mlflow_run_id="m", at=at)
    assert labels(workspace, snapshot)["a"] == ("dark", "original")
    assert standing_relabels(workspace, snapshot) == {}


def test_reverting_the_run_that_noted_the_contradiction_brings_nothing_back(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    broken = {"rho": 2.0, "per_class": None, "target_precision": 0.95, "broken": True}
    for hour, fitted in enumerate([promise(made=True), FITTED | {"relabels": broken}]):
        scores = make_scores(snapshot, RELABELS if hour == 0 else {"a": ("grey", "low_confidence")})
        at = NOON + timedelta(hours=hour)
        append_machine(workspace, f"run-{hour}", snapshot, scores, fitted, mode="auto", mlflow_run_id="m", at=at)
    mark_reverted(workspace, "run-1", by="ada", at=NOON)
    assert labels(workspace, snapshot)["a"] == ("dark", "original"), "people's checks stay, whatever is reverted"
    assert standing_relabels(workspace, snapshot) == {}


def test_a_run_that_promises_anew_takes_the_place_of_the_oldest_promise(
    workspace: Workspace, snapshot: "Snapshot", make_scores: Scored
) -> None:
    for hour in range(MOST_PROMISES):
        scores = make_scores(snapshot, RELABELS if hour == 0 else {"a": ("grey", "low_confidence")})
        at = NOON + timedelta(hours=hour)
        append_machine(
            workspace, f"run-{hour}", snapshot, scores, promise(made=True), mode="auto", mlflow_run_id="m", at=at
        )
    assert standing_relabels(workspace, snapshot, run_key="new") == {"a": "grey"}
    assert standing_relabels(workspace, snapshot, run_key="new", promises=True) == {}, "as it will be handed out"
    again = standing_relabels(workspace, snapshot, run_key=f"run-{MOST_PROMISES - 1}", promises=True)
    assert again == {"a": "grey"}, "a round that is repeated does not count beside itself"


def test_only_the_last_few_promises_stand(workspace: Workspace, snapshot: "Snapshot", make_scores: Scored) -> None:
    for hour in range(MOST_PROMISES + 1):
        said = RELABELS if hour == 0 else {"a": ("grey", "low_confidence")}
        assert labels(workspace, snapshot)["a"] == (("dark", "original") if hour == 0 else ("grey", "model"))
        at = NOON + timedelta(hours=hour)
        scores = make_scores(snapshot, said)
        append_machine(
            workspace, f"run-{hour}", snapshot, scores, promise(made=True), mode="auto", mlflow_run_id="m", at=at
        )
    assert labels(workspace, snapshot)["a"] == ("dark", "original")
