"""A failure that may pass is one for a day; then, as whatever does not pass, it is asked about once a day."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.images import ImageError
from pipeline.images.again import is_due, passing_since

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SILENT = ImageError("image host does not answer", "no route", passing=True)
GONE = ImageError("image host answered 404", "/data/gone.png")


def after(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def test_what_is_the_images_own_fault_does_not_pass() -> None:
    assert passing_since(GONE, 0, NOON) == 0
    assert passing_since(GONE, int(NOON.timestamp()), NOON) == 0


def test_what_may_pass_does_so_for_a_day_from_when_it_was_first_seen() -> None:
    since = passing_since(SILENT, 0, NOON)
    assert since == NOON.timestamp()
    assert passing_since(SILENT, since, after(23.9)) == since
    over = passing_since(SILENT, since, after(24))
    assert over < 0
    assert passing_since(ImageError("image host answered 500", "", passing=True), over, after(48)) == over
    gone = passing_since(GONE, over, after(49))
    assert passing_since(SILENT, gone, after(50)) == after(50).timestamp(), (
        "after another kind of failure it begins anew"
    )


def test_what_an_older_release_noted_began_now() -> None:
    assert passing_since(SILENT, 1, NOON) == NOON.timestamp()


@pytest.mark.parametrize(("hours", "due"), [(0, False), (23.9, False), (24, True), (-23.9, False), (-25, True)])
def test_once_a_day_also_by_a_clock_that_was_set_back(hours: float, due: bool) -> None:
    assert is_due(NOON.isoformat(), after(hours)) == due


def test_before_the_first_time_nothing_is_due() -> None:
    assert not is_due(None, NOON)
