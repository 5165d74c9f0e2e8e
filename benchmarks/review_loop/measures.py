"""Figures of whole runs: all rounds of one policy on one pool, in order.

A run is a list of `RoundRow` of one (cell, seed, policy), round 1 first.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from benchmarks.review_loop.rows import RoundRow

Run = list[RoundRow]


def runs_of(rows: Iterable[RoundRow]) -> dict[tuple[str, int, str], Run]:
    """(cell, seed, policy) → its rounds, as far as they follow each other from the first."""
    found: dict[tuple[str, int, str], Run] = {}
    for row in sorted((row for row in rows if row.error is None), key=lambda row: row.round):
        run = found.setdefault((row.cell, row.seed, row.policy), [])
        if row.round == len(run) + 1:
            run.append(row)
    return {key: run for key, run in found.items() if run}


def curve(run: Run, *, suggested: bool = False) -> list[float]:
    """Share of right labels after C, C + 1, … reviews; where a new model comes, its labels count.

    suggested: with the model's suggestions taken for whatever is open.
    """
    values: list[float] = []
    for row in run:
        steps = (row.suggested if suggested else row.handed) or []
        values = [*values[:-1], *steps]  # the last answer of a round and the next model's labels are one point
    return values


def area(values: Sequence[float], reviews: int) -> float:
    """Mean height of the curve over the first `reviews` reviews (trapezoids); a curve that ends goes on as it ended."""
    values = [*values, *[values[-1]] * max(0, reviews + 1 - len(values))][: reviews + 1]
    if reviews == 0:
        return values[0]
    return sum((before + after) / 2 for before, after in pairwise(values)) / reviews


def reviews_to_reach(values: Sequence[float], share: float, audited: int) -> int | None:
    """Reviews, `audited` among them, from which on the curve stays at `share` or above; None where it does not."""
    below = [place for place, value in enumerate(values) if value < share - 1e-12]
    first = below[-1] + 1 if below else 0
    return audited + first if first < len(values) else None


def precision(run: Run, share: float, *, targeted: bool = False) -> float | None:
    """Of the first `share` of the N labels that were asked about: how many were really wrong.

    targeted: of the targeted questions alone. None where fewer were asked.
    """
    asked = [
        wrong
        for row in run
        for wrong, asked_as in zip(row.wrong or (), row.asked_as or (), strict=True)
        if not targeted or asked_as == "targeted"
    ]
    wanted = max(1, round(share * run[0].samples))
    return sum(asked[:wanted]) / wanted if len(asked) >= wanted else None


def promise_kept(row: RoundRow) -> bool | None:
    """Whether at least the promised share of the changed labels is right; None where nothing is changed."""
    changed, right = changed_labels(row)
    if not changed or row.target_precision is None:
        return None
    return right >= row.target_precision * changed


def changed_labels(row: RoundRow) -> tuple[int, int]:
    """(Labels changed by the machine, how many of them rightly): all that are handed out so, where any are, and else
    those that ρ would change after this round's model."""
    if row.standing is not None and row.standing_right is not None:
        return sum(label >= 0 for label in row.standing), row.standing_right
    return row.changed or 0, row.changed_right or 0


def noise_by(run: Run, kind: str) -> float | None:
    """The share of wrong labels among all N, as estimated from the answers of a run.

    `audits`: of all that were drawn at random, taken together. `rounds`: each round's slice stands for what was open
    when it was drawn, and what was decided before is counted; the mean over slices by their size. `everything`: of all
    answers, targeted ones too.
    """
    start, first = run[0], run[0].noise_at_random
    if first is None:
        return None
    known = first * start.audited
    asked = [(row, *_split(row)) for row in run]
    if kind == "everything":
        return (known + sum(sum(a) + sum(t) for _, a, t in asked)) / (
            start.audited + sum(len(a) + len(t) for _, a, t in asked)
        )
    if kind == "audits":
        return (known + sum(sum(a) for _, a, _ in asked)) / (start.audited + sum(len(a) for _, a, _ in asked))
    total, weight, decided = first * start.audited, float(start.audited), known
    for row, audits, targeted in asked:
        if audits:
            rate = sum(audits) / len(audits)
            total += (decided + rate * (row.samples - row.spent)) / row.samples * len(audits)
            weight += len(audits)
        decided += sum(audits) + sum(targeted)
    return total / weight


def _split(row: RoundRow) -> tuple[list[bool], list[bool]]:
    """Whether the answer contradicts the label: (of audits, of all other questions)."""
    pairs = list(zip(row.contradicted or (), row.asked_as or (), strict=True))
    return [c for c, why in pairs if why == "audit"], [c for c, why in pairs if why != "audit"]
