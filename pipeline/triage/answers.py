"""The reviewers' answers so far: the rows of `labels.parquet` that triage reads, and no more of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.records import AnswerKind

OPINIONS: tuple[AnswerKind, ...] = ("class", "unusable", "not_sure")
"""Answers that say something of the image."""
Answers: TypeAlias = pa.Table | Path
"""Rows of `labels.parquet` (`schema.LABELS`), or the file itself."""


def review_answers(answers: Answers, columns: Sequence[str]) -> pa.Table:
    """Of the answers with origin `review` that were not skipped, these columns."""
    finished = (pc.field("origin") == "review") & ~pc.field("was_cancelled")
    if isinstance(answers, Path):
        return pq.read_table(answers, columns=list(columns), filters=finished)
    return answers.filter(finished).select(columns)


def drawn_at_random(answers: Answers) -> set[str]:
    """Samples that somebody has looked at because chance said so: what settles them will estimate.

    Those of the audit project and ground truth of the labels project are among them
    (`pipeline.snapshot.consensus.decide`).
    """
    # Anybody can star an answer in the queue, too: that says nothing of why it was asked.
    starred = (pc.field("origin") == "labels") & pc.field("ground_truth")
    by_chance = (pc.field("origin") == "audit") | starred | (pc.field("asked_as") == "audit")
    said = by_chance & pc.field("answer").isin(OPINIONS)
    if isinstance(answers, Path):
        table = pq.read_table(answers, columns=["sample_id"], filters=said)
    else:
        table = answers.filter(said)
    return set(table["sample_id"].to_pylist())
