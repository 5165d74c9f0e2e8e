"""Thousands of task lists and label configs that nobody meant to write: each is read, or counted with a known reason.

Three kinds of input: a sound task with some part of it replaced, removed or repeated; JSON of any shape; and the same
for label configs. The number of examples is fixed and their order derandomised, so a run takes as long as the last.
"""

import copy
import json
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.label_config import ControlChoice, find_control
from pipeline.label_studio.parsing import (
    MOST_ANNOTATIONS,
    REASONS,
    MalformedError,
    parse_asked,
    parse_drafts,
    parse_task,
    read_answer,
)
from pipeline.queue import push_key
from pipeline.records import LONGEST_CLASS, VERDICT_CONTROL, Annotation, LabelControl, Project, Task, is_sample_id
from pipeline.review_screen import review_config
from pipeline.snapshot.question import read_question

CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
PROJECT = Project(project_id=7, title="pets", control=CONTROL)
thousands = settings(
    max_examples=1_000, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
)
hundreds = settings(thousands, max_examples=200)


def region(name: str, *choices: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}


def answer(number: int, *regions: Any) -> dict[str, Any]:
    times = {"created_at": "2026-01-02T03:04:05.678901Z", "updated_at": "2026-01-02T03:04:06Z"}
    return {"id": number, "result": list(regions), "lead_time": 2.5, **times}


