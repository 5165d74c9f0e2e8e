"""What is sent fits the screen, as Label Studio's own SDK reads it; it reads label configs as `find_control` does."""

from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest

from pipeline.errors import ConfigError
from pipeline.label_config import ControlChoice, find_control
from pipeline.label_studio.interface import MOST_PROBLEMS, check_payload, label_interface
from pipeline.queue import payload_of
from pipeline.records import AskedAs, Project, ReviewTask
from pipeline.review_screen import CLASS_KEYS, review_config

CLASSES = ("cat", 'a "quoted" <b>&', "=cmd|' /C calc'!A0", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))")
SCREEN = review_config(CLASSES)
REVIEW = Project(project_id=9, title="review", control=find_control(SCREEN, project="9", control="label"))


def question(asked_as: AskedAs = "targeted", label: str = CLASSES[1], **more: Any) -> dict[str, Any]:
    task = ReviewTask(
        push_key="k" * 24,
        sample_id="s1",
        image_url="/data/upload/1.png",
        asked_as=asked_as,
        current_label=CLASSES[2],
        model_label=label,
        confidence=0.9,
        reason="the model says otherwise",
        priority=0.5,
        model_version="3",
        rank=0.25,
        **more,
    )
    return payload_of(task, REVIEW)


@pytest.mark.parametrize("asked_as", get_args(AskedAs))
@pytest.mark.parametrize("label", CLASSES)
def test_every_question_fits_the_review_screen(asked_as: AskedAs, label: str) -> None:
    assert check_payload(SCREEN, [question(asked_as, label), question(asked_as, label, references=("/a", "/b"))]) == []


def test_a_question_fits_the_screen_of_many_classes() -> None:
    many = tuple(f"class {number}" for number in range(len(CLASS_KEYS) + 5))
    project = Project(project_id=9, title="r", control=find_control(review_config(many), project="9", control="label"))
    sent = question()
    sent["predictions"][0]["result"][0]["value"] = {"choices": [project.control.classes[-1]]}
    assert check_payload(review_config(many), [sent]) == []


def change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda task: task["predictions"][0].update(changes)


