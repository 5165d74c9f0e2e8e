"""What is wanted of the method on a GPU, and whether a figure reaches it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results import Row
from benchmarks.step_cost import TWO_PASSES, StepCost
from benchmarks.throughput import BARE, Throughput
from fasten_model.presets import find_preset

PAPER_SECONDS, PAPER_EPOCHS = 240, find_preset("paper").epochs
FAST_SECONDS, FAST_EPOCHS = 30, find_preset("fast").epochs
STEP_OVERHEAD = 0.05
SCORING_SHARE = 0.9
CIFAR_10 = ("cifar10", "cifar10n")
"""The data set that the times and accuracies are of."""
PAPERS_ACCURACY = {"sym:0.2": 91.94, "sym:0.4": 90.07, "sym:0.6": 86.78, "sym:0.8": 79.52, "asym:0.2": 92.29,
                   "asym:0.4": 90.43}  # fmt: skip
"""FasTEN on CIFAR-10, %, five runs (Kye et al., ECCV 2022): on the original images; ours are re-encoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One figure beside what it should be."""

    what: str
    wanted: str
    found: str
    verdict: str
    """`reached`, `missed`, or `not judged`, with the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The trainings of one preset under one noise."""

    title: str
    """“paper, sym:0.4”."""
    dataset: str
    noise: str
    epochs: int
    floor: float
    """Seconds that the arithmetic takes at the least."""
    device: str
    rows: Sequence[Row]
    tiny: bool = False

    def seconds(self) -> float:
        """Median over the seeds: the first also pays for what CUDA sets up once."""
        return statistics.median(row.seconds or 0.0 for row in self.rows)

    def time(self) -> str:
        """With the floor beside it."""
        seconds = self.seconds()
        return (
            f"{seconds:.1f} s (n {len(self.rows)}), {seconds / self.floor:.1f} × the floor of {self.floor:.3g} s, on "
            f"{self.device}"
        )

    def unlike(self, epochs: int) -> str | None:
        """Why this is not the work that the target is of; None where it is."""
        if self.tiny:
            return "in miniature"
        if self.dataset not in CIFAR_10:
            return f"the target is of CIFAR-10, this is {self.dataset}"
        return None if self.epochs == epochs else f"the target is of {epochs} epochs, these are {self.epochs}"


def paper_target(trained: Trained) -> Target | None:
    """The paper's preset in four minutes. None where no training has ended yet."""
    if not trained.rows:
        return None
    return Target(
        what=f"{trained.title}: {trained.epochs} epochs",
        wanted=f"at most {PAPER_SECONDS} s on one H200, {PAPER_EPOCHS} epochs",
        found=trained.time(),
        verdict=_verdict(trained.seconds() <= PAPER_SECONDS, but=trained.unlike(PAPER_EPOCHS)),
    )


def fast_target(trained: Trained) -> Target | None:
    """The paper's accuracy in half a minute. None where no training has ended yet."""
    if not trained.rows:
        return None
    stated = PAPERS_ACCURACY.get(trained.noise)
    accuracy = 100 * statistics.fmean(row.accuracy_last or 0.0 for row in trained.rows)
    why = trained.unlike(FAST_EPOCHS)
    if stated is None:
        why = why or f"the paper states none for {trained.noise}"
    return Target(
        what=f"{trained.title}: the paper's accuracy",
        wanted=f"{'its accuracy' if stated is None else f'{stated:.2f} %'} in at most {FAST_SECONDS} s",
        found=f"{accuracy:.2f} % in {trained.time()}",
        verdict=_verdict(accuracy >= (stated or 0.0) and trained.seconds() <= FAST_SECONDS, but=why),
    )


def step_targets(title: str, costs: Sequence[StepCost], *, tiny: bool) -> list[Target]:
    """Each method's step at each size of clean batch."""
    wanted = f"at most 1 + B_clean/B_noisy + {100 * STEP_OVERHEAD:.0f} %"
    return [
        Target(
            what=f"{title}: {cost.method}, {cost.clean_batch} clean beside {cost.noisy_batch} noisy",
            wanted=f"{wanted} = {cost.bound * (1 + STEP_OVERHEAD):.3f} × plain CE",
            found=f"{cost.ratio}, {100 * cost.overhead:+.1f} % above {cost.bound:.3f}",
            verdict=_verdict(cost.overhead <= STEP_OVERHEAD, but="in miniature" if tiny else None),
        )
        for cost in costs
        if cost.method != TWO_PASSES
    ]


def scoring_targets(title: str, found: Sequence[Throughput], *, tiny: bool) -> list[Target]:
    """Each way of scoring."""
    return [
        Target(
            what=f"{title}: {each.name}",
            wanted=f"at least {SCORING_SHARE:.2f} of the bare forward pass",
            found=f"{each.share}, {each.images_per_second:,.0f} images/s",
            verdict=_verdict(each.share.median >= SCORING_SHARE, but="in miniature" if tiny else None),
        )
        for each in found
        if each.name != BARE
    ]


def _verdict(reached: bool, *, but: str | None) -> str:
    if but is not None:
        return f"not judged: {but}"
    return "reached" if reached else "missed"
