"""Reviewers against what others have decided, on snapshots made by hand."""

from typing import TYPE_CHECKING

import pytest

from pipeline.people import Mixup, Reviewer
from pipeline.people.reviewers import reviewers_of

if TYPE_CHECKING:
    from tests.pipeline.people.conftest import Desk


def only(found: tuple[Reviewer, ...], name: str) -> Reviewer:
    (reviewer,) = [each for each in found if each.name == name]
    return reviewer


def test_a_reviewer_is_held_against_the_auditors_answer_on_samples_drawn_at_random(desk: "Desk") -> None:
    for number, (truth, said) in enumerate([("3", "3"), ("3", "8"), ("3", "8"), ("5", "5")]):
        desk.says("user:9", f"a{number}", truth, origin="audit")
        desk.says("user:1", f"a{number}", said)
        desk.clean(f"a{number}", truth, {})
    desk.says("user:9", "hard", "5", origin="audit")
    desk.says("user:1", "hard", "3")
    desk.clean("hard", "5", {}, provenance="review")
    (found,) = reviewers_of(desk.snapshot())
    assert (found.name, found.classes, found.compared, found.right) == ("user:1", 5, 4, 2)
    assert found.mixups == (Mixup(truth="3", said="8", count=2, of=3),)
    assert found.accuracy is not None
    assert found.accuracy.low < found.accuracy.value == 0.5 < found.accuracy.high
    assert (found.overlaps, found.agreements) == (0, 0), "an auditor is no other reviewer"


def test_ground_truth_of_the_labels_project_is_an_audit_and_votes_are_not(desk: "Desk") -> None:
    desk.says("user:4", "a", "5", origin="labels")
    desk.says("user:4", "b", "5", origin="labels", ground_truth=True)
    for sample in "ab":
        desk.says("user:1", sample, "5")
        desk.clean(sample, "5", {})
    (found,) = reviewers_of(desk.snapshot())
    assert (found.compared, found.right) == (1, 1)


def test_what_deleted_users_have_said_counts_for_others_and_has_no_row(desk: "Desk") -> None:
    for number in range(3):
        desk.says(f"user:deleted:{number}", f"s{number}", "3", asked_as="audit")
        desk.says("user:1", f"s{number}", "3")
        desk.clean(f"s{number}", "3", {})
    (found,) = reviewers_of(desk.snapshot())
    assert (found.name, found.compared, found.overlaps, found.agreements) == ("user:1", 3, 3, 3)


def test_nobody_vouches_for_themselves(desk: "Desk") -> None:
    desk.says("user:1", "alone", "3", asked_as="audit")
    desk.clean("alone", "3", {})
    for person, said in (("user:1", "3"), ("user:2", "8"), ("user:3", "8")):
        desk.says(person, "three", said, asked_as="audit")
    desk.clean("three", "8", {})
    found = reviewers_of(desk.snapshot())
    assert (only(found, "user:1").compared, only(found, "user:1").right) == (1, 0)
    # Without user:2 the others are one against one, and decide nothing.
    assert only(found, "user:2").compared == 0
    assert only(found, "user:1").accuracy is not None
    assert only(found, "user:2").accuracy is None


def test_agreement_counts_each_other_reviewer_of_the_same_sample(desk: "Desk") -> None:
    for person, said in (("user:1", "3"), ("user:2", "3"), ("user:3", "8")):
        desk.says(person, "a", said)
    desk.says("user:2", "b", "5")
    desk.says("user:1", "b", "not_sure")
    found = reviewers_of(desk.snapshot())
    assert [(each.overlaps, each.agreements) for each in found] == [(2, 1), (2, 1), (2, 0)]


def test_the_latest_answer_counts_and_only_once(desk: "Desk") -> None:
    desk.says("user:1", "a", "3")
    desk.says("user:1", "a", "8")
    desk.says("user:1", "a", "skipped", lead_time_s=99.0)
    desk.says("user:9", "a", "8", origin="audit")
    desk.clean("a", "8", {})
    (found,) = reviewers_of(desk.snapshot())
    assert (found.classes, found.compared, found.right) == (1, 1, 1)
    assert found.median_seconds == 2.0


def test_answers_are_counted_by_kind_and_timed_and_the_busiest_come_first(desk: "Desk") -> None:
    desk.says("user:1", "z", "3", lead_time_s=None)
    for number, (what, seconds) in enumerate(
        [("3", 1.0), ("unusable", 3.0), ("not_sure", 5.0), ("5", 9_000.0), ("5", 0.0)]
    ):
        desk.says("user:2", f"s{number}", what, lead_time_s=seconds)
    busy, idle = reviewers_of(desk.snapshot())
    assert (busy.name, busy.classes, busy.unusable, busy.not_sure) == ("user:2", 3, 1, 1)
    assert busy.median_seconds == pytest.approx(3.0), "neither a tab left open nor an answer that took no time"
    assert idle.median_seconds is None


def test_without_a_review_there_is_nobody(desk: "Desk") -> None:
    desk.says("user:9", "a", "3", origin="audit")
    desk.says("user:1", "b", "skipped")
    desk.clean("a", "3", {"user:4": "3"})
    assert reviewers_of(desk.snapshot()) == ()
