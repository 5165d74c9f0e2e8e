"""What a review task's data says of its question is believed as far as it can be true, and no further."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.queue import push_key
from pipeline.records import EARLIER, UNSHOWN, Annotation, AskedAs, Task
from pipeline.snapshot.question import Question, read_question

CLASSES = ("cat", "dog")


def read(**data: Any) -> Question | None:
    task = Task(task_id=5, project_id=3, data={"sample_id": "s1", **data})
    return read_question(task, labels_project_id=1, classes=CLASSES)


def key(asked: str = "") -> str:
    return push_key(1, "s1", asked)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ("", "audit"),
        ("", "check"),
        ("", "targeted"),
        ("tie_break/2", "tie_break"),
        ("tie_break/2", "audit"),
        ("recheck", "recheck"),
    ],
)
def test_our_own_questions_are_read_back(asked: str, kind: AskedAs) -> None:
    suggestion = None if kind in UNSHOWN else "dog"
    shown = {} if suggestion is None else {"model_label": suggestion}
    found = read(push_key=key(asked), asked_as=kind, asked_by_run="0123abcd-9f", **shown)
    assert found == Question(asked_as=kind, suggestion=suggestion, asked_by_run="0123abcd-9f")


def test_a_task_that_people_made_is_no_question_of_ours() -> None:
    assert read(asked_as="audit", model_label="dog", asked_by_run="x") == Question()


@pytest.mark.parametrize("foreign", [push_key(2, "s1"), push_key(1, "s2"), "", "x" * 10**6, 7, ["a"], {"a": 1}, False])
def test_a_key_that_is_none_of_ours_makes_the_task_somebody_elses(foreign: Any) -> None:
    assert read(push_key=foreign, asked_as="audit") is None


@pytest.mark.parametrize(("asked", "claimed"), [("recheck", "audit"), ("tie_break/1", "targeted"), ("", "tie_break")])
def test_a_kind_that_the_key_does_not_stand_for_is_unknown(asked: str, claimed: str) -> None:
    found = read(push_key=key(asked), asked_as=claimed)
    assert found is not None
    assert found.asked_as is None


@pytest.mark.parametrize("shown", ["current_label", "model_label", "suggestion"])
def test_a_question_that_shows_something_was_not_drawn_at_random_whatever_it_says(shown: str) -> None:
    found = read(push_key=key(), asked_as="audit", **{shown: "dog"})
    assert found is not None
    assert found.asked_as is None
    assert found.suggestion == ("dog" if shown == "model_label" else None)


def test_questions_of_before_the_kinds_had_names_were_suggestions() -> None:
    assert read(push_key=key(), model_label="dog") == Question(suggestion="dog")


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def answered(*begun: float, lead: float | None = 60.0) -> Question | None:
    """The question that was updated at noon and at one, answered by people who began so many minutes after noon."""
    earlier = [
        {"until": (NOON + timedelta(minutes=minutes)).isoformat(), "model_label": label, "asked_by_run": run}
        for minutes, label, run in ((0, "dog", "run-1"), (60, "cat", "run-2"))
    ]
    data = {"sample_id": "s1", "push_key": key(), "asked_as": "targeted", "model_label": "dog", "asked_by_run": "run-3"}
    said = tuple(
        Annotation(
            annotation_id=number + 1, annotator=f"user:{number}", kind="class", label="cat", ground_truth=False,
            was_cancelled=False, lead_time_s=lead, created_at=at, updated_at=at,
        )
        for number, at in enumerate(NOON + timedelta(minutes=minutes, seconds=lead or 0) for minutes in begun)
    )  # fmt: skip
    task = Task(task_id=5, project_id=3, data=data | {EARLIER: earlier}, annotations=said)
    return read_question(task, labels_project_id=1, classes=CLASSES)


@pytest.mark.parametrize(
    ("begun", "suggestion", "run"),
    [
        ([-30], "dog", "run-1"),
        ([-0.1], "dog", "run-1"),
        ([30], "cat", "run-2"),
        ([61.1], "dog", "run-3"),
        ([0.5], None, None),
        ([60.5], None, None),
        ([30, 40], "cat", "run-2"),
        ([-30, 30], None, None),
    ],
)
def test_an_answer_is_about_what_was_suggested_when_it_was_begun(
    begun: list[float], suggestion: str | None, run: str | None
) -> None:
    assert answered(*begun) == Question(asked_as="targeted", suggestion=suggestion, asked_by_run=run)


def test_without_a_lead_time_an_answer_was_begun_when_it_came_and_no_lead_time_is_too_long() -> None:
    assert answered(30, lead=None) == Question(asked_as="targeted", suggestion="cat", asked_by_run="run-2")
    found = answered(30, lead=1e9)
    assert found is not None
    assert found.asked_by_run == "run-3", "two days before it came, which was long after"
    assert answered() == Question(asked_as="targeted", suggestion="dog", asked_by_run="run-3")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["asked_as", "model_label", "asked_by_run", EARLIER]), json_values | st.text(max_size=300))
def test_whatever_somebody_writes_there_is_bounded_and_known(field: str, value: Any) -> None:
    found = read(**{"push_key": key(), "asked_as": "targeted", field: value})
    assert found is not None
    assert found.asked_as in (None, *get_args(AskedAs))
    assert found.suggestion in (None, *CLASSES)
    assert found.asked_by_run is None or (len(found.asked_by_run) <= 100 and found.asked_by_run.isascii())
