"""One sample's story: everything that the trail knows of it, in the order in which it happened."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.corrected import corrected_rows, deciding_run
from pipeline.errors import DataError
from pipeline.records import Mode
from pipeline.snapshot import Snapshot
from pipeline.trail.asked import asked_rows
from pipeline.trail.files import read_rows
from pipeline.trail.machine import machine_rows
from pipeline.trail.people import in_words, people_rows
from pipeline.trail.reverted import reverted_rows, withdrawn_rows
from pipeline.trail.schema import MACHINE
from pipeline.workspace import Workspace

_NEVER_REACHED = 1.0  # a ρ above it relabels nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened to a sample."""

    at: datetime
    who: str
    """A person (`user:7`), or a run and its model."""
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Today:
    """What is handed out for a sample now."""

    label: str | None
    """None: it is left out."""
    source: str
    why: str


def story(workspace: Workspace, sample_id: str) -> list[Event]:
    """What happened to the sample; nothing for one that the trail does not know."""
    judged = list(machine_rows(workspace, sample_id))
    events = [
        *_people(workspace, sample_id),
        *(Event(at=row["at"], who=_run(row), what=_judgement(row)) for row in judged),
        *(Event(at=row["at"], who=_run(row), what=_question(row)) for row in asked_rows(workspace, sample_id)),
        *(
            Event(at=row["at"], who=f"run {row['run_key']}", what=_taken_back(row))
            for row in withdrawn_rows(workspace, sample_id)
        ),
        *(
            Event(at=row["at"], who=row["by"], what=f"reverted run {row['run_key']}: what it decided counts no longer")
            for row in reverted_rows(workspace)
            if row["run_key"] in {each["run_key"] for each in judged}
        ),
    ]
    return sorted(events, key=attrgetter("at"))


def today(workspace: Workspace, snapshot: Snapshot, sample_id: str, *, mode: Mode) -> Today:
    """What is handed out for the sample in this mode, and why."""
    row = next(corrected_rows(workspace, snapshot, mode=mode, sample_id=sample_id), None)
    undecided = _one(snapshot, "undecided", sample_id)
    if row is None:
        if undecided is not None and undecided["state"] == "unusable":
            return Today(label=None, source="", why="people found its image unusable")
        why = "it has no label, or no image" if known(snapshot, sample_id) else "it is not in the latest snapshot"
        return Today(label=None, source="", why=why)
    return Today(label=row["label"], source=row["source"], why=_why(workspace, snapshot, row, undecided, mode))


def _why(
    workspace: Workspace, snapshot: Snapshot, row: Mapping[str, Any], undecided: Mapping[str, Any] | None, mode: Mode
) -> str:
    if row["source"] in ("audit", "review"):
        random = "drawn at random" if row["source"] == "audit" else "asked because the model doubted"
        return f"{row['decided_by']} decided ({row['source']}: {random})"
    if row["source"] == "model":
        return f"run {row['run_key']} changed it (mode auto)"
    if undecided is not None:
        state = "people disagree" if undecided["state"] == "disputed" else "people were not sure"
        return f"{state}, so the given label stands"
    run = deciding_run(workspace, snapshot)
    if run is None or row["run_key"] is None:
        return "no run that counts has judged it, so the given label stands"
    said = next(read_rows(run.path, MACHINE, sample_id=row["sample_id"]))
    if said["decision"] == "relabel" and mode == "suggest":
        return f"run {run.run_key} suggests “{said['suggestion']}”, but only people change labels (mode suggest)"
    if said["decision"] == "keep":
        return f"run {run.run_key} keeps the given label"
    return f"run {run.run_key} is not sure enough of another label, and nobody has decided"


def _people(workspace: Workspace, sample_id: str) -> Iterator[Event]:
    stood: dict[tuple[int, int], Mapping[str, Any]] = {}
    for row in people_rows(workspace, sample_id):
        key = (row["project_id"], row["annotation_id"])
        if row["withdrawn_at"] is not None:
            stood.pop(key, None)
            gone = f"the answer {_answer(row)} is gone: deleted, or left out by a setting"
            if row["annotation_id"] < 0:  # both happen to it, and nothing tells which
                gone = f"the draft {_answer(row)} was sent or deleted"
            yield Event(at=row["withdrawn_at"], who=row["annotator"], what=gone)
            continue
        before, stood[key] = stood.get(key), row
        yield _said(row, before)


