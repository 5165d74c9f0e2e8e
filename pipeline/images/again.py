"""When an image that could not be had is asked for again.

A failure that may pass is tried at every pull, for a day; whatever lasts longer, and whatever is the image's own fault
(404, 403, a file that does not decode), once a day: nothing is hammered, and nothing is given up for ever.
"""

from datetime import UTC, datetime, timedelta

from pipeline.images.check import ImageError

ASK_AGAIN = timedelta(days=1)
_AS_A_FLAG = 1
"""What an earlier release noted, which did not know since when."""


def passing_since(error: ImageError, since: int, now: datetime) -> int:
    """Since when the image fails in a way that may pass, in Unix seconds; below 0 once that was for a day.

    0 where it fails by a fault of its own. `since` is what this function said of the failure before, 0 where there was
    none: another failure that may pass does not begin anew, since a host that is down answers now this, now that.
    """
    if not error.passing:
        return 0
    if since in (0, _AS_A_FLAG):
        return int(now.timestamp())
    return -since if since > 0 and _is_over(datetime.fromtimestamp(since, UTC), now) else since


def is_due(asked: str | None, now: datetime) -> bool:
    """Whether all images that could not be had are to be asked for again; `asked` is when they were (ISO 8601)."""
    return asked is not None and _is_over(datetime.fromisoformat(asked), now)


def _is_over(then: datetime, now: datetime) -> bool:
    return abs(now - then) >= ASK_AGAIN  # a clock that was set back must not make it for ever
