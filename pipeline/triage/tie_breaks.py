"""Questions that settle what people have left undecided: they disagree, or one of them was not sure."""

from collections.abc import Callable, Collection, Iterable

from pipeline.records import ReviewTask
from pipeline.triage.candidates import Dispute
from pipeline.triage.reasons import RANDOM, tie_break_reason


def tie_breaks(
    disputes: Iterable[Dispute], *, asked: Collection[str], overlap: int, key: Callable[[str, str], str], run_key: str
) -> list[ReviewTask]:
    """Those not asked yet, where no earlier question about the sample is still waiting; most work stuck first.

    A sample that was drawn at random is asked about as it was the first time, with nothing shown: its answer will
    estimate. The model has not scored any of these samples, so nothing is suggested (`model_label` is empty).
    """
    found = []
    for dispute in sorted(disputes, key=lambda each: (-each.people, each.sample_id)):
        push_key = key(dispute.sample_id, _question(_before(dispute)))
        if not dispute.can_be_settled or push_key in asked or _waiting(dispute, asked, overlap, key):
            continue
        found.append(
            ReviewTask(
                push_key=push_key,
                sample_id=dispute.sample_id,
                image_url=dispute.image_url,
                asked_as="audit" if dispute.asked_as_audit else "tie_break",
                current_label=dispute.given_label,
                model_label="",
                confidence=0.0,
                reason=RANDOM if dispute.asked_as_audit else tie_break_reason(dispute),
                priority=dispute.doubt,
                model_version="",
                run_key=run_key,
            )
        )
    return found


def _before(dispute: Dispute) -> int:
    """Answers before the next question; at least one, also where only the audit project has been asked."""
    return max(1, dispute.answered or dispute.people)


def _question(before: int) -> str:
    return f"tie_break/{before}"


def _waiting(dispute: Dispute, asked: Collection[str], overlap: int, key: Callable[[str, str], str]) -> bool:
    """Whether a question about the sample lacks answers: each is to be answered `overlap` times."""
    now = _before(dispute)
    earlier = ["", *(_question(before) for before in range(1, now))]
    return any(
        now < before + overlap and key(dispute.sample_id, question) in asked for before, question in enumerate(earlier)
    )