def _said(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> Event:
    """A new answer, or another state of one that stood."""
    verb = "answered"
    if before is not None:
        same = (before["answer"], before["label"]) == (row["answer"], row["label"])
        verb = "keeps the answer" if same else "changed the answer to"
        if same and before["annotator"] != row["annotator"]:  # deleting a user takes the name off what they said
            at = max(row["updated_at"], row["seen_at"])
            return Event(at=at, who=row["annotator"], what=f"has the answer {_answer(row)} of {before['annotator']}")
    if row["annotation_id"] < 0:
        verb = "has as a draft"
    took = "" if row["lead_time_s"] is None else f" in {row['lead_time_s']:.1f} s"
    asked = f", asked as {row['asked_as'].replace('_', ' ')}" if row["asked_as"] else ""
    star = ", as ground truth" if row["ground_truth"] else ""
    where = f"{row['origin']} project{asked}{star}"
    return Event(
        at=row["updated_at"], who=row["annotator"], what=f"{verb} {_answer(row)}{took} ({where}): {row['outcome']}"
    )


def _answer(row: Mapping[str, Any]) -> str:
    return f"“{row['label']}”" if row["label"] is not None else in_words(row["answer"])


def _run(row: Mapping[str, Any]) -> str:
    return f"run {row['run_key']}, {row['model_version']}"


def _judgement(row: Mapping[str, Any]) -> str:
    rho = "nothing reaches ρ" if row["rho"] > _NEVER_REACHED else f"ρ {row['rho']:.2f}"
    votes = ", ".join(f"{vote['annotator']} “{vote['label']}”" for vote in row["votes"])
    did = {
        "keep": f"kept “{row['given_label']}”",
        "relabel": f"changed “{row['given_label']}” to “{row['label']}”"
        if row["applied"]
        else f"suggested “{row['suggestion']}” for “{row['given_label']}”",
        "low_confidence": f"doubted “{row['given_label']}”",
    }[row["decision"]]
    return (
        f"{did}: q “{row['suggestion']}” {row['suggestion_probability']:.0%}, max p {row['confidence']:.0%}, "
        f"p “{row['given_label']}” {row['given_label_probability']:.0%}, {rho}, "
        f"T[{row['suggestion']}, {row['given_label']}] {row['given_share']:.2f}; votes: {votes or 'none'}"
    )


def _question(row: Mapping[str, Any]) -> str:
    shown = "nothing suggested" if row["suggestion"] is None else f"“{row['suggestion']}” suggested"
    verb = {"update": "changed what people are asked", "revive": "asked people again"}.get(row["event"], "asked people")
    return f"{verb} ({row['asked_as'].replace('_', ' ')}, {shown}): {row['reason']}"


def _taken_back(row: Mapping[str, Any]) -> str:
    if row["why"] is None:
        return "its question was taken back, unanswered"
    return f"took the question back, unanswered: {row['why']}"


def known(snapshot: Snapshot, sample_id: str) -> bool:
    """Whether anybody has said anything of the sample."""
    return _one(snapshot, "labels", sample_id) is not None


def unknown_sample(snapshot: Snapshot, sample_id: str) -> DataError:
    """The error for a sample that nobody knows, with those whose names are near."""
    names = pc.unique(pq.read_table(snapshot.labels_path, columns=["sample_id"])["sample_id"]).to_pylist()
    near = get_close_matches(sample_id, names, n=3, cutoff=0.6)
    hint = f" (near: {', '.join(near)})" if near else ""
    return DataError(f"no sample {sample_id!r} is known{hint}: a task's sample_id, or ls:PROJECT:TASK, is its name")


def _one(snapshot: Snapshot, table: str, sample_id: str) -> dict[str, Any] | None:
    found = pq.read_table(snapshot.path / f"{table}.parquet", filters=[("sample_id", "==", sample_id)])
    rows: list[dict[str, Any]] = found.slice(0, 1).to_pylist()
    return rows[0] if rows else None