def change_region(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda task: task["predictions"][0]["result"][0].update(changes)


def change_data(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda task: task["data"].update(changes)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (change_data(image=None), "lacks image, which the screen shows"),
        (lambda task: task["data"].pop("reference_2"), "lacks reference_2"),
        (lambda task: task.pop("data"), "has no data"),
        (lambda task: task.update(predictions={}), "predictions that are no list"),
        (lambda task: task.update(predictions=[3]), "predictions that are no objects"),
        (change_region(from_name="lable"), "'from_name' 'lable' not found"),
        (change_region(from_name=None), "do not fit"),
        (change_region(from_name=["label"]), "do not fit"),
        (change_region(to_name="picture"), "'to_name' 'picture' not found"),
        (change_region(to_name="reference_1"), "'to_name' 'reference_1' is not valid for control 'label'"),
        (change_region(type="rating"), "does not match expected type 'choices'"),
        (change_region(value={"choices": ["dog"]}), "Invalid value for control 'label'"),
        (change_region(value={"choices": "cat"}), "Invalid value for control 'label'"),
        (change_region(value={"choices": []}), "with the choices []"),
        (change_region(value={"choices": ["cat", CLASSES[1]]}), "which takes one"),
        (change_region(value={"label": {"choices": ["cat"]}}), "with the choices None"),
        (change_region(value=None), "do not fit"),
        (change(result=None), "'result' must be a list"),
        (change(result=[[]]), "Region must be a dictionary"),
        (change(score=1.5), "Score must be between"),
        (change(score=float("nan")), "Score must be between"),
        (change(score="0.5"), "with the score '0.5'"),
        (change(score=True), "with the score True"),
        (change_data(reason="half a pair: \ud800"), "cannot be written as JSON"),
        (change_data(reason={1, 2}), "cannot be written as JSON"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_question(
    spoil: Callable[[dict[str, Any]], None], says: str
) -> None:
    spoilt = question()
    spoil(spoilt)
    [problem] = check_payload(SCREEN, [question(), spoilt])
    assert problem.startswith("task 1")
    assert says in problem
    assert "\n" not in problem


def test_an_annotation_is_checked_as_a_prediction_is() -> None:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
    annotated = question() | {"annotations": [{"result": [region], "ground_truth": False}]}
    [problem] = check_payload(SCREEN, [annotated])
    assert "has annotations that do not fit" in problem


def test_as_many_problems_are_told_as_anybody_reads() -> None:
    assert len(check_payload(SCREEN, [{"data": {}}] * 1_000)) == MOST_PROBLEMS


def test_more_than_one_request_may_have_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.label_studio.interface.MOST_BYTES", 1_000)
    [problem] = check_payload(SCREEN, [question()] * 3)
    assert "more than the 1,000 that one request may have" in problem


@pytest.mark.parametrize(
    "xml",
    [
        "<View",
        '<!DOCTYPE v [<!ENTITY a "ha">]><View>&a;</View>',
        "<View>" * 300 + "</View>" * 300,
        "<View>" * 200_000,
    ],
)
def test_a_config_that_cannot_be_read_safely_is_one_line(xml: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_payload(xml, [question()])
    assert "\n" not in str(caught.value)


IMAGE = '<Image name="img" value="$image"/>'
TWO = '<Choice value="Cat"/><Choice value="Dog"/>'
REAL_CONFIGS: Mapping[str, tuple[str, ControlChoice]] = {
    "plain": (f'{IMAGE}<Choices name="choice" toName="img">{TWO}</Choices>', ControlChoice()),
    "radio, shown in one line": (
        f'{IMAGE}<Choices name="c" toName="img" choice="single-radio" showInLine="true">{TWO}</Choices>',
        ControlChoice(),
    ),
    "aliases and hotkeys": (
        f'{IMAGE}<Choices name="c" toName="img"><Choice value="A cat" alias="cat" hotkey="1"/>{TWO}</Choices>',
        ControlChoice(),
    ),
    "a renamed field": (
        f'<Image name="img" value="$photo_url" zoom="true"/><Choices name="c" toName="img">{TWO}</Choices>',
        ControlChoice(),
    ),
    "choices within views": (
        f'<View style="display: flex"><View>{IMAGE}</View><View><Header value="Which?"/><Choices name="c" toName="img">'
        f"<View>{TWO}</View></Choices></View></View>",
        ControlChoice(),
    ),
    "boxes beside it": (
        f'{IMAGE}<RectangleLabels name="box" toName="img"><Label value="Face"/></RectangleLabels>'
        f'<Choices name="c" toName="img">{TWO}</Choices>',
        ControlChoice(),
    ),
    "two controls": (
        f'{IMAGE}<Choices name="quality" toName="img"><Choice value="good"/><Choice value="bad"/></Choices>'
        f'<Choices name="kind" toName="img">{TWO}</Choices>',
        ControlChoice(name="kind"),
    ),
    "two images": (
        f'{IMAGE}<Image name="map" value="$map"/><Choices name="c" toName="map">{TWO}</Choices>',
        ControlChoice(),
    ),
    "multiple": (
        f'{IMAGE}<Choices name="c" toName="img" choice="multiple">{TWO}</Choices>',
        ControlChoice(multiple="single"),
    ),
    "captions and a rating": (
        f'{IMAGE}<TextArea name="caption" toName="img" rows="4"/><Rating name="stars" toName="img"/>'
        f'<Choices name="c" toName="img">{TWO}</Choices>',
        ControlChoice(),
    ),
    "a comment with a sample task": (
        f'<!-- {{"data": {{"image": "/1.png"}}}} -->{IMAGE}<Choices name="c" toName="img">{TWO}</Choices>',
        ControlChoice(),
    ),
    "odd names": (
        f'{IMAGE}<Choices name="c" toName="img"><Choice value="&lt;img&gt;"/><Choice value="K &amp; 🧀"/></Choices>',
        ControlChoice(),
    ),
    "our own screen": (SCREEN.removeprefix('<View className="fasten">').removesuffix("</View>"), ControlChoice()),
}


@pytest.mark.parametrize(("xml", "choice"), REAL_CONFIGS.values(), ids=[*REAL_CONFIGS])
def test_the_sdk_reads_the_same_control_image_and_classes(xml: str, choice: ControlChoice) -> None:
    config = f"<View>{xml}</View>"
    ours = find_control(config, project="7", control=choice)
    theirs = label_interface(config).get_control(ours.name)  # type: ignore[no-untyped-call]
    assert theirs.to_name == [ours.to_name]
    assert tuple(theirs.labels) == ours.classes
    assert theirs.get_object(ours.to_name).value_name == ours.image_field


@pytest.mark.parametrize(
    ("choices", "read"),
    [
        ('<Choice value="a"/><Choice value="a"/><Choice value="b"/>', ["a", "b"]),
        ('<Choice value="a"><Choice value="b"/></Choice>', ["a", "b"]),
    ],
    ids=["listed twice", "nested"],
)
def test_what_the_sdk_glosses_over_is_why_it_does_not_choose_the_control(choices: str, read: list[str]) -> None:
    config = f'<View>{IMAGE}<Choices name="c" toName="img">{choices}</Choices></View>'
    assert label_interface(config).get_control("c").labels == read  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError):
        find_control(config, project="7")
