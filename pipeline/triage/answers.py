"""The reviewers' answers so far: the rows of `labels.parquet` that triage reads, and no more of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Answers: TypeAlias = pa.Table | Path
"""Rows of `labels.parquet` (`schema.LABELS`), or the file itself."""


def review_answers(answers: Answers, columns: Sequence[str]) -> pa.Table:
    """Of the answers with origin `review` that were not skipped, these columns."""
    finished = (pc.field("origin") == "review") & ~pc.field("was_cancelled")
    if isinstance(answers, Path):
        return pq.read_table(answers, columns=list(columns), filters=finished)
    return answers.filter(finished).select(columns)
