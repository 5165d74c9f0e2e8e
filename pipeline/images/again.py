"""When an image that could not be had is asked for again.

A failure that may pass is tried at every pull, for a day; whatever lasts longer, and whatever is the image's own fault
(404, 403, a file that does not decode), once a day: nothing is hammered, and nothing is given up for ever.
"""

from datetime import UTC, datetime, timedelta

from pipeline.images.check import ImageError

ASK_AGAIN = timedelta(days=1)


def passing_since(error: ImageError, known_as: str | None, since: int, now: datetime) -> int:
    """Since when the image fails in a way that may pass, in Unix seconds; 0 where it does not, or no longer.

    `known_as` is the reason that was noted for it before, `since` what this function said then.
    """
    if not error.passing:
        return 0
    if known_as != error.reason:
        return int(now.timestamp())
    return since if since and not _is_over(datetime.fromtimestamp(since, UTC), now) else 0


def is_due(asked: str | None, now: datetime) -> bool:
    """Whether all images that could not be had are to be asked for again; `asked` is when they were (ISO 8601)."""
    return asked is not None and _is_over(datetime.fromisoformat(asked), now)


def _is_over(then: datetime, now: datetime) -> bool:
    return abs(now - then) >= ASK_AGAIN  # a clock that was set back must not make it for ever
