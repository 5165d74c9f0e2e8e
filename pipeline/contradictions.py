"""Which decisions of people the model contradicts most: what a second person should look at, when asked for."""

import os
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fasten_model.labelled import LabelledImages
from fasten_model.model import Model
from fasten_model.posterior import posterior
from pipeline.errors import DataError
from pipeline.trail import asked_rows
from pipeline.workspace import Workspace

PERSON_RIGHT = 0.95
"""How often a person's decision is right, before the model is heard."""

CONTRADICTIONS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image_url", pa.string()),
        pa.field("label", pa.string(), nullable=False),
        pa.field("provenance", pa.string(), nullable=False),
        pa.field("auditor", pa.string(), nullable=False),
        pa.field("model_label", pa.string(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("error_probability", pa.float64(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
    ]
)
"""One row per decided sample. `label` is the decision; `model_label` the class with the largest posterior, which is
its `probability`; `error_probability` that the decision is wrong."""


FILE = "contradictions.parquet"


def contradictions(
    model: Model, clean: LabelledImages, rows: pa.Table, *, model_version: str, person_right: float = PERSON_RIGHT
) -> pa.Table:
    """What the model says of every decision in `clean`, the most contradicted first (columns: `CONTRADICTIONS`).

    Image and annotators' label give q as for any noisy sample, and the decision is one more opinion, right with
    probability a = `person_right` and otherwise any other class: it is wrong with probability
    1 − a·q[label] / (a·q[label] + (1−a)/(K−1)·(1 − q[label])). The model has mostly been trained on these very
    decisions and so contradicts fewer of them than it should: what comes first is worth a look, what comes last is not
    confirmed. Audits that were held out trained with the label they had before: one that set a wrong label right comes
    a little too early.

    rows: the snapshot's clean samples (`pipeline.schema.CLEAN`), for what `clean` does not know of them.
    """
    table = rows.select(["sample_id", "image_url", "provenance", "auditor"])
    known = {row["sample_id"]: row for row in table.to_pylist()}
    p = model.predict_probabilities(clean.images).double()
    q = posterior(p, model.transition.to(p), clean.given_labels, model.evidence)  # [N, K]
    decided = q.gather(1, clean.labels[:, None]).squeeze(1)
    mistaken = (1 - person_right) / (len(model.classes) - 1) * (1 - decided)
    wrong = mistaken / (mistaken + person_right * decided).clamp(min=torch.finfo(p.dtype).tiny)
    probability, guess = q.max(dim=1) if len(q) else (q.new_empty(0), clean.labels)
    found = [
        {
            **known[sample_id],
            "label": model.classes[label],
            "model_label": model.classes[best],
            "probability": share,
            "error_probability": doubt,
            "model_version": model_version,
        }
        for sample_id, label, best, share, doubt in zip(
            clean.sample_ids, clean.labels.tolist(), guess.tolist(), probability.tolist(), wrong.tolist(), strict=True
        )
    ]
    found.sort(key=lambda row: (-row["error_probability"], row["sample_id"]))
    return pa.Table.from_pylist(found, schema=CONTRADICTIONS)


def write_contradictions(table: pa.Table, scores_path: Path) -> None:
    """Write them beside the scores, whole or not at all."""
    staged = scores_path.with_name(f".{FILE}.{os.getpid()}")
    try:
        pq.write_table(table, staged, compression="zstd")
        staged.replace(scores_path.with_name(FILE))
    finally:
        staged.unlink(missing_ok=True)


def contradictions_known(scores_path: Path, workspace: Workspace) -> list[dict[str, Any]]:
    """The rows beside these scores, and for reviews what the model had said when it asked, where that is stronger.

    A model learns from every review, the wrong ones too, and soon agrees. What it said before it knew the answer is an
    opinion of its own. Once a second person has been asked, that opinion has had its say.
    """
    first: dict[str, Mapping[str, Any]] = {}
    settled = set()
    for row in asked_rows(workspace):
        if row["asked_as"] == "recheck":
            settled.add(row["sample_id"])
        elif row["asked_as"] == "targeted" and row["suggestion"] is not None:
            # Files go by run keys, not by time: what a newer model has made of the question is what people answered.
            known = first.setdefault(row["sample_id"], row)
            first[row["sample_id"]] = max(known, row, key=itemgetter("at"))
    rows = _read(scores_path)
    return [
        row if row["provenance"] != "review" or row["sample_id"] in settled else _at_first(row, first) for row in rows
    ]


def _at_first(row: dict[str, Any], first: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    asked = first.get(row["sample_id"])
    now = row["probability"] if row["model_label"] != row["label"] else 0.0
    if asked is None or asked["suggestion"] == row["label"] or asked["confidence"] <= now:
        return row
    # One class against another, as people slip: the decision's own share is at most what the suggestion leaves.
    share = asked["confidence"]
    wrong = (1 - PERSON_RIGHT) * share / ((1 - PERSON_RIGHT) * share + PERSON_RIGHT * (1 - share))
    said = {"model_label": asked["suggestion"], "probability": share, "error_probability": wrong}
    return {**row, **said, "model_version": asked["model_version"]}


def _read(scores_path: Path) -> list[dict[str, Any]]:
    path = scores_path.with_name(FILE)
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, schema=CONTRADICTIONS).to_pylist()
    except FileNotFoundError:
        return []
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}): score again") from None
    return rows
