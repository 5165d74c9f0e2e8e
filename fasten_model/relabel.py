"""From which confidence on labels are changed without asking anybody, so that a promised share of the changes is right.

A relabel is suggested where argmax q is not the given label; it is made where max q ≥ ρ. What q says of its own
precision cannot be taken at its word: a class-conditional T is wrong for labels whose errors depend on the image, as
people's do, and then q is over-confident. What counts is how often suggestions are right on pairs: samples audited at
random that have their bulk label, too, judged by a model that was trained on that label, as on every other of the bulk,
and never told the true one. ρ is found by *Learn then Test* (Angelopoulos, Bates, Candès, Jordan, Lei, 2021): a
sequence of values of ρ, fixed before looking at what is right, each tested against “the precision is below the target”;
the first that passes no longer ends it (fixed-sequence testing), so that however many are tried, a value that breaks
the promise is accepted with a probability of at most 1 − certainty.

Shapes: N samples, n suggestions among them, K classes.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fasten_model.binomial import lower_bound, tries_needed, upper_bound
from fasten_model.learn_then_test import lowest_passing, share_left, stricter
from fasten_model.recalibrate import expected_precision

TARGET_PRECISION = 0.95
"""Share of the changed labels that are to be right."""
CERTAINTY = 0.9
"""Probability that a chosen ρ keeps that promise."""
NEVER = 2.0
"""The ρ that nothing reaches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RhoChoice:
    """A threshold ρ and what to expect of the relabels that it lets through."""

    rho: float
    """Change a label where max q ≥ ρ. `NEVER`: no ρ keeps the promise."""
    per_class: tuple[float, ...] | None
    """ρ by the class that is suggested, [K], where some class has one of its own; `rho` is that of the others."""
    target_precision: float | None
    """The precision that ρ was chosen for; None: ρ was set by hand."""
    certainty: float
    """Probability with which a ρ that breaks the promise is not chosen; that of `promised_precision`."""
    promised_precision: float | None
    """Lower bound of the precision (Clopper and Pearson) at this ρ, at least the target where ρ was chosen for one;
    where classes have their own ρ, the lowest of all. None where nothing is relabelled, or no pair tells."""
    expected_precision: float | None
    """What the precision is on average, given the pairs and q (`fasten_model.recalibrate`): no promise."""
    coverage: float
    """Share of the bulk labels that are changed."""
    pairs: int
    """Held-out pairs that ρ would have changed the label of: the held-out relabels."""
    pairs_right: int
    """Those of them that it would have set right."""
    pairs_doubted: int
    """Held-out pairs whose label q doubts, at whatever confidence."""
    pairs_held_out: int
    """All held-out pairs."""
    pairs_needed: int
    """How many more held-out relabels, all of them right, the first test would have taken; 0 where it passed, or where
    no bulk label is doubted."""
    reviewed: int = 0
    """Bulk labels that people changed where a model had doubted them, since the oldest of the pairs was drawn: by them
    the test is stricter (`choose_rho`)."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Every ρ there is: those of the classes, or the one of all."""
        return self.per_class or (self.rho,)

    def sentence(self) -> str:
        """The choice in one line, for people."""
        if all(rho >= NEVER for rho in self.thresholds):
            return self._nothing()
        if self.expected_precision is None:
            return f"relabels from {_shown(min(self.thresholds))} on; there is nothing to relabel"
        if self.target_precision is None:
            promise = " (set by hand)"
        else:
            promise = f": at least {_percent(self.target_precision)} right, {_percent(self.certainty)} certain"
        classes = " (classes differ)" if self.per_class else ""
        return (
            f"relabels from {_shown(min(self.thresholds))} on{classes}{promise}; expected precision "
            f"{_percent(self.expected_precision)} ({self.pairs_right} of {self.pairs} held-out relabels "
            f"right{self._allowed_for()}), {_percent(self.coverage)} of labels"
        )

    def _nothing(self) -> str:
        if self.target_precision is None:
            return "relabels nothing, as it was set"
        if self.pairs_needed == 0 and self.pairs_held_out:
            return "relabels nothing: the model doubts none of the labels"
        if self.pairs_held_out == 0:
            return (
                "relabels nothing: no held-out audited sample has its bulk label (where annotators are told "
                "apart: by one of the bulk's), so nothing can be promised"
            )
        more = ""
        if self.pairs_needed and self.pairs_doubted:
            pairs = math.ceil(self.pairs_needed * self.pairs_held_out / self.pairs_doubted)
            more = f", about {pairs} more held-out pairs"
        return (
            f"relabels nothing: {self.pairs_doubted} suggestions on {self.pairs_held_out} held-out pairs do not "
            f"promise that {_percent(self.target_precision)} are right ({_percent(self.certainty)} "
            f"certain{self._allowed_for()}); "
            f"that takes at least {self.pairs_needed} more, all of them right{more}"
        )

    def _allowed_for(self) -> str:
        return f", the {self.reviewed} changed in reviews allowed for" if self.reviewed else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestions:
    """The samples whose label q would change, as far as ρ is concerned."""

    confidence: Tensor
    """float64 [n]: max q."""
    suggested: Tensor
    """int64 [n]: argmax q."""
    right: Tensor
    """bool [n]: argmax q is the true class. Empty where that is not known."""
    of: int
    """Samples looked at, those with no suggestion included."""
    taken: Tensor | None = None
    """int64 [n,K], of pairs: how many bulk labels people have changed into each class where a model had doubted them,
    since the pair was drawn. None: none."""

    def where(self, chosen: Tensor) -> "Suggestions":
        """Those at `chosen`, bool [n]."""
        return replace(
            self,
            confidence=self.confidence[chosen],
            suggested=self.suggested[chosen],
            right=self.right[chosen] if len(self.right) else self.right,
            taken=None if self.taken is None else self.taken[chosen],
        )

    def taken_of(self, classes: Tensor | slice) -> Tensor:
        """int64 [n]: those of `taken` that came to `classes`: their places, or bool [K]."""
        if self.taken is None:
            return torch.zeros(len(self.confidence), dtype=torch.int64)
        return self.taken[:, classes].sum(dim=1)

    def reaching(self, thresholds: Tensor) -> "Suggestions":
        """Those that are made under thresholds ρ float64 [K], or [1] for all classes alike."""
        return self.where(self.confidence >= thresholds[self.suggested if len(thresholds) > 1 else 0])