SOUND: dict[str, Any] = {
    "id": 11,
    "data": {
        "image": "/data/upload/1.png",
        "sample_id": "s1",
        "push_key": push_key(7, "s1"),
        "asked_as": "targeted",
        "model_label": "dog",
        "asked_by_run": "run-1",
    },
    "annotations": [
        answer(1, region("label", "cat")) | {"completed_by": 5, "was_cancelled": False, "ground_truth": True},
        answer(2, region("label", "dog"), region(VERDICT_CONTROL, "not sure")) | {"completed_by": {"id": 6}},
        answer(3) | {"completed_by": None, "was_cancelled": True},
    ],
    "drafts": [answer(4, region("label", "cat")) | {"user": "a@b.example", "created_username": "a@b.example, 8"}],
    "total_annotations": 2,
    "cancelled_annotations": 1,
    "is_labeled": True,
}
ODD: list[Any] = [
    "", "\x00", "\x1b[2J", "a\ud800", "\udfff", "x" * 5_000, "=cmd|'x'!A0", "<img src=x onerror=alert(1)>", "NaN",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-02T03:04:05", "2026-01-02T03:04:06+24:00",
    0, -1, 2**63, 2**64, -(2**63), 10**400, 1e308, float("nan"), float("inf"), True, False, None, [], {}, [[]],
    {"choices": ["cat"]}, {"id": {"id": 1}}, ["cat"] * 20_000, "a@b.example, " + "9" * 5_000,
]  # fmt: skip
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ODD),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*SOUND, *SOUND["annotations"][0], "value", "choices"]), inner, max_size=5)
    ),
    max_leaves=12,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something lies in a JSON value, all the way down."""
    found = [at] if at else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        found += places(one, (*at, key))
    return found


PLACES = places(SOUND)


@st.composite
def mutated_tasks(draw: st.DrawFn) -> Any:
    """A sound task, of which one to four parts are replaced, removed, repeated, or put one level deeper."""
    task = copy.deepcopy(SOUND)
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from(PLACES))
        holder: Any = task
        try:
            for key in way:
                holder = holder[key]
            old = holder[last]
            match draw(st.sampled_from(["replace", "remove", "repeat", "deepen"])):
                case "replace":
                    holder[last] = draw(any_json)
                case "remove":
                    del holder[last]
                case "repeat":
                    holder[last] = [old] * draw(st.sampled_from([2, 50, MOST_ANNOTATIONS + 5]))
                case "deepen":
                    for _ in range(draw(st.sampled_from([1, 3, 900]))):
                        old = [old]
                    holder[last] = old
        except (KeyError, IndexError, TypeError):  # an earlier change has taken the place away
            continue
    return task


def check_annotation(one: Annotation, *, draft: bool) -> None:
    assert one.is_draft == draft
    assert 0 < abs(one.annotation_id) < 2**63
    assert len(one.annotator) < 50
    assert (one.label is not None) == (one.kind in ("class", "unknown_class"))
    assert one.label is None or len(one.label) <= LONGEST_CLASS
    assert one.kind != "class" or one.label in CONTROL.classes
    assert one.lead_time_s is None or 0 <= one.lead_time_s < 1e19
    assert one.created_at.utcoffset() is not None
    assert json.dumps([one.label, one.updated_at.isoformat()], ensure_ascii=False).encode()


def check_read(raw: Any) -> Counter[str]:
    """Read `raw` by every reader of tasks; the reasons that were given."""
    reasons = Counter[str]()

    def on_bad(reason: str, where: str) -> None:
        assert len(where) < 100
        reasons[reason] += 1

    task = parse_task(raw, PROJECT, on_bad)
    listed = raw.get("annotations", []) if isinstance(raw, dict) else []
    if task is None:
        assert reasons.total() == 1
    else:
        assert len(task.annotations) <= MOST_ANNOTATIONS
        sent = len(listed) if isinstance(listed, list) else 1
        assert len(task.annotations) + reasons.total() == sent, "each annotation is read or counted"
        check_task(task)
    asked = parse_asked(raw, PROJECT, frozenset(), on_bad)
    assert (asked is None) == (task is None)
    drafts = raw.get("drafts") if isinstance(raw, dict) else raw
    for draft in parse_drafts(drafts, CONTROL, "task 11", on_bad):
        check_annotation(draft, draft=True)
    assert set(reasons) <= REASONS
    return reasons


def check_task(task: Task) -> None:
    assert is_sample_id(task.sample_id)
    assert task.sample_id.encode()
    for one in task.annotations:
        check_annotation(one, draft=False)
    question = read_question(task, labels_project_id=7, classes=CONTROL.classes)
    assert question is None or question.suggestion in (None, *CONTROL.classes)
    assert question is None or len(question.asked_by_run or "") <= 100


def test_the_sound_task_is_read_whole() -> None:
    assert check_read(copy.deepcopy(SOUND)) == {}


def test_every_odd_value_in_every_place_is_read_or_counted() -> None:
    for *way, last in PLACES:
        for odd in ODD:
            task: Any = copy.deepcopy(SOUND)
            holder = task
            for key in way:
                holder = holder[key]
            holder[last] = odd
            check_read(task)


@thousands
@given(mutated_tasks())
def test_a_task_with_parts_changed_is_read_or_counted(task: Any) -> None:
    check_read(task)


@settings(thousands, max_examples=500)
@given(any_json)
def test_json_of_any_shape_is_read_or_counted(raw: Any) -> None:
    check_read(raw)


@hundreds
@given(any_json | st.lists(any_json, max_size=3))
def test_a_result_of_any_shape_is_read_or_malformed(result: Any) -> None:
    problem = ""
    try:
        kind, label = read_answer(result, CONTROL)
    except MalformedError as error:
        problem = str(error)
    else:
        assert (label is not None) == (kind in ("class", "unknown_class"))
    assert problem in {"", *REASONS}


def test_json_as_deep_as_it_can_be_is_read_or_counted() -> None:
    for place in PLACES:
        task: Any = copy.deepcopy(SOUND)
        deep: Any = []
        for _ in range(5_000):
            deep = [deep]
        *way, last = place
        holder = task
        for key in way:
            holder = holder[key]
        holder[last] = deep
        check_read(task)


SCREENS = [
    review_config(("cat", "dog")),
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image"><Choice value="cat"/>'
    '<Choice value="dog" alias="d"/></Choices></View>',
]
SNIPPETS = st.sampled_from(
    [
        "<View>", "</View>", '<Choices name="label" toName="image">', "</Choices>", '<Choice value="cat"/>',
        '<Image name="image" valueList="$x"/>', 'choice="multiple" ', 'perRegion="true" ', 'toName="a,b" ', "name=",
        '"', "'", "<", ">", "&", "&#0;", "&#10;", "&amp;", "&x;", "<!DOCTYPE v [<!ENTITY x 'y'>]>", "<!--", "-->",
        "<![CDATA[", "]]>", "<?xml version='1.0' encoding='utf-7'?>", "\x00", "\ud800", "\ufeff", "é", 'xmlns="u" ',
        "x:", " ", "$", "<Choice/>", "<View>" * 3_000, '<Choice value="cat"/>' * 6_000, "x" * 5_000,
    ]
)  # fmt: skip


@st.composite
def mutated_configs(draw: st.DrawFn) -> str:
    """A sound label config with pieces cut out, put in, or doubled."""
    text = draw(st.sampled_from(SCREENS))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + draw(st.sampled_from([0, 1, 20, 500])))))
        text = text[:start] + draw(SNIPPETS | st.just(text[start:end] * 2)) + text[end:]
    return text


controls = st.none() | st.sampled_from(["label", "verdict", "\x00", ""]) | st.builds(
    ControlChoice,
    name=st.sampled_from([None, "label"]),
    image_field=st.sampled_from([None, "image", "x"]),
    multiple=st.sampled_from(["refuse", "single"]),
)  # fmt: skip


def check_config(text: str, control: ControlChoice | str | None) -> None:
    problem = ""
    try:
        found = find_control(text, project="7", control=control)
    except ConfigError as error:
        problem = str(error)
    else:
        assert 2 <= len(set(found.classes)) == len(found.classes)
        assert all(0 < len(name) <= LONGEST_CLASS for name in found.classes)
        assert found.image_field
    assert len(problem) < 10_000
    assert "\n" not in problem


@settings(thousands, max_examples=500)
@given(mutated_configs(), controls)
def test_a_config_with_pieces_changed_is_read_or_refused_in_one_line(text: str, control: Any) -> None:
    check_config(text, control)


@hundreds
@given(st.lists(SNIPPETS | st.text(max_size=20), max_size=12).map("".join), controls)
def test_a_config_of_any_text_is_read_or_refused_in_one_line(text: str, control: Any) -> None:
    check_config(text, control)


def test_a_config_as_deep_or_as_wide_as_it_can_be_is_read_or_refused() -> None:
    attributes = " ".join(f'a{number}=""' for number in range(90_000))
    for text in ("<View>" * 70_000 + "</View>" * 70_000, f"<View {attributes}/>"):
        check_config(text, None)
