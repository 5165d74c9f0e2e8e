"""Triage: what to keep, what to correct, what a person must look at, and in which order.

The decision is the paper's (section 3.3, eq. 6): a label is corrected to the clean head's class where its confidence
reaches ρ, and otherwise it is the original one. The order is by the probability that this decided label is wrong, from
the posterior `q_i ∝ T[i, given]·p_i`: a review sets one label right exactly where the loop would hand out a wrong one.
So the samples that the model cannot decide come first, and the corrections it is surest of last.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.records import ReviewTask

Decision = Literal["keep", "relabel", "low_confidence"]
DECISIONS: tuple[Decision, ...] = ("keep", "relabel", "low_confidence")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """The triage of N samples, as columns."""

    suggested: NDArray[np.int64]
    """[N] class index: the correction at or above ρ, the given label below it, always."""
    confidence: NDArray[np.float64]
    """[N] largest calibrated probability of the clean head."""
    given_label_probability: NDArray[np.float64]
    """[N] calibrated probability of the given label."""
    error_probability: NDArray[np.float64]
    """[N] probability that the given label is wrong: `1 - q[given]`."""
    priority: NDArray[np.float64]
    """[N] probability that the suggested label is wrong, `1 - q[suggested]`: the labels that one review is expected to
    set right."""
    decisions: tuple[Decision, ...]
    """[N]"""
    guess: NDArray[np.int64]
    """[N] what a reviewer is offered: the correction where there is one, else the most probable class of q."""
    guess_probability: NDArray[np.float64]
    """[N] calibrated probability of the guess: p of a correction, else q."""


def decide(
    probabilities: NDArray[np.float64], posterior: NDArray[np.float64], given: NDArray[np.int64], *, rho: float
) -> Verdicts:
    """Decide label by label.

    `probabilities` [N, K]: calibrated p of the clean head. `posterior` [N, K]: q, which knows the given label too.
    `given` [N]: class index of the given label. The boundary belongs to the model: `max p >= rho` corrects.
    """
    rows = np.arange(len(given))
    top = probabilities.argmax(axis=1)
    confidence = probabilities[rows, top]
    confident = confidence >= rho
    relabel = confident & (top != given)
    decisions: tuple[Decision, ...] = tuple(
        "relabel" if corrected else "keep" if sure else "low_confidence"
        for corrected, sure in zip(relabel.tolist(), confident.tolist(), strict=True)
    )
    suggested = np.where(confident, top, given)
    return Verdicts(
        suggested=suggested,
        confidence=confidence,
        given_label_probability=probabilities[rows, given],
        error_probability=np.clip(1.0 - posterior[rows, given], 0.0, 1.0),
        priority=np.clip(1.0 - posterior[rows, suggested], 0.0, 1.0),
        decisions=decisions,
        guess=np.where(relabel, top, posterior.argmax(axis=1)),
        guess_probability=np.where(relabel, confidence, posterior.max(axis=1)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One scored sample, as far as the queue needs it."""

    sample_id: str
    image_url: str
    given_label: str
    model_label: str
    """What the reviewer is offered (`Verdicts.guess`)."""
    model_label_probability: float
    """Calibrated probability of `model_label`, 0–1 (`Verdicts.guess_probability`)."""
    confidence: float
    decision: Decision
    priority: float
    model_version: str


def reason(candidate: Candidate) -> str:
    """Why a person is asked, in the words the review screen shows."""
    if candidate.decision == "relabel":
        return f"The model is confident ({candidate.confidence:.0%}) that this is not “{candidate.given_label}”."
    return f"The model is unsure: its best guess has only {candidate.confidence:.0%}."


def choose_queue(candidates: Iterable[Candidate], *, key: Callable[[str], str]) -> list[ReviewTask]:
    """Every question worth asking, most valuable first.

    Low-confidence and relabeled samples are asked about, kept ones are not. `key` gives the push key of a `sample_id`.
    Ties are broken by `sample_id`, so that the same scores always make the same queue.
    """
    asked = sorted((c for c in candidates if c.decision != "keep"), key=lambda c: (-c.priority, c.sample_id))
    return [
        ReviewTask(
            push_key=key(c.sample_id),
            sample_id=c.sample_id,
            image_url=c.image_url,
            current_label=c.given_label,
            model_label=c.model_label,
            confidence=c.model_label_probability,
            reason=reason(c),
            priority=c.priority,
            model_version=c.model_version,
        )
        for c in asked
    ]


def count_decisions(decisions: Iterable[str]) -> dict[str, int]:
    """How many samples were kept, relabeled and left to people."""
    counted = Counter(decisions)
    return {name: counted[name] for name in DECISIONS}
