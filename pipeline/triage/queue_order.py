"""The order of a queue without a budget: every doubtful label, most valuable first. Goes away with its last caller."""

from collections.abc import Callable, Iterable

from pipeline.records import ReviewTask
from pipeline.triage.candidates import Candidate
from pipeline.triage.reasons import reason


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
