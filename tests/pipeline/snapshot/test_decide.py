"""Audits stand over reviews; of the reviewers each has one vote, the most votes decide, and a tie is a dispute."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import AnswerKind
from pipeline.snapshot.consensus import Answer, Decided, decide

START = datetime(2026, 1, 1, tzinfo=UTC)
SAYS: tuple[AnswerKind, ...] = ("class", "unusable", "not_sure")


def said(what: str, person: str = "a", minute: int = 0, **more: Any) -> Answer:
    """`what` is a class, or one of the other kinds of answer."""
    kind = what if what in ("unusable", "not_sure", "skipped", "empty", "unknown_class") else "class"
    values: dict[str, Any] = {"kind": kind, "origin": "review", "annotation_id": minute + 1} | more
    time = START + timedelta(minutes=minute)
    return Answer(annotator=person, label=what if kind == "class" else None, updated_at=time, **values)


def audit(what: str, person: str = "auditor", minute: int = 0, **more: Any) -> Answer:
    return said(what, person, minute, origin="audit", annotation_id=1000 + minute, **more)


def test_an_audit_stands_against_later_reviews_however_many() -> None:
    right = audit("cat")
    found = decide([right, said("dog", "a", 7), said("dog", "b", 8), said("dog", "c", 9)])
    assert (found.state, found.label, found.answer, found.drawn_at_random) == ("class", "cat", right, True)


def test_the_newest_audit_stands() -> None:
    assert decide([audit("dog", "x", 5), audit("cat", "y", 1)]).label == "dog"
    assert decide([audit("unusable", "x", 5), audit("cat", "y", 1)]).state == "unusable"


def test_an_auditor_who_is_not_sure_leaves_it_to_the_others() -> None:
    unsure = audit("not_sure", minute=9)
    assert decide([unsure]).state == "not_sure"
    assert decide([unsure, audit("cat", "another")]).label == "cat"
    assert decide([unsure, said("dog")]).label == "dog"
    assert decide([unsure, audit("cat", minute=3)]).state == "not_sure", "the same auditor took it back"


def test_ground_truth_of_the_labels_project_decides_as_an_audit_does() -> None:
    truth = said("cat", origin="labels", ground_truth=True)
    assert decide([truth, said("dog", "b", 5)]) == Decided(
        state="class", label="cat", answer=truth, drawn_at_random=True
    )


def test_most_votes_decide_and_the_newest_of_them_signs() -> None:
    found = decide([said("cat", "a", 0), said("dog", "b", 9), said("cat", "c", 4)])
    assert (found.state, found.label) == ("class", "cat")
    assert found.answer is not None
    assert found.answer.annotator == "c"


def test_as_many_for_one_as_for_another_is_a_dispute() -> None:
    assert decide([said("cat", "a"), said("dog", "b", 1)]).state == "disputed"
    assert decide([said("cat", "a"), said("unusable", "b", 1)]).state == "disputed"
    two_each = [said("cat", "a"), said("cat", "b", 1), said("dog", "c", 2), said("dog", "d", 3), said("eel", "e", 4)]
    assert decide(two_each).state == "disputed"
    assert decide([*two_each, said("cat", "f", 5)]).label == "cat"


def test_somebody_who_is_not_sure_lets_the_other_decide() -> None:
    assert decide([said("not_sure", "a", 5), said("dog", "b")]).label == "dog"
    assert decide([said("not_sure", "a", 5), said("unusable", "b")]).state == "unusable"
    assert decide([said("not_sure", "a"), said("not_sure", "b", 1)]).state == "not_sure"


def test_somebody_who_changes_their_mind_is_heard() -> None:
    assert decide([said("cat", "a"), said("dog", "a", 1)]).label == "dog"
    assert decide([said("not_sure", "a"), said("dog", "a", 1)]).label == "dog"
    assert decide([said("cat", "a"), said("not_sure", "a", 1)]).state == "not_sure"
    agreed = [said("cat", "a"), said("dog", "b", 1), said("cat", "b", 2)]
    assert decide(agreed).label == "cat"


@pytest.mark.parametrize("nothing", ["skipped", "empty", "unknown_class"])
def test_what_says_nothing_decides_nothing_and_takes_nothing_back(nothing: str) -> None:
    assert decide([said(nothing)]) == Decided(state=None)
    assert decide([said("cat", "a"), said(nothing, "a", 5)]).label == "cat"


@pytest.mark.parametrize(
    ("asked", "at_random"),
    [
        (["audit"], True),
        (["targeted"], False),
        (["check"], False),
        ([None], False),
        (["audit", "tie_break"], True),
        (["targeted", "tie_break"], False),
        (["recheck", "audit"], True),
    ],
)
def test_a_sample_stays_drawn_at_random_whoever_decides_it(asked: list[Any], at_random: bool) -> None:
    answers = [said("cat", f"person {i}", i, asked_as=kind) for i, kind in enumerate(asked)]
    assert decide(answers).drawn_at_random is at_random
    overruled = [said("dog", "z", 0, annotation_id=99, asked_as=asked[0]), *(replace(one) for one in answers)]
    assert decide([*overruled, said("cat", "y", 9)]).drawn_at_random is at_random


choices = st.sampled_from(["cat", "dog", "eel", "unusable", "not_sure", "skipped", "empty", "unknown_class"])
answer_lists = st.lists(
    st.builds(
        said,
        choices,
        st.sampled_from(["a", "b", "c", "d", "e"]),
        st.integers(0, 5),
        annotation_id=st.integers(1, 10**6),
        origin=st.sampled_from(["review", "review", "review", "audit"]),
        asked_as=st.sampled_from([None, "audit", "targeted", "tie_break"]),
    ),
    max_size=10,
    unique_by=lambda one: one.annotation_id,
)


def speaking(answers: list[Answer]) -> list[Answer]:
    return [one for one in answers if one.kind in SAYS]


@given(answer_lists, st.randoms(use_true_random=False))
def test_the_order_of_answers_is_irrelevant(answers: list[Answer], random: Any) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)
    assert decide(shuffled) == decide(answers)


@given(answer_lists)
def test_an_answer_never_disappears(answers: list[Answer]) -> None:
    found = decide(answers)
    assert (found.state is None) == (not speaking(answers)), "whoever says something takes the sample out of the noise"
    assert (found.answer is None) == (found.state is None)
    assert found.answer is None or found.answer in answers
    assert (found.label is not None) == (found.state == "class")


@given(answer_lists)
def test_the_same_person_saying_it_again_changes_nothing(answers: list[Answer]) -> None:
    newest: dict[tuple[str, str], Answer] = {}
    for one in sorted(speaking(answers), key=lambda one: one.recency):
        newest[one.annotator, one.origin] = one
    repeated = sorted(newest.values(), key=lambda one: one.recency)  # the newest audit must stay the newest
    again = [replace(one, annotation_id=10**7 + i) for i, one in enumerate(repeated)]
    first, second = decide(answers), decide([*answers, *again])
    assert second.state == first.state
    assert second.label == first.label


@given(answer_lists)
def test_a_class_has_more_votes_than_any_other_unless_it_was_audited(answers: list[Answer]) -> None:
    found = decide(answers)
    if found.state not in ("class", "unusable") or found.answer is None or found.answer.origin != "review":
        return
    latest: dict[str, Answer] = {}
    for one in sorted(speaking(answers), key=lambda one: one.recency):
        if one.origin == "review":
            latest[one.annotator] = one
    counts = Counter(one.label or one.kind for one in latest.values() if one.kind != "not_sure")
    mine = counts.pop(found.answer.label or found.answer.kind)
    assert all(mine > other for other in counts.values())


@given(choices, st.integers(1, 6), st.sampled_from([None, "audit", "targeted"]))
def test_people_who_agree_always_decide(what: str, people: int, asked: Any) -> None:
    found = decide([said(what, f"p{i}", i, asked_as=asked) for i in range(people)])
    expected = {"skipped": None, "empty": None, "unknown_class": None}.get(what, what)
    assert found.state == (expected if expected in (None, "unusable", "not_sure") else "class")


@given(answer_lists, choices)
def test_one_more_person_cannot_make_a_decided_sample_noisy_again(answers: list[Answer], what: str) -> None:
    before = decide(answers)
    after = decide([*answers, said(what, "somebody new", 6, annotation_id=10**8)])
    assert before.state is None or after.state is not None
    assert after.drawn_at_random >= before.drawn_at_random
