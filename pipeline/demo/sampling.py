"""What is drawn at random: which tasks, which of them are audited and where, which images are held out."""

import zlib
from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from pipeline.demo.records import AuditPlace

_T = TypeVar("_T")

TASKS_PER_AUDIT = 7
"""One task in seven is audited: 200 of 1,400."""
LEAST_AUDITED_PER_CLASS = 5
MOST_AUDITED = 1_000
"""However many tasks: auditing is the work of one careful person."""


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for each `purpose`, so that one more draw here changes nothing there."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def shuffled(items: Iterable[_T], rng: np.random.Generator) -> list[_T]:
    listed = list(items)
    return [listed[position] for position in rng.permutation(len(listed))]


def audit_size(tasks: int, num_classes: int) -> int:
    """How many of `tasks` are audited: every seventh, more where the classes need it, never over half."""
    wanted = max(tasks // TASKS_PER_AUDIT, LEAST_AUDITED_PER_CLASS * num_classes)
    return min(wanted, max(MOST_AUDITED, LEAST_AUDITED_PER_CLASS * num_classes), tasks // 2)


def audit_places(tasks: int, audited: int, rng: np.random.Generator) -> list[AuditPlace | None]:
    """For each task, where its audit is entered: half of the `audited`, drawn at random, in either place."""
    places: list[AuditPlace | None] = [None] * tasks
    for turn, task in enumerate(rng.permutation(tasks)[:audited]):
        places[task] = "project" if turn % 2 == 0 else "annotation"
    return places
