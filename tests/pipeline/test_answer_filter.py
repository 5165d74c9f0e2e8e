"""Which annotations count is decided one by one, and said why."""

from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from pipeline.answer_filter import (
    LEFT_OUT_ANNOTATOR,
    LEFT_OUT_DRAFT,
    LEFT_OUT_SKIP,
    AnswerFilter,
    is_annotator,
)
from pipeline.records import Annotation, Origin

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORIGINS: tuple[Origin, ...] = get_args(Origin)


def says(number: int, user: int, **more: Any) -> Annotation:
    values: dict[str, Any] = {"kind": "class", "label": "cat", "was_cancelled": False} | more
    return Annotation(
        annotation_id=number,
        annotator=f"user:{user}",
        ground_truth=False,
        lead_time_s=None,
        created_at=NOON,
        updated_at=NOON,
        **values,
    )


@pytest.mark.parametrize("origin", ORIGINS)
def test_unless_told_otherwise_all_but_drafts_count(origin: Origin) -> None:
    reason = AnswerFilter().reason_left_out
    assert reason(says(1, 1), origin) is None
    assert reason(says(1, 1, kind="skipped", label=None, was_cancelled=True), origin) is None
    assert reason(says(-1, 1), origin) == LEFT_OUT_DRAFT


@pytest.mark.parametrize("origin", ORIGINS)
def test_who_is_on_the_list_is_left_out_everywhere(origin: Origin) -> None:
    reason = AnswerFilter(annotators=frozenset({"user:7"}), drafts="count").reason_left_out
    assert reason(says(1, 7), origin) == reason(says(-1, 7), origin) == LEFT_OUT_ANNOTATOR
    assert reason(says(1, 77), origin) is None


def test_skipping_says_nothing_where_that_is_set() -> None:
    reason = AnswerFilter(skipped="ignore").reason_left_out
    assert reason(says(1, 1, kind="skipped", label=None, was_cancelled=True), "labels") == LEFT_OUT_SKIP
    assert reason(says(1, 1, kind="empty", label=None), "labels") is None


def test_a_draft_counts_in_the_labels_project_and_decides_nowhere() -> None:
    reason = AnswerFilter(drafts="count").reason_left_out
    assert [reason(says(-1, 1), origin) for origin in ORIGINS] == [None, LEFT_OUT_DRAFT, LEFT_OUT_DRAFT]


@pytest.mark.parametrize("reference", ["7", "user:7", "user:deleted:7", "ann@example.org"])
def test_what_can_name_a_user(reference: str) -> None:
    assert is_annotator(reference)


@pytest.mark.parametrize(
    "reference", ["", "0", "-7", "ann", "user:", "user:ann", "ann@", "a b@example.org", "7\n", "7 "]
)
def test_what_can_name_no_user(reference: str) -> None:
    assert not is_annotator(reference)