def suggestions(
    posterior: Tensor, given_labels: Tensor, true_labels: Tensor | None = None, *, taken: Tensor | None = None
) -> Suggestions:
    """The samples with argmax q ≠ given: posterior q [N,K], given_labels int64 [N], true_labels int64 [N] if known.

    taken: int64 [N,K], as in `Suggestions`.
    """
    q = posterior.detach().double().cpu()
    given = given_labels.cpu()
    confidence, best = q.max(dim=1) if len(q) else (q.new_empty(0), given.new_empty(0))
    changed = (best != given) & (given >= 0)
    right = torch.empty(0, dtype=torch.bool) if true_labels is None else (best == true_labels.cpu())[changed]
    return Suggestions(
        confidence=confidence[changed],
        suggested=best[changed],
        right=right,
        of=len(q),
        taken=None if taken is None else taken[changed],
    )


def choose_rho(
    bulk: Suggestions,
    pairs: Suggestions,
    target_precision: float,
    *,
    certainty: float = CERTAINTY,
    num_classes: int | None = None,
) -> RhoChoice:
    """The lowest ρ with at least `target_precision` of the relabels right, by fixed-sequence testing.

    At each ρ of a sequence the null hypothesis is that relabels are right with a probability below the target; the
    pairs that reach it reject that where their number of errors is small enough by the exact binomial tail, that is,
    where the lower bound of Clopper and Pearson reaches the target. ρ is the last value before the first failure
    (`fasten_model.learn_then_test`). Where the pairs are too few for any, nothing is relabelled.

    With `num_classes` ρ may differ by the class that is suggested. Classes with so many pairs of their own that they
    would pass if they made half of the errors that the target allows have their own sequence, and so have the others
    together, each at a level of (1 − certainty) / number of sequences: with the probability `certainty` *all* of them
    keep the promise, each class with its own ρ for itself, the other classes as a whole. Which are split off depends
    on counts of pairs alone. A class without its own sequence whose pairs contradict the promise (upper bound of its
    precision below the target, at a level of (1 − certainty) / K) is never relabelled: the others only gain by that.

    bulk: the labels that ρ is for. pairs: held-out samples, audited at random; neither the model that judged one nor
    the T of its q was told its truth. What people have changed since a pair was drawn, where a model had doubted it
    (`Suggestions.taken`), was part of what the pair stands for, and what is left is harder. How much harder is not
    known, but not by more than this: each was right to be changed, and every suggestion that is wrong is still there.
    So pairs that d labels were changed after must be right more often, 1 − (1 − t)·r/(r + d) where r suggestions are
    left (`learn_then_test.stricter`), and a share t of those r is right whichever questions people answered. Labels
    changed in the labels project itself, and questions that wait for an answer, are not known here.

    The promise is as good as pairs are like the bulk, and some things are not quite: the weights of q, and those that
    training corrected by, were fitted to the pairs; of several models each pair is judged by one, the bulk by the mean
    of all, which were told the truth of each other's pairs. How well the promise is kept in spite of that is measured,
    with one model (`benchmarks/relabel_precision.py`) and with several (`benchmarks/review.py`); and a few of the
    changed labels are still asked about (questions asked as `check`).
    """
    level = 1 - certainty
    sequence_of = torch.zeros(num_classes or 1, dtype=torch.int64)
    if num_classes is not None:
        sequence_of = _sequences(bulk, pairs, target_precision, level, num_classes)
    sequences = sorted(set(sequence_of.tolist()))
    level_of_each = level / len(sequences)
    thresholds = torch.full(sequence_of.shape, NEVER, dtype=torch.float64)
    promised, lacking = [], []
    for sequence in sequences:
        members = sequence_of == sequence
        tested, left = pairs.where(_of(members, pairs)), bulk.confidence[_of(members, bulk)]
        taken = tested.taken_of(members if num_classes is not None else slice(None))
        lowest, lacked = lowest_passing(
            left, tested.confidence, tested.right, target_precision, level_of_each, taken=taken
        )
        thresholds[members] = NEVER if lowest is None else lowest
        lacking.append(lacked)
        if lowest is not None:
            reach = tested.confidence >= lowest
            bound = lower_bound(int(tested.right[reach].sum()), int(reach.sum()), level_of_each)
            promised.append(_of_what_is_left(bound, int((left >= lowest).sum()), taken[reach]))
    common = sequence_of == 0
    rho = float(thresholds[common][0]) if common.any() else NEVER
    if num_classes is not None:
        thresholds[common & _contradicted(pairs, rho, target_precision, level / num_classes, num_classes)] = NEVER
    choice = _choice(rho, thresholds, bulk, pairs, promised=min(promised, default=None), certainty=certainty)
    return replace(
        choice,
        target_precision=target_precision,
        pairs_needed=min(lacking) if len(bulk.confidence) else 0,
    )


