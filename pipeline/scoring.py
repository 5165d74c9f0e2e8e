"""Scores: what the model says of every noisy sample, as rows of `scores.parquet`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasten_model.labelled import LabelledImages
from fasten_model.model import Model
from fasten_model.scoring import DECISIONS, Decision
from fasten_model.scoring import score as score_labels
from pipeline.errors import DataError
from pipeline.records import Mode
from pipeline.schema import SCORES

FEATURES_FILE = "features.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a model says of N noisy samples."""

    table: pa.Table
    """One row a sample, in their order (columns: `pipeline.schema.SCORES`)."""
    features: Tensor
    """float16 [N,D]: what the trunk sees of each, of length 1: the scalar product tells which images are alike."""


def score(
    model: Model,
    noisy: LabelledImages,
    *,
    target_precision: float,
    model_version: str,
    rho: float | None = None,
    mode: Mode = "suggest",
) -> Scored:
    """Judge every noisy sample, in one pass over the images.

    `noisy.labels` are indices into the model's classes; `rho` is the model's own unless given. The priority is the
    probability that the label handed out is wrong: in mode `suggest` the given one, in mode `auto` that of a relabel.
    """
    names = model.classes
    found = score_labels(
        model,
        noisy.images,
        noisy.labels,
        rho=rho,
        target_precision=target_precision,
        annotators=noisy.annotators,
        votes=noisy.votes,
        sample_ids=noisy.sample_ids,
        with_features=True,
    )
    assert found.features is not None
    table = pa.table(
        {
            "sample_id": list(noisy.sample_ids),
            "given_label": _named(names, noisy.labels.tolist()),
            "suggested_label": _named(names, found.suggested.tolist()),
            "model_label": _named(names, found.guess.tolist()),
            "model_label_probability": found.guess_probability.numpy(),
            "confidence": found.confidence.numpy(),
            "given_label_probability": found.given_label_probability.numpy(),
            "error_probability": found.error_probability.numpy(),
            "posterior": found.posterior.to(torch.float32).tolist(),
            "decision": [DECISIONS[code] for code in found.decisions.tolist()],
            "priority": found.priority(mode == "auto").numpy(),
            "model_version": [model_version] * len(noisy),
        },
        schema=SCORES,
    )
    return Scored(table=table, features=found.features)


def _named(names: Sequence[str], indices: list[int]) -> list[str]:
    return [names[index] for index in indices]


def write_scores(scores: pa.Table, path: Path) -> None:
    """Write `scores` whole or not at all."""
    _write(path, lambda staged: pq.write_table(scores, staged, compression="zstd"))


def features_path(scores_path: Path) -> Path:
    """Where the features of scored samples lie: beside the scores."""
    return scores_path.with_name(FEATURES_FILE)


def write_features(features: Tensor, path: Path) -> None:
    """Write `Scored.features` as a NumPy file, whole or not at all."""

    def write(staged: Path) -> None:
        with staged.open("wb") as file:  # given a name, NumPy would add an ending to it
            np.save(file, features.numpy(), allow_pickle=False)

    _write(path, write)


def read_features(path: Path, *, rows: int) -> NDArray[np.float16] | None:
    """The features, [rows, D]; None where there are none, as in runs of earlier versions.

    Raises `DataError` where the file is none of so many samples.
    """
    try:
        features: NDArray[np.float16] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable NumPy file ({str(error).splitlines()[0]}): score again") from None
    if getattr(features, "ndim", 0) != 2 or features.dtype != np.float16 or len(features) != rows:
        raise DataError(f"{path} does not hold the features of {rows} samples: score again")
    return features


def _write(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def read_scores(path: Path) -> pa.Table:
    """The rows of a `scores.parquet`; raises `DataError` in one line where the file is missing or not one."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: score the labels first (`fasten score`)") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]})") from None
    missing = [name for name in SCORES.names if name not in table.column_names]
    if missing:
        raise DataError(f"{path} is no scores file: it has no column {missing[0]!r}")
    return table.select(SCORES.names)


def is_scores_file(path: Path) -> bool:
    """Whether the file at `path` has the columns of `scores.parquet`."""
    try:
        return set(SCORES.names) <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return False


def decisions_of(scores: pa.Table) -> list[Decision]:
    """The column of decisions."""
    decisions: list[Decision] = scores["decision"].to_pylist()
    return decisions
