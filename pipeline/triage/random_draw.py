"""Random slices that no model has a say in: which samples are audited, and which relabels are checked.

Every sample has a place in one fixed random order, a salted hash of its push key and so of (labels project, sample).
The order depends on no model, seed or time: it was drawn before any model was looked at. The slice of a round is the
first m samples in that order that were never asked about, and m depends on the budget alone, not on any score.

**What the answers estimate**: the pool as it stood in that round, all noisy samples never asked about before. Whatever
earlier rounds took out of the pool was chosen by scores and by how the order begins; neither knows how the order goes
on among what is left, so what comes next in it is a simple random sample of what is left. It is no sample of an earlier
round's pool: targeted questions have taken the most doubtful labels out since. Answers of several rounds taken together
stand for something between the first pool and the last. Whoever wants the first pool adds up what people have decided
and what the newest slice says of the rest.

Nothing is taken out of a slice for looking like another sample: that would be the model's choice again.
"""

import hashlib
import math
from collections.abc import Iterable
from typing import Literal

from pipeline.triage.candidates import Open

Draw = Literal["audit slice", "check"]
"""The salt: each draw has an order of its own."""


def place(push_key: str, draw: Draw) -> bytes:
    """Where a sample stands in the random order of a draw; `push_key` is the one of its first question."""
    return hashlib.sha256(f"{draw}\0{push_key}".encode()).digest()


def first(pool: Iterable[Open], count: int, draw: Draw) -> list[Open]:
    """The first `count` of the pool in the order of the draw."""
    return sorted(pool, key=lambda each: place(each.push_key, draw))[: max(0, count)]


def due(share: float, *, before: int, batch: int) -> int:
    """How many of the next `batch` questions are drawn at random, after `before` questions.

    ⌊share·(before + batch)⌋ − ⌊share·before⌋: over any number of batches, however small, the share is kept exactly.
    """
    return _whole(share * (before + batch)) - _whole(share * before)


def _whole(number: float) -> int:
    return math.floor(number + 1e-9)  # 0.29·100 is 28.999…