def judge_rho(rho: float, bulk: Suggestions, pairs: Suggestions, *, certainty: float = CERTAINTY) -> RhoChoice:
    """What to expect of a ρ that somebody has set."""
    rho = rho if rho <= 1 else NEVER
    tried, left = pairs.where(pairs.confidence >= rho), int((bulk.confidence >= rho).sum())
    promised = None
    if len(tried.right) and left:
        bound = lower_bound(int(tried.right.sum()), len(tried.right), 1 - certainty)
        promised = _of_what_is_left(bound, left, tried.taken_of(slice(None)))
    return _choice(rho, torch.tensor([rho], dtype=torch.float64), bulk, pairs, promised=promised, certainty=certainty)


def _choice(
    rho: float,
    thresholds: Tensor,
    bulk: Suggestions,
    pairs: Suggestions,
    *,
    promised: float | None,
    certainty: float,
) -> RhoChoice:
    changed, tried = bulk.reaching(thresholds), pairs.reaching(thresholds)
    return RhoChoice(
        rho=rho,
        per_class=None if (thresholds == rho).all() else tuple(thresholds.tolist()),
        target_precision=None,
        certainty=certainty,
        promised_precision=promised,
        expected_precision=expected_precision(changed.confidence, pairs.confidence, pairs.right),
        coverage=len(changed.confidence) / max(1, bulk.of),
        pairs=len(tried.right),
        pairs_right=int(tried.right.sum()),
        pairs_doubted=len(pairs.right),
        pairs_held_out=pairs.of,
        pairs_needed=0,
        reviewed=int(pairs.taken_of(slice(None)).max()) if len(pairs.right) else 0,
    )


