"""Questions that settle what people have left undecided: they disagree, or one of them was not sure."""

from collections.abc import Callable, Collection, Iterable, Mapping

from pipeline.records import ReviewTask
from pipeline.triage.candidates import Dispute
from pipeline.triage.reasons import RANDOM, tie_break_reason

Key = Callable[[str, str], str]


def tie_breaks(
    disputes: Iterable[Dispute],
    *,
    asked: Collection[str],
    overlap: int,
    key: Key,
    run_key: str,
    finished: Mapping[str, int] | None = None,
) -> list[ReviewTask]:
    """Those not asked yet, where no earlier question about the sample is still waiting; most work stuck first.

    finished: push key of a question that nobody is served any more → the answers it has got, which are fewer than
    `overlap` where it was asked before the overlap was raised. What has no image to show is not asked about.

    A sample that was drawn at random is asked about as it was the first time, with nothing shown: its answer will
    estimate. The model has not scored any of these samples, so nothing is suggested (`model_label` is empty).
    """
    found = []
    for dispute in sorted(disputes, key=lambda each: (-each.people, each.sample_id)):
        push_key = key(dispute.sample_id, _question(_before(dispute)))
        if not dispute.can_be_settled or not dispute.image_url or push_key in asked:
            continue
        if _waiting(dispute, asked, overlap, key, finished or {}):
            continue
        found.append(tie_break(dispute, push_key, run_key))
    return found


def tie_break(dispute: Dispute, push_key: str, run_key: str) -> ReviewTask:
    """The question that settles a dispute."""
    return ReviewTask(
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


def _before(dispute: Dispute) -> int:
    """Answers before the next question; at least one, also where only the audit project has been asked."""
    return max(1, dispute.answered or dispute.people)


def _question(before: int) -> str:
    return f"tie_break/{before}"


def _waiting(dispute: Dispute, asked: Collection[str], overlap: int, key: Key, finished: Mapping[str, int]) -> bool:
    """Whether a question about the sample lacks answers, or has some that the dispute does not know of yet."""
    now = _before(dispute)
    earlier = ["", *(_question(before) for before in range(1, now))]
    keys = (key(dispute.sample_id, question) for question in earlier)
    return any(each in asked and now < before + finished.get(each, overlap) for before, each in enumerate(keys))
