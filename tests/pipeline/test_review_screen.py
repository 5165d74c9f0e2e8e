"""The screen is a label config that `find_control` reads back, whatever the classes are called."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree.ElementTree import Element

import pytest
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.label_config import find_control
from pipeline.records import NOT_SURE, UNSHOWN, UNUSABLE, VERDICT_CONTROL, AskedAs, ReviewTask
from pipeline.review_screen import (
    CLASS_KEYS,
    FILTER_KEY,
    IMAGE,
    NEUTRAL_REASON,
    REFERENCES,
    REVIEW_CONTROL,
    TASK_VARIABLES,
    VERDICT_KEYS,
    are_small,
    confidence_in_words,
    is_earlier,
    review_config,
    screen_data,
)

QUESTION = ReviewTask(
    push_key="0" * 24,
    sample_id="s0",
    image_url="/0.png",
    current_label="cat",
    model_label="dog",
    confidence=0.97,
    reason="because",
    priority=0.5,
    model_version="1",
    references=("/1.png", "/2.png", "/3.png"),
)
names = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=20)


def tree(classes: list[str], *, small_images: bool = False) -> Element:
    root: Element = fromstring(review_config(classes, small_images=small_images))
    return root


def urls(markup: str) -> list[str]:
    """URLs of the images in `markup`, read as HTML and then as CSS; fails where there is anything else in it."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert (tag, attrs[0]) == ("span", ("class", "fasten-example"))
            [(name, style)] = attrs[1:]
            assert name == "style"
            match = re.fullmatch(r"background-image: url\('((?:[^'\\\n\r\f]|\\[0-9a-f]+ )*)'\)", style or "")
            assert match is not None
            found.append(re.sub(r"\\([0-9a-f]+) ", lambda escaped: chr(int(escaped[1], 16)), match[1]))

        def handle_data(self, data: str) -> None:
            raise AssertionError(f"text: {data!r}")

    reader = Reader()
    reader.feed(markup)
    reader.close()
    return found


@given(st.lists(names.filter(lambda name: not name.startswith("$")), min_size=2, max_size=40, unique=True))
def test_classes_survive_whatever_they_are_called(classes: list[str]) -> None:
    control = find_control(review_config(classes), project="review")
    assert control.classes == tuple(classes)
    assert (control.name, control.image_field) == (REVIEW_CONTROL, IMAGE)


def test_hotkeys_are_unique_and_ten_digits_have_their_own() -> None:
    controls = {control.get("name"): [*control] for control in tree([f"class {i}" for i in range(30)]).iter("Choices")}
    keys = [key for choice in controls[REVIEW_CONTROL] if (key := choice.get("hotkey"))]
    assert "".join(keys) == CLASS_KEYS
    assert keys[:10] == list("0123456789")
    keys += [str(choice.get("hotkey")) for choice in controls[VERDICT_CONTROL]]
    assert len({*keys, FILTER_KEY}) == len(CLASS_KEYS) + len(VERDICT_KEYS) + 1


def test_verdicts_are_a_control_of_their_own() -> None:
    verdict = next(c for c in fromstring(review_config(["a", "b"])).iter("Choices") if c.get("name") == VERDICT_CONTROL)
    assert [choice.get("value") for choice in verdict] == [UNUSABLE, NOT_SURE]


def test_variables_on_the_screen_are_those_it_declares() -> None:
    values = [element.get("value", "") for element in tree(["a", "b"], small_images=True).iter()]
    assert sorted(value for value in values if "$" in value) == sorted(f"${name}" for name in TASK_VARIABLES)


def test_what_a_task_lacks_is_not_called_undefined() -> None:
    """Label Studio fills a variable inside of other text with “undefined”, one that is the whole value with nothing."""
    named = [e for e in tree(["a", "b"]).iter() if "$" in e.get("value", "")]
    assert all(element.get("value", "").rindex("$") == 0 for element in named)