def _of_what_is_left(precision: float, left: int, taken: Tensor) -> float:
    """The least precision of the suggestions `left`, given that of pairs (`learn_then_test.stricter`, turned round)."""
    share = share_left(left, taken)
    return precision if share == 1 else max(0.0, 1 - (1 - precision) / share)


def _of(members: Tensor, suggested: Suggestions) -> Tensor:
    """bool [n]: which suggest one of the classes `members`, bool [K] ([1]: all alike)."""
    return members[suggested.suggested if len(members) > 1 else torch.zeros_like(suggested.suggested)]


def _sequences(bulk: Suggestions, pairs: Suggestions, target: float, level: float, num_classes: int) -> Tensor:
    """int64 [K]: 0 for the classes that are tested together, and a number each for those that are tested alone."""
    counts = torch.bincount(pairs.suggested, minlength=num_classes)
    doubted = torch.bincount(bulk.suggested, minlength=num_classes)

    def target_of(classes: Tensor) -> float:
        theirs = pairs.where(torch.isin(pairs.suggested, classes))
        return stricter(target, int(doubted[classes].sum()), theirs.taken_of(classes))

    def ample(classes: Tensor, share: float) -> bool:
        return int(counts[classes].sum()) >= _ample_pairs(target_of(classes), share)

    # Fewer pairs than one test alone would take are never ample: with many classes, most need no closer look.
    needed = torch.tensor([tries_needed(target_of(each), level) for each in torch.arange(num_classes)[:, None]])
    order = (counts / needed).argsort(descending=True, stable=True)
    sequence_of = torch.zeros(num_classes, dtype=torch.int64)
    for alone in range(int((counts >= needed).sum()), 0, -1):
        own, others = order[:alone], order[alone:]
        together = bool(doubted[others].any())
        share = level / (alone + together)
        if all(ample(each, share) for each in own[:, None]) and (not together or ample(others, share)):
            sequence_of[own] = torch.arange(1, alone + 1)
            break
    return sequence_of


def _ample_pairs(target: float, level: float) -> int:
    """The fewest pairs that pass the test with half of the errors that the target allows."""
    failures = 0
    while failures < (tries := tries_needed(target, level, failures=failures)) * (1 - target) / 2:
        failures += 1
    return tries


def _contradicted(pairs: Suggestions, rho: float, target: float, level: float, num_classes: int) -> Tensor:
    """bool [K]: the classes whose own pairs that reach ρ are right too seldom for the promise."""
    reached = pairs.where(pairs.confidence >= rho)
    tries = torch.bincount(reached.suggested, minlength=num_classes).tolist()
    right = torch.bincount(reached.suggested[reached.right], minlength=num_classes).tolist()
    return torch.tensor([upper_bound(k, n, level) < target for k, n in zip(right, tries, strict=True)])


def _shown(rho: float) -> str:
    """With the digits that tell it from 1: 0.93, 0.9981, 0.99998."""
    digits = 2 if rho < 0.99 else 4
    while rho < 1 and float(f"{rho:.{digits}f}") == 1:
        digits += 1
    return f"{rho:.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
