"""How each exported label that is not the given one came about: `history.parquet` beside the labels."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.by_image import LabelsOnDisk
from pipeline.trail import machine_runs, people_rows, reverted
from pipeline.workspace import Workspace

HISTORY = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("who", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("probability", pa.float64()),
        pa.field("rho", pa.float64()),
        pa.field("run_key", pa.string()),
        pa.field("lead_time_s", pa.float64()),
    ]
)
"""One row per thing that was said against a given label: by a run, whose relabel was `applied`, `suggested` or
`reverted`, with its q and ρ; or by a reviewer or an auditor, whose `outcome` is that of `pipeline.trail.people`, or
`withdrawn`. Runs come first, then people, each in their order."""

_OF_RUN = ("sample_id", "at", "model_version", "suggestion", "suggestion_probability", "rho", "run_key", "applied")


def history_rows(workspace: Workspace, labels: LabelsOnDisk) -> Iterator[dict[str, Any]]:
    """The rows of `HISTORY` about those of `labels` that are not the given ones."""
    undone = reverted(workspace)
    for run in reversed(machine_runs(workspace)):
        found = pq.read_table(run.path, columns=list(_OF_RUN), filters=[("decision", "==", "relabel")])
        for batch in found.to_batches(max_chunksize=2_000):
            for row in batch.to_pylist():
                if labels.is_changed(row["sample_id"]):
                    applied = "applied" if row["applied"] else "suggested"
                    yield {
                        "sample_id": row["sample_id"],
                        "at": row["at"],
                        "who": row["model_version"],
                        "label": row["suggestion"],
                        "outcome": "reverted" if run.run_key in undone else applied,
                        "probability": row["suggestion_probability"],
                        "rho": row["rho"],
                        "run_key": row["run_key"],
                        "lead_time_s": None,
                    }
    for row in people_rows(workspace):
        if row["outcome"] != "voted" and labels.is_changed(row["sample_id"]):
            gone = row["withdrawn_at"] is not None
            yield {
                "sample_id": row["sample_id"],
                "at": row["withdrawn_at"] if gone else row["updated_at"],
                "who": row["annotator"],
                "label": row["label"],
                "outcome": "withdrawn" if gone else row["outcome"],
                "probability": None,
                "rho": None,
                "run_key": row["asked_by_run"],
                "lead_time_s": row["lead_time_s"],
            }
