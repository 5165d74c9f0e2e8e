"""Untrusted JSON becomes records or a counted reason, never another error."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.label_studio.parsing import MOST_ANNOTATIONS, MOST_REGIONS, Asked, parse_asked, parse_drafts, parse_task
from pipeline.records import (
    LONGEST_CLASS,
    LONGEST_SAMPLE_ID,
    NOT_SURE,
    UNUSABLE,
    VERDICT_CONTROL,
    Annotation,
    LabelControl,
    Project,
    Task,
)

CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
PROJECT = Project(project_id=7, title="pets", control=CONTROL)


def chosen(name: str, *choices: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}


def annotation(*regions: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": 3,
        "completed_by": 5,
        "result": list(regions),
        "was_cancelled": False,
        "ground_truth": False,
        "lead_time": 2.5,
        "created_at": "2026-01-02T03:04:05.678901Z",
        "updated_at": "2026-01-02T03:04:06Z",
    } | changes


def parse(raw: Any) -> tuple[Task | None, list[str]]:
    reasons: list[str] = []
    task = parse_task(raw, PROJECT, lambda reason, where: reasons.append(f"{reason}: {where}"))
    return task, reasons


def parse_one(raw: Any) -> tuple[Task, list[str]]:
    task, reasons = parse({"id": 11, "data": {"image": "x"}, "annotations": [raw]})
    assert task is not None
    return task, reasons


def test_a_plain_annotation_is_read_whole() -> None:
    task, reasons = parse_one(annotation(chosen("label", "dog"), ground_truth=True))
    [found] = task.annotations
    assert (found.annotation_id, found.annotator, found.kind, found.label) == (3, "user:5", "class", "dog")
    assert found.ground_truth
    assert found.lead_time_s == 2.5
    assert found.updated_at.isoformat() == "2026-01-02T03:04:06+00:00"
    assert task.sample_id == "ls:7:11"
    assert reasons == []


@pytest.mark.parametrize(
    ("regions", "kind", "label"),
    [
        ([chosen("label", "horse")], "unknown_class", "horse"),
        ([chosen("label", "dog"), chosen(VERDICT_CONTROL, UNUSABLE)], "unusable", None),
        ([chosen(VERDICT_CONTROL, NOT_SURE), chosen("label", "dog")], "not_sure", None),
        ([], "empty", None),
        ([chosen("weather", "sun")], "empty", None),
        ([chosen("label")], "empty", None),
        ([chosen("label", "dog"), chosen("label", "dog")], "class", "dog"),
        ([chosen("label", "cat", "dog")], "several", None),
        ([chosen("label", "cat"), chosen("label", "dog")], "several", None),
        ([chosen("label", "cat", "dog"), chosen(VERDICT_CONTROL, UNUSABLE)], "unusable", None),
    ],
)
def test_what_an_answer_says(regions: list[Any], kind: str, label: str | None) -> None:
    task, reasons = parse_one(annotation(*regions))
    assert (task.annotations[0].kind, task.annotations[0].label) == (kind, label)
    assert reasons == []


def test_a_skipped_task_carries_no_label() -> None:
    task, _ = parse_one(annotation(chosen("label", "dog"), was_cancelled=True))
    assert (task.annotations[0].kind, task.annotations[0].label) == ("skipped", None)


def test_an_expanded_author_is_the_same_author() -> None:
    task, _ = parse_one(annotation(completed_by={"id": 5, "email": "a@b.c"}))
    assert task.annotations[0].annotator == "user:5"


def test_what_a_deleted_user_decided_stays_decided_and_each_answer_stands_for_itself() -> None:
    answers = [parse_one(annotation(chosen("label", "dog"), id=number, completed_by=None)) for number in (3, 4)]
    assert [reasons for _, reasons in answers] == [[], []]
    assert [task.annotations[0].label for task, _ in answers] == ["dog", "dog"]
    assert len({task.annotations[0].annotator for task, _ in answers}) == 2


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        annotation(id="3"),
        annotation(id=True),
        annotation(completed_by="somebody"),
        annotation(result="cat"),
        annotation(chosen("label", {"a": 1})),
        annotation({**chosen("label", "cat"), "value": None}),
        annotation(created_at="yesterday"),
        annotation(updated_at="2026-01-02T03:04:05"),
        annotation(created_at=17),
        annotation(updated_at="0001-01-01T00:00:00+14:00"),
        annotation(id=2**63),
        annotation(completed_by=2**63),
        annotation({"from_name": ["label"], **chosen("label", 3)}),
        annotation(*[chosen("label", "cat")] * (MOST_REGIONS + 1)),
        annotation(chosen("label", *["cat"] * (MOST_REGIONS + 1))),
    ],
)
def test_a_malformed_annotation_is_counted_and_left_out(raw: Any) -> None:
    task, reasons = parse_one(raw)
    assert task.annotations == ()
    assert len(reasons) == 1
    assert reasons[0].endswith("task 11 of project 7")


@pytest.mark.parametrize("from_name", [["label"], {"a": 1}, None])
def test_a_region_of_an_absurd_control_says_nothing(from_name: Any) -> None:
    task, reasons = parse_one(annotation({**chosen("label", "cat"), "from_name": from_name}))
    assert (task.annotations[0].kind, reasons) == ("empty", [])


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ("ze\x00br\x1b[31ma", "ze�br�[31ma"),
        ("ze\udfffbra", "ze�bra"),
        ("z\u2028b", "z�b"),
        ("z" * 2_000, "z" * LONGEST_CLASS),
    ],
)
def test_of_the_name_of_an_unknown_class_a_short_plain_text_is_kept(named: str, kept: str) -> None:
    task, _ = parse_one(annotation(chosen("label", named)))
    assert (task.annotations[0].kind, task.annotations[0].label) == ("unknown_class", kept)


def test_annotations_beyond_the_bound_are_counted_and_left_out() -> None:
    many = [annotation(chosen("label", "cat"), id=number) for number in range(1, MOST_ANNOTATIONS + 4)]
    task, reasons = parse({"id": 11, "data": {}, "annotations": many})
    assert task is not None
    assert len(task.annotations) == MOST_ANNOTATIONS
    assert reasons == ["more annotations of a task than are read: task 11 of project 7"] * 3


@pytest.mark.parametrize(
    "sample_id",
    [
        "a\x00b",
        "a\nb",
        "a\x1b[2J",
        "a\ud800",
        "a" * (LONGEST_SAMPLE_ID + 1),
        ["a"],
        {"a": 1},
        True,
        float("inf"),
        2**70,
    ],
)
def test_a_task_whose_sample_id_can_name_nothing_is_counted_and_left_out(sample_id: Any) -> None:
    task, reasons = parse({"id": 11, "data": {"sample_id": sample_id}})
    assert task is None
    assert reasons == ["sample_id is too long or not text: task 11 of project 7"]


@pytest.mark.parametrize(
    ("sample_id", "name"), [("é/1", "é/1"), (7, "7"), (7.5, "7.5"), ("", "ls:7:11"), (None, "ls:7:11")]
)
def test_text_and_numbers_name_a_sample(sample_id: Any, name: str) -> None:
    task, reasons = parse({"id": 11, "data": {"sample_id": sample_id}})
    assert task is not None
    assert (task.sample_id, reasons) == (name, [])


def test_a_sample_id_as_deep_as_json_goes_is_no_error() -> None:
    deep: Any = "a"
    for _ in range(100_000):
        deep = [deep]
    assert parse({"id": 11, "data": {"sample_id": deep}})[0] is None


def draft(*regions: Any, **changes: Any) -> dict[str, Any]:
    """As Label Studio 1.23 lists them below `/api/tasks/{id}/drafts`."""
    return {
        "id": 3,
        "user": "ann@example.org",
        "created_username": "Ann, Other ann@example.org, 5",
        "result": list(regions),
        "lead_time": 2.5,
        "was_postponed": False,
        "created_at": "2026-01-02T03:04:05.678901Z",
        "updated_at": "2026-01-02T03:04:06Z",
        "task": 11,
        "annotation": None,
    } | changes


def begun(*raw: Any) -> tuple[tuple[Annotation, ...], list[str]]:
    reasons: list[str] = []
    return parse_drafts(
        list(raw), CONTROL, "task 11", lambda reason, where: reasons.append(f"{reason}: {where}")
    ), reasons


def test_a_draft_is_an_annotation_with_an_id_that_no_annotation_has() -> None:
    [found], reasons = begun(draft(chosen("label", "dog")))
    assert (found.annotation_id, found.annotator, found.kind, found.label) == (-3, "user:5", "class", "dog")
    assert (found.is_draft, found.ground_truth, found.was_cancelled, found.lead_time_s) == (True, False, False, 2.5)
    assert reasons == []


def test_a_draft_that_changes_a_submitted_annotation_is_none() -> None:
    assert begun(draft(chosen("label", "dog"), annotation=8)) == ((), [])


@pytest.mark.parametrize("name", ["", None, 5, "ann@example.org", "Ann, ²", "Ann, 0", "Ann, -5", "Ann, " + "9" * 5_000])
def test_a_draft_of_nobody_known_is_counted_and_left_out(name: Any) -> None:
    assert begun(draft(created_username=name)) == ((), ["annotation with a malformed author: task 11"])


@pytest.mark.parametrize("lead_time", [None, -1, float("nan"), 10**400, "3", True])
def test_an_absurd_lead_time_is_unknown(lead_time: Any) -> None:
    task, _ = parse_one(annotation(chosen("label", "dog"), lead_time=lead_time))
    assert task.annotations[0].lead_time_s is None


@pytest.mark.parametrize("raw", [None, 3, {}, {"id": 1}, {"id": "1", "data": {}}, {"id": 1, "data": []}])
def test_a_malformed_task_is_counted_and_left_out(raw: Any) -> None:
    task, reasons = parse(raw)
    assert task is None
    assert reasons == ["malformed task: project 7"]


def parse_question(data: Any, **more: Any) -> Asked | None:
    return parse_asked({"id": 11, "data": data, **more}, PROJECT, {11}, lambda *_: None)


def test_a_question_is_read_whole() -> None:
    data = {"push_key": "a1", "sample_id": "s1", "asked_as": "audit", "asked_by_run": "r1"}
    assert parse_question(data, total_annotations=2, cancelled_annotations=1, is_labeled=True) == Asked(
        task_id=11,
        push_key="a1",
        sample_id="s1",
        asked_as="audit",
        asked_by_run="r1",
        answers=2,
        skipped=1,
        drafted=True,
        finished=True,
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*annotation()]), json_values)
def test_any_value_in_any_field_is_read_or_counted(field: str, value: Any) -> None:
    task, reasons = parse_one(annotation(chosen("label", "dog")) | {field: value})
    assert len(task.annotations) + len(reasons) == 1


@given(json_values)
def test_any_region_is_read_or_counted(region: Any) -> None:
    task, reasons = parse_one(annotation(region))
    assert len(task.annotations) + len(reasons) == 1


@given(st.sampled_from(["push_key", "asked_as", "asked_by_run"]), json_values, json_values)
def test_any_value_in_a_question_is_read_as_something_or_nothing(field: str, value: Any, count: Any) -> None:
    found = parse_question({"asked_as": "audit", field: value}, total_annotations=count, is_labeled=count)
    assert found is not None
    assert found.answers >= 0
    assert isinstance(found.push_key, str)
    assert isinstance(found.asked_by_run, str)
    assert found.asked_as in (None, "audit")