def test_styles_need_no_character_that_label_studio_escapes_and_name_no_colour() -> None:
    root = tree(["a", "b"])
    css = " ".join([root.findtext("Style") or "", *(e.get("style", "") for e in root.iter())])
    assert "fasten" in css
    assert not set("<>&") & set(css)
    colours = [value for name, value in re.findall(r"([\w-]+): *([^;]+);", css) if name in ("color", "background")]
    assert set(colours) == {"inherit", "transparent"}
    assert not any(word in css for word in ("#", "rgb", "-color"))


def test_small_images_are_shown_as_pixels() -> None:
    """The image by its attribute, the examples by style: neither says anything to the other (looked at in Chromium)."""
    for small, smoothing in ((True, "false"), (False, "true")):
        shown = tree(["a", "b"], small_images=small)
        assert next(shown.iter("Image")).get("smoothing") == smoothing
        assert ("pixelated" in (shown.findtext("Style") or "")) == small
    assert are_small([28, 32, 4000])
    assert not are_small([128, 128, 28])
    assert not are_small([])


def test_only_more_classes_than_keys_are_narrowed_down_by_typing() -> None:
    assert not [*tree([f"class {i}" for i in range(len(CLASS_KEYS))]).iter("Filter")]
    [box] = tree([f"class {i}" for i in range(len(CLASS_KEYS) + 1)]).iter("Filter")
    assert box.get("toName") == REVIEW_CONTROL
    assert box.get("cleanup") == "false"  # else a second Enter would choose the first of all classes


@pytest.mark.parametrize("asked_as", ["targeted", "recheck", "tie_break"])
def test_a_question_shows_the_label_the_suggestion_why_and_examples(asked_as: AskedAs) -> None:
    data = screen_data(replace(QUESTION, asked_as=asked_as))
    assert data["current_label"] == "cat"
    assert data["suggestion"] == "dog, almost certain (97 %)"
    assert data["reason"] == "because"
    assert [urls(data[name]) for name in REFERENCES] == [["/1.png"], ["/2.png"], ["/3.png"]]


@pytest.mark.parametrize("asked_as", sorted(UNSHOWN))
def test_a_random_question_shows_nothing_that_leads_to_an_answer(asked_as: AskedAs) -> None:
    data = screen_data(replace(QUESTION, asked_as=asked_as))
    assert data.pop("reason") == NEUTRAL_REASON
    assert set(data.values()) == {""}


def test_without_a_model_nothing_is_suggested() -> None:
    data = screen_data(replace(QUESTION, asked_as="tie_break", model_label="", confidence=0.0))
    assert data == {"current_label": "cat", "suggestion": "", "reason": "because", **dict.fromkeys(REFERENCES, "")}


def test_every_variable_is_there_for_every_question() -> None:
    for references in ((), ("/1.png",), tuple("abcde")):
        data = screen_data(replace(QUESTION, references=references))
        assert {IMAGE, *data} == set(TASK_VARIABLES)
        assert sum(data[name] != "" for name in REFERENCES) == min(len(references), 3)


def test_only_the_screen_of_an_earlier_version_is_replaced() -> None:
    earlier = '<View><Header value="Current label: $current_label"/><Choices name="verdict"/></View>'
    assert is_earlier(earlier)
    assert not is_earlier(review_config(["a", "b"]))
    assert not is_earlier(earlier.replace("Current label: ", "Is it a "))


@given(st.text(max_size=40))
def test_the_url_of_an_example_stays_a_url(url: str) -> None:
    assert urls(screen_data(replace(QUESTION, references=(url,)))["reference_1"]) == [url]


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"], ["a", ""], ["a", "$b"]])
def test_classes_that_a_screen_cannot_show_are_refused(classes: list[str]) -> None:
    with pytest.raises(ConfigError):
        review_config(classes)


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.999, "almost certain (over 99 %)"),
        (0.98, "almost certain (98 %)"),
        (0.95, "almost certain (95 %)"),
        (0.5, "unsure (50 %)"),
        (0.1, "guessing (10 %)"),
    ],
)
def test_confidence_reads_as_people_say_it(probability: float, words: str) -> None:
    assert confidence_in_words(probability) == words
