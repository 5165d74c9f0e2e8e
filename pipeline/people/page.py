"""People as text for people; every text from outside is escaped."""

from collections.abc import Callable

from pipeline.people.records import Annotator, Confusion, Mixup, People, Reviewer, Share
from pipeline.report import escape

MOST_ROWS = 20
"""Of each table in the report; `fasten people` shows all."""
MOST_MIXUPS = 3

REVIEWER_COLUMNS = ("Reviewer", "Answers", "Not sure", "Unusable", "Seconds", "Right at audit", "Agrees", "Takes")
ANNOTATOR_COLUMNS = ("Annotator", "Votes", "Audited", "Wrong", "Takes")


def markdown(people: People) -> str:
    """The section of the report on people; empty where there is nobody."""
    lines: list[str] = []
    if people.annotators:
        left_out = len(people.annotators[MOST_ROWS:]) + people.left_out
        lines += ["## Annotators", "", "Those with most wrong labels first; shares with their 95 % intervals.", ""]
        lines += _table(ANNOTATOR_COLUMNS, [annotator_cells(each, escape) for each in people.annotators[:MOST_ROWS]])
        lines += ["", f"{left_out} more are not shown."] if left_out else []
    if people.reviewers:
        left_out = len(people.reviewers[MOST_ROWS:])
        lines += [""] if lines else []
        lines += ["## Reviewers", "", "“Right at audit”: on samples drawn at random that others have decided.", ""]
        lines += _table(REVIEWER_COLUMNS, [reviewer_cells(each, escape) for each in people.reviewers[:MOST_ROWS]])
        lines += ["", f"{left_out} more are not shown."] if left_out else []
    return "\n".join(lines) + "\n" if lines else ""


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows)]


def annotator_cells(annotator: Annotator, escaped: Callable[[str], str]) -> tuple[str, ...]:
    """One row of `ANNOTATOR_COLUMNS`; names and classes go through `escaped`."""
    return (
        escaped(annotator.name),
        f"{annotator.votes:,}",
        f"{annotator.audited:,}",
        percent(annotator.error),
        "; ".join(_confusion(each, escaped) for each in annotator.confusions) or "–",
    )


def reviewer_cells(reviewer: Reviewer, escaped: Callable[[str], str]) -> tuple[str, ...]:
    """One row of `REVIEWER_COLUMNS`; names and classes go through `escaped`."""
    return (
        escaped(reviewer.name),
        f"{reviewer.classes + reviewer.not_sure + reviewer.unusable:,}",
        f"{reviewer.not_sure:,}",
        f"{reviewer.unusable:,}",
        "–" if reviewer.median_seconds is None else f"{reviewer.median_seconds:.1f}",
        "–" if reviewer.accuracy is None else f"{reviewer.right} of {reviewer.compared}: {percent(reviewer.accuracy)}",
        f"{reviewer.agreements} of {reviewer.overlaps}" if reviewer.overlaps else "–",
        "; ".join(_mixup(each, escaped) for each in reviewer.mixups[:MOST_MIXUPS]) or "–",
    )


def percent(share: Share) -> str:
    """A share with its interval: `41 % (35–47 %)`."""
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f}–{100 * share.high:.0f} %)"


def _confusion(confusion: Confusion, escaped: Callable[[str], str]) -> str:
    return f"{escaped(confusion.truth)} → {escaped(confusion.said)}: {percent(confusion.share)}"


def _mixup(mixup: Mixup, escaped: Callable[[str], str]) -> str:
    return f"{escaped(mixup.truth)} → {escaped(mixup.said)}: {mixup.count} of {mixup.of}"
