"""Simulated people: annotators who confuse what looks alike, and a reviewer who is nearly always right.

An annotator is a confusion matrix `C[K,K]`: `C[i, j] = p(says j | truth is i)`, rows sum to 1 (the same
orientation as the transition matrix T). The mistakes are the ones people make with such images, and each
annotator has a few of their own, so that the noise is asymmetric and depends on who labelled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.records import Vote

SECOND_OPINION = 0.25
"""Share of the tasks that two annotators label."""
REVIEWER_ACCURACY = 0.97

Mixups = Mapping[tuple[str, str], float]
"""(truth, said instead) → how often."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotator:
    """One simulated annotator."""

    mixups: Mixups
    """The mistakes that are this annotator's own."""
    slips: float
    """Share of all answers that are any other class, evenly: a wrong key."""

    def confusion(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """`C[K,K]`, rows sum to 1, in the order of `classes`."""
        index = {name: position for position, name in enumerate(classes)}
        matrix = np.eye(len(classes))
        for (truth, said), rate in self.mixups.items():
            matrix[index[truth], index[said]] += rate
            matrix[index[truth], index[truth]] -= rate
        # A slip replaces an answer by one of the other K − 1 classes.
        others = (1.0 - np.eye(len(classes))) / (len(classes) - 1)
        return (1.0 - self.slips) * matrix + self.slips * matrix @ others


DIGIT_ANNOTATORS = (
    # Mixes up what has loops.
    Annotator(
        slips=0.05,
        mixups={
            ("3", "8"): 0.42, ("8", "3"): 0.40, ("5", "6"): 0.40, ("6", "5"): 0.30, ("0", "6"): 0.35, ("9", "8"): 0.36,
            ("2", "3"): 0.20,
        },
    ),
    # Mixes up what is drawn with straight strokes.
    Annotator(
        slips=0.05,
        mixups={
            ("1", "7"): 0.45, ("7", "1"): 0.42, ("4", "9"): 0.45, ("9", "4"): 0.40, ("2", "7"): 0.40, ("5", "3"): 0.34,
        },
    ),
    # In a hurry: a little of everything.
    Annotator(
        slips=0.10,
        mixups={
            ("3", "5"): 0.25, ("8", "9"): 0.30, ("4", "9"): 0.40, ("9", "4"): 0.25, ("1", "7"): 0.35, ("7", "1"): 0.25,
            ("5", "6"): 0.30, ("6", "0"): 0.22, ("2", "3"): 0.25,
        },
    ),
)  # fmt: skip

FASHION_ANNOTATORS = (
    # Tops all look alike.
    Annotator(
        slips=0.07,
        mixups={
            ("Shirt", "T-shirt/top"): 0.45, ("T-shirt/top", "Shirt"): 0.42, ("Pullover", "Coat"): 0.45,
            ("Coat", "Pullover"): 0.42, ("Dress", "Coat"): 0.40,
        },
    ),
    # Shoes all look alike.
    Annotator(
        slips=0.07,
        mixups={
            ("Sandal", "Sneaker"): 0.45, ("Sneaker", "Ankle boot"): 0.45, ("Ankle boot", "Sneaker"): 0.40,
            ("Bag", "Sandal"): 0.30, ("Shirt", "Pullover"): 0.45, ("Trouser", "Dress"): 0.35,
        },
    ),
    # In a hurry: a little of everything.
    Annotator(
        slips=0.13,
        mixups={
            ("Shirt", "Coat"): 0.35, ("Coat", "Shirt"): 0.35, ("Dress", "T-shirt/top"): 0.30,
            ("Sandal", "Sneaker"): 0.30, ("Pullover", "Shirt"): 0.35, ("Ankle boot", "Sneaker"): 0.25,
            ("Trouser", "Dress"): 0.20, ("T-shirt/top", "Shirt"): 0.30,
        },
    ),
)  # fmt: skip


def assign(tasks: int, annotators: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Who labels which task, in order of time: one annotator, or two for `SECOND_OPINION` of the tasks.

    Work is shared evenly, as a labelling team would.
    """
    first = rng.permutation(np.arange(tasks) % annotators)
    twice = (
        set(rng.choice(tasks, size=round(SECOND_OPINION * tasks), replace=False).tolist()) if annotators > 1 else set()
    )
    other = (first + rng.integers(1, max(annotators, 2), size=tasks)) % annotators
    return [(int(first[task]), int(other[task])) if task in twice else (int(first[task]),) for task in range(tasks)]


def simulated_votes(
    truths: Sequence[str], classes: Sequence[str], annotators: Sequence[Annotator], rng: np.random.Generator
) -> list[tuple[Vote, ...]]:
    """The annotators' answers to one task per truth; the same generator state gives the same answers."""
    confusions = [annotator.confusion(classes) for annotator in annotators]
    index = {name: position for position, name in enumerate(classes)}
    return [
        tuple(
            Vote(annotator=who, label=classes[int(rng.choice(len(classes), p=confusions[who][index[truth]]))])
            for who in whom
        )
        for truth, whom in zip(truths, assign(len(truths), len(annotators), rng), strict=True)
    ]


def simulated_reviewer(
    truth: str, classes: Sequence[str], accuracy: float = REVIEWER_ACCURACY, *, rng: np.random.Generator
) -> str:
    """A careful person's answer: `truth`, except in `1 - accuracy` of the cases, when it is any other class."""
    if rng.random() < accuracy:
        return truth
    others = [name for name in classes if name != truth]
    return others[int(rng.integers(len(others)))]
