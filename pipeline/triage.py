"""Triage: which labels a person must look at, in which order, and why.

The decisions are the model's (`fasten_model.scoring`), from the posterior `q_i ∝ T[i, given]^γ·p_i`: `relabel` where
another class reaches ρ, else `keep` where the given label reaches the target precision, else `low_confidence`. Without
a ρ that keeps the promised precision nothing is relabeled, and every doubtful label waits for a person.

The order is by the probability that the label handed out is wrong: a review sets one label right exactly there. So the
samples that the model cannot decide come first, and the corrections it is surest of last.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fasten_model.scoring import DECISIONS, Decision
from pipeline.records import ReviewTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One scored sample, as far as the queue needs it."""

    sample_id: str
    image_url: str
    given_label: str
    model_label: str
    """What the reviewer is offered: the most probable class of q."""
    model_label_probability: float
    """q of `model_label`, 0–1."""
    confidence: float
    decision: Decision
    priority: float
    model_version: str


def reason(candidate: Candidate) -> str:
    """Why a person is asked, in the words the review screen shows."""
    share = f"{candidate.model_label_probability:.0%}"
    if candidate.decision == "relabel":
        return f"The model is confident ({share}) that this is not “{candidate.given_label}”."
    if candidate.model_label != candidate.given_label:
        return f"The model doubts “{candidate.given_label}” ({share} for its own guess), but cannot decide alone."
    return f"The model is unsure: it gives “{candidate.given_label}” only {share}."


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
