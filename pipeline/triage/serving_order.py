"""The place of each question in the queue, so that a reviewer who stops half-way has done half of everything."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipeline.records import ReviewTask

STEP = 1e-6
"""Least distance between the ranks of two questions of a batch."""


def ranked(
    first: Iterable[ReviewTask], best: Sequence[ReviewTask], *spread: Sequence[ReviewTask]
) -> tuple[ReviewTask, ...]:
    """All of them with their ranks, 0–1, in the order of serving.

    `first` come first. Those of `best` follow in the order of their gain, and each group of `spread` is spread evenly
    among them. The rank of a targeted question is 1 − gain, whatever else is in the batch: what is left over from an
    earlier batch keeps its place among the new ones.
    """
    placed = [
        ((number + 0.5) / len(group), -which, number, task)
        for which, group in enumerate((best, *spread))
        for number, task in enumerate(group)
    ]
    placed.sort(key=lambda place: place[:3])
    targeted = {task.push_key for task in best}
    order, rank, served = [*first, *(place[-1] for place in placed)], -STEP, []
    for task in order:
        rank = max(rank + STEP, 1 - task.priority if task.push_key in targeted else 0.0)
        served.append(replace(task, rank=min(1.0, rank)))
    return tuple(served)
