"""The screen is a label config that `find_control` reads back, whatever the classes are called."""

import pytest
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.label_config import find_control
from pipeline.records import NOT_SURE, UNUSABLE, VERDICT_CONTROL
from pipeline.review_screen import (
    CLASS_KEYS,
    IMAGE,
    REVIEW_CONTROL,
    TASK_VARIABLES,
    VERDICT_KEYS,
    confidence_in_words,
    review_config,
)

names = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=20)


@given(st.lists(names.filter(lambda name: not name.startswith("$")), min_size=2, max_size=40, unique=True))
def test_classes_survive_whatever_they_are_called(classes: list[str]) -> None:
    control = find_control(review_config(classes), project="review")
    assert control.classes == tuple(classes)
    assert (control.name, control.image_field) == (REVIEW_CONTROL, IMAGE)


def test_hotkeys_are_unique_and_ten_digits_have_their_own() -> None:
    tree = fromstring(review_config([f"class {i}" for i in range(30)]))
    keys = [choice.get("hotkey") for choice in tree.iter("Choice") if choice.get("hotkey")]
    assert keys[:10] == list("0123456789")
    assert len(set(keys)) == len(keys) == len(CLASS_KEYS) + len(VERDICT_KEYS)


def test_verdicts_are_a_control_of_their_own() -> None:
    verdict = next(c for c in fromstring(review_config(["a", "b"])).iter("Choices") if c.get("name") == VERDICT_CONTROL)
    assert [choice.get("value") for choice in verdict] == [UNUSABLE, NOT_SURE]


def test_variables_on_the_screen_are_those_it_declares() -> None:
    xml = review_config(["a", "b"], small_images=True)
    values = [word.strip("$") for e in fromstring(xml).iter() for word in e.get("value", "").split() if word[0] == "$"]
    assert sorted(values) == sorted(TASK_VARIABLES)


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"], ["a", ""], ["a", "$b"]])
def test_classes_that_a_screen_cannot_show_are_refused(classes: list[str]) -> None:
    with pytest.raises(ConfigError):
        review_config(classes)


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.98, "almost certain (98 %)"),
        (0.95, "almost certain (95 %)"),
        (0.5, "unsure (50 %)"),
        (0.1, "guessing (10 %)"),
    ],
)
def test_confidence_reads_as_people_say_it(probability: float, words: str) -> None:
    assert confidence_in_words(probability) == words
