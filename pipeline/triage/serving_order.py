"""The place of each question in the queue, so that a reviewer who stops half-way has done half of everything."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipeline.records import ReviewTask

STEP = 1e-6
"""Least distance between the ranks of two questions of a batch."""


def ranked(
    first: Iterable[ReviewTask], best: Sequence[tuple[ReviewTask, float]], *spread: Sequence[ReviewTask]
) -> tuple[ReviewTask, ...]:
    """All of them with their ranks, 0–1, in the order of serving.

    `first` come first. Those of `best` follow, each with its worth (0–1), the most valuable first, and each group of
    `spread` is spread evenly among them. The rank of a targeted question is 1 − worth, whatever else is in the batch:
    what is left over from an earlier batch keeps its place among the new ones.
    """
    groups: list[list[tuple[ReviewTask, float]]] = [
        [*best],
        *([(task, 1.0) for task in group] for group in spread),
    ]
    placed = [
        ((number + 0.5) / len(group), -which, number, *one)
        for which, group in enumerate(groups)
        for number, one in enumerate(group)
    ]
    placed.sort(key=lambda place: place[:3])
    rank, served = -STEP, []
    for task, worth in [*((task, 1.0) for task in first), *(place[3:] for place in placed)]:
        rank = max(rank + STEP, 1 - worth)
        served.append(replace(task, rank=min(1.0, rank)))
    return tuple(served)
