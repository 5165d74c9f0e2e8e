"""What each run said of every noisy sample, and what it did."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.records import Mode
from pipeline.snapshot import Snapshot
from pipeline.trail.files import folder, one_writer, read_about, read_rows, safe_name, write_rows
from pipeline.trail.schema import MACHINE
from pipeline.workspace import Workspace

Promise = Literal["made", "by hand", "none", "broken"]
"""Of a run's relabels: held-out pairs promise their precision; ρ was set by hand; nothing could be promised, or checks
contradict what was promised, and so there are none."""


def promise_of(relabels: Mapping[str, Any]) -> Promise:
    """What the `relabels` of a `fitted.json` stand for."""
    if relabels.get("broken"):
        return "broken"
    if relabels.get("target_precision") is None:
        return "by hand"
    return "made" if min([relabels["rho"], *(relabels.get("per_class") or [])]) <= 1 else "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineRun:
    """One run's decisions, as one file holds them."""

    path: Path
    run_key: str
    snapshot_id: str
    mode: Mode
    classes: tuple[str, ...]
    """In the order of `posterior` and `transition_row`."""
    model_version: str
    mlflow_run_id: str
    at: datetime
    promise: Promise = "by hand"


def append_machine(
    workspace: Workspace,
    run_key: str,
    snapshot: Snapshot,
    scores: pa.Table,
    fitted: Mapping[str, Any],
    *,
    mode: Mode,
    mlflow_run_id: str,
    at: datetime,
) -> Path:
    """Keep what a run decided; a run that is kept already is left as it is.

    scores: rows of `pipeline.schema.SCORES` in the order of the snapshot's noisy samples, some of which may be missing.
    fitted: `fitted.json`; its `relabels` and `transition` [K,K] are read. at: when the run came to its end.
    """
    path = folder(workspace, "machine") / f"{safe_name(run_key)}.{mode}.parquet"
    with one_writer(workspace):
        if path.exists():
            return path
        about = {
            "run_key": run_key,
            "snapshot_id": snapshot.snapshot_id,
            "mode": mode,
            "classes": list(snapshot.classes),
            "model_version": scores["model_version"][0].as_py() if scores.num_rows else "",
            "mlflow_run_id": mlflow_run_id,
            "at": at.isoformat(),
            "promise": promise_of(fitted["relabels"]),
        }
        same = {"snapshot_id": snapshot.snapshot_id, "run_key": run_key, "mlflow_run_id": mlflow_run_id, "at": at}
        write_rows(path, MACHINE, (row | same for row in _decided(snapshot, scores, fitted, mode)), about=about)
    return path


def _decided(snapshot: Snapshot, scores: pa.Table, fitted: Mapping[str, Any], mode: Mode) -> Iterator[dict[str, Any]]:
    place = {name: index for index, name in enumerate(snapshot.classes)}
    per_class = fitted["relabels"].get("per_class") or [fitted["relabels"]["rho"]] * len(place)
    samples = _noisy(snapshot)
    for batch in scores.to_batches(max_chunksize=2_000):
        for score in batch.to_pylist():
            sample = next((one for one in samples if one["sample_id"] == score["sample_id"]), None)
            if sample is None:
                raise DataError(
                    f"scored sample {score['sample_id'][:80]!r} is none of snapshot {snapshot.snapshot_id}, or out of "
                    "its order: score that snapshot again"
                )
            suggested = place[score["model_label"]]
            applied = mode == "auto" and score["decision"] == "relabel"
            yield {
                **sample,
                **{name: score[name] for name in MACHINE.names if name in score},
                "suggestion": score["model_label"],
                "suggestion_probability": score["model_label_probability"],
                "rho": per_class[suggested],
                "transition_row": fitted["transition"][suggested],
                "given_share": fitted["transition"][suggested][place[score["given_label"]]],
                "applied": applied,
                "label": score["model_label"] if applied else score["given_label"],
            }


def _noisy(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    columns = ["sample_id", "image_sha256", "votes"]
    with pq.ParquetFile(snapshot.noisy_path) as file:
        for batch in file.iter_batches(batch_size=2_000, columns=columns):
            yield from batch.to_pylist()


def machine_runs(workspace: Workspace) -> list[MachineRun]:
    """Every run that is kept, the latest first; reverted ones too."""
    found = []
    for path in sorted(folder(workspace, "machine").glob("[!.]*.parquet")):
        about = read_about(path)
        about |= {"classes": tuple(about["classes"]), "at": datetime.fromisoformat(about["at"])}
        found.append(MachineRun(path=path, **about))
    return sorted(found, key=lambda run: (run.at, run.path.name), reverse=True)


def machine_rows(workspace: Workspace, sample_id: str | None = None) -> Iterator[dict[str, Any]]:
    """What was said of all samples, or of one; the earliest run first, each run by sample id."""
    for run in reversed(machine_runs(workspace)):
        yield from read_rows(run.path, MACHINE, sample_id=sample_id)
