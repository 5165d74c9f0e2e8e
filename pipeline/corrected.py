"""The corrected labels as they are now: people first, then the machine where it may, else the given label.

- A person has decided: their label. Unusable images are left out; where people disagree or are not sure, the given
  label stands.
- Mode `auto`, and a run that nobody has reverted changes the label: its label, provided that it judged the same image
  with the same given label. What people have said since is not overwritten by what a machine said before. A promise was
  made about a set of labels, and does not lapse because a later run cannot repeat it, or only of fewer: the relabels of
  the last few promises stand as far as the latest model suggests the same. Where checks contradict a promise, nothing
  that was promised before stands.
- Else the given label.

The soft label is one-hot for a person's decision, the shares of what they said where people disagree, and else the
posterior q of that run, in both modes; one-hot for what no run has judged. The streams here follow the sample ids, and
memory holds a batch.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import Mode
from pipeline.snapshot import Snapshot
from pipeline.trail import MachineRun, machine_runs, reverted
from pipeline.trail.files import read_rows
from pipeline.trail.schema import MACHINE
from pipeline.workspace import Workspace

MOST_PROMISES = 5
"""Relabels of older promises no longer stand."""

CORRECTED = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("image_url", pa.string()),
        pa.field("label", pa.string(), nullable=False),
        pa.field("soft_label", pa.list_(pa.float32()), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("given_label", pa.string()),
        pa.field("decided_by", pa.string()),
        pa.field("decided_at", pa.timestamp("us", tz="UTC")),
        pa.field("run_key", pa.string()),
    ]
)
"""`image_url`: as Label Studio names it, null where that is not known. `source`: original, model, review or audit.
`decided_by`: who changed or confirmed it, a person (`user:7`) or a model version; null where the given label simply
stands. `run_key`: the run whose posterior or decision this is."""


def corrected_labels(workspace: Workspace, snapshot: Snapshot, *, mode: Mode) -> pa.Table:
    """All corrected labels, in one table (`CORRECTED`), by sample id."""
    return pa.Table.from_pylist(list(corrected_rows(workspace, snapshot, mode=mode)), schema=CORRECTED)


def corrected_rows(
    workspace: Workspace, snapshot: Snapshot, *, mode: Mode, sample_id: str | None = None
) -> Iterator[dict[str, Any]]:
    """The corrected labels one by one, by sample id; of one sample where `sample_id` is given."""
    runs = _runs(workspace, snapshot)
    run = deciding_run(workspace, snapshot)
    changing = _changing(workspace, runs, run) if mode == "auto" else []
    rows = merge(
        _decided(snapshot, sample_id),
        _undecided(snapshot, sample_id),
        _noisy(snapshot, sample_id, _Judge(run, snapshot, sample_id), _Changes(changing, snapshot, sample_id)),
        key=itemgetter("sample_id"),
    )
    yield from rows


def standing_relabels(
    workspace: Workspace, snapshot: Snapshot, *, run_key: str = "", promises: bool = False
) -> dict[str, str]:
    """Sample → label, of the latest promise about it: what stands beside the run of that key, where its model suggests
    the same. Where that run promises something itself (`promises`), it takes the place of the oldest promise.
    """
    others = [run for run in _runs(workspace, snapshot) if run.run_key != run_key]
    changes = _Changes(_promising(workspace, others)[: MOST_PROMISES - promises], snapshot, None)
    said = ((row["sample_id"], changes.of(row)) for row in _rows(snapshot.noisy_path, None))
    return {sample_id: change[0]["suggestion"] for sample_id, change in said if change}


def _changing(workspace: Workspace, runs: Sequence[MachineRun], latest: MachineRun | None) -> list[MachineRun]:
    """The runs whose relabels are applied, the latest first."""
    if latest is None or latest.promise == "by hand":
        return [] if latest is None else [latest]
    return _promising(workspace, [run for run in runs if run.at <= latest.at])


def _promising(workspace: Workspace, runs: Sequence[MachineRun]) -> list[MachineRun]:
    """Those of `runs`, the latest first, whose promises stand: made, and not older than a broken one.

    That checks had contradicted it was noted by a run, but said by people: reverting that run does not unsay it.
    """
    broken = next((run.at for run in machine_runs(workspace) if run.promise == "broken"), None)
    return [run for run in runs if run.promise == "made" and (broken is None or run.at > broken)][:MOST_PROMISES]


def deciding_run(workspace: Workspace, snapshot: Snapshot) -> MachineRun | None:
    """The run whose decisions count: the one completed last, or else the latest, of those that nobody has reverted.

    A run that knew a class which is no more does not count.
    """
    completed = workspace.completed()
    runs = _runs(workspace, snapshot)
    return next(
        (run for run in runs if completed is not None and run.run_key == completed.run_key), next(iter(runs), None)
    )


def _runs(workspace: Workspace, snapshot: Snapshot) -> list[MachineRun]:
    """The runs that nobody has reverted and that knew no class which is no more, the latest first."""
    undone = reverted(workspace)
    return [
        run
        for run in machine_runs(workspace)
        if run.run_key not in undone and set(run.classes) <= set(snapshot.classes)
    ]


def _decided(snapshot: Snapshot, sample_id: str | None) -> Iterator[dict[str, Any]]:
    for row in _rows(snapshot.clean_path, sample_id):
        yield {
            "sample_id": row["sample_id"],
            "image_sha256": row["image_sha256"],
            "image_url": row.get("image_url"),
            "label": row["label"],
            "soft_label": _one_hot(row["label"], snapshot.classes),
            "source": row["provenance"],
            "given_label": row["given_label"],
            "decided_by": row["auditor"],
            "decided_at": row["audited_at"],
            "run_key": None,
        }


def _undecided(snapshot: Snapshot, sample_id: str | None) -> Iterator[dict[str, Any]]:
    for row in _rows(snapshot.undecided_path, sample_id):
        if row["state"] == "unusable" or row["label"] is None or row["image_sha256"] is None:
            continue
        said = Counter(answer["label"] for answer in row["answers"] if answer["answer"] == "class")
        shares = [said[name] / said.total() for name in snapshot.classes] if said else None
        yield {
            "sample_id": row["sample_id"],
            "image_sha256": row["image_sha256"],
            "image_url": row["image_url"],
            "label": row["label"],
            "soft_label": shares or _one_hot(row["label"], snapshot.classes),
            "source": "original",
            "given_label": row["label"],
            "decided_by": None,
            "decided_at": None,
            "run_key": None,
        }


def _noisy(
    snapshot: Snapshot, sample_id: str | None, latest: "_Judge", changing: "_Changes"
) -> Iterator[dict[str, Any]]:
    for row in _rows(snapshot.noisy_path, sample_id):
        said = latest.of(row)
        agreed = (one for one in changing.of(row) if said is not None and one["suggestion"] == said["suggestion"])
        yield _corrected(row, said, next(agreed, None), snapshot)


def _corrected(
    row: Mapping[str, Any], said: Mapping[str, Any] | None, change: Mapping[str, Any] | None, snapshot: Snapshot
) -> dict[str, Any]:
    """One noisy sample with what the latest run said of it, and the relabel that is applied."""
    source = change or said
    return {
        "sample_id": row["sample_id"],
        "image_sha256": row["image_sha256"],
        "image_url": row["image_url"],
        "label": change["suggestion"] if change else row["label"],
        "soft_label": said["posterior"] if said else _one_hot(row["label"], snapshot.classes),
        "source": "model" if change else "original",
        "given_label": row["label"],
        "decided_by": change["model_version"] if change else None,
        "decided_at": change["at"] if change else None,
        "run_key": source["run_key"] if source else None,
    }


class _Judge:
    """What one run said of noisy samples, asked for by sample id in ascending order; nothing where there is no run."""

    def __init__(self, run: MachineRun | None, snapshot: Snapshot, sample_id: str | None) -> None:
        self._rows = iter(()) if run is None else _judged(run, snapshot.classes, sample_id)
        self._next = next(self._rows, None)

    def of(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """What it said of the sample of this row of `noisy.parquet`, if that was the same image and given label."""
        while self._next is not None and self._next["sample_id"] < row["sample_id"]:
            self._next = next(self._rows, None)
        said = self._next
        # What was said of another image, or before the annotators changed their mind, says nothing.
        if said is None or any(said[name] != row[name] for name in ("sample_id", "image_sha256")):
            return None
        return said if said["given_label"] == row["label"] else None


class _Changes:
    """What several runs relabeled, asked for by sample id in ascending order."""

    def __init__(self, runs: Sequence[MachineRun], snapshot: Snapshot, sample_id: str | None) -> None:
        self._judges = [_Judge(run, snapshot, sample_id) for run in runs]

    def of(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The relabels of the sample of this row of `noisy.parquet`, in the order of the runs."""
        said = [judge.of(row) for judge in self._judges]
        return [one for one in said if one is not None and one["decision"] == "relabel"]


def _judged(run: MachineRun, classes: Sequence[str], sample_id: str | None) -> Iterator[dict[str, Any]]:
    """The run's rows, with the posterior over `classes` in their order of today."""
    place = {name: index for index, name in enumerate(run.classes)}
    for row in read_rows(run.path, MACHINE, sample_id=sample_id):
        q = row["posterior"]
        yield row | {"posterior": [q[place[name]] if name in place else 0.0 for name in classes]}


def _one_hot(label: str, classes: Sequence[str]) -> list[float]:
    return [float(name == label) for name in classes]


def _rows(path: Path, sample_id: str | None) -> Iterator[dict[str, Any]]:
    if sample_id is not None:
        yield from pq.read_table(path, filters=[("sample_id", "==", sample_id)]).to_pylist()
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2_000):
            yield from batch.to_pylist()
