"""What counts as a label control, and what is said where there is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.label_config import LONGEST_CONFIG, ControlChoice, find_control
from pipeline.records import LONGEST_CLASS, VERDICT_CONTROL

CHOICES = '<Choices name="label" toName="photo"><Choice value="cat"/><Choice value="dog"/></Choices>'


def config(*controls: str, image: str = '<Image name="photo" value="$url"/>') -> str:
    return f"<View>{image}{''.join(controls)}</View>"


def test_the_only_choices_control_is_found() -> None:
    control = find_control(config(CHOICES), project="7 (pets)")
    assert (control.name, control.to_name, control.image_field) == ("label", "photo", "url")
    assert control.classes == ("cat", "dog")


def test_classes_keep_their_order_and_an_alias_is_the_name_in_results() -> None:
    choices = '<Choices name="l" toName="photo"><Choice value="Zebra"/><Choice value="A cat" alias="cat"/></Choices>'
    assert find_control(config(choices), project="7").classes == ("Zebra", "cat")


def test_named_control_is_taken_among_several() -> None:
    other = CHOICES.replace('"label"', '"weather"').replace("cat", "sun")
    assert find_control(config(CHOICES, other), project="7", control="weather").classes == ("sun", "dog")


def test_verdict_of_the_review_screen_is_not_a_label_control() -> None:
    verdict = CHOICES.replace('"label"', f'"{VERDICT_CONTROL}"')
    assert find_control(config(verdict, CHOICES), project="7").name == "label"


TWO_IMAGES = '<Image name="photo" value="$url"/><Image name="map" value="$map_url"/>'
MULTIPLE = CHOICES.replace("toName", 'choice="multiple" toName')


def test_the_image_is_the_one_that_the_control_points_at() -> None:
    of_the_map = CHOICES.replace('"photo"', '"map"')
    assert find_control(config(CHOICES, image=TWO_IMAGES), project="7").image_field == "url"
    assert find_control(config(of_the_map, image=TWO_IMAGES), project="7").image_field == "map_url"


@pytest.mark.parametrize("to_name", ["photo", "text"])
def test_another_image_is_taken_where_it_is_set(to_name: str) -> None:
    text = '<Text name="text" value="$text"/>'
    xml = config(CHOICES.replace('"photo"', f'"{to_name}"'), image=TWO_IMAGES + text)
    control = find_control(xml, project="7", control=ControlChoice(image_field="map_url"))
    assert (control.to_name, control.image_field) == (to_name, "map_url")


@pytest.mark.parametrize("name", [None, "label"])
def test_a_control_with_several_classes_per_image_is_taken_where_that_is_set(name: str | None) -> None:
    control = find_control(config(MULTIPLE), project="7", control=ControlChoice(name=name, multiple="single"))
    assert control == find_control(config(CHOICES), project="7")


BOXES = '<RectangleLabels name="bbox" toName="photo"><Label value="cat"/></RectangleLabels>'


@pytest.mark.parametrize(
    ("xml", "control", "expected"),
    [
        (config(BOXES), None, "project 7 has no Choices control (found: RectangleLabels 'bbox')"),
        (config(BOXES), "label", "no Choices control named 'label' (found: RectangleLabels 'bbox')"),
        (config(CHOICES), "kind", "no Choices control named 'kind' (found: label); set FASTEN_LABEL_CONTROL"),
        (config(CHOICES, CHOICES.replace('"label"', '"b"')), None, "several Choices controls (found: label, b)"),
        (
            config(MULTIPLE),
            None,
            'found: cat, dog); make it choice="single", or set FASTEN_MULTIPLE_CHOICES=single',
        ),
        (config(MULTIPLE.replace("multiple", "some")), ControlChoice(multiple="single"), 'choice="some"'),
        (
            config(CHOICES.replace('"photo"', '"photo,map"'), image=TWO_IMAGES),
            None,
            "points at several tags (toName='photo,map', images found: photo, map)",
        ),
        (
            config(CHOICES, image=TWO_IMAGES),
            ControlChoice(image_field="text"),
            "no Image in the project of Choices control 'label' of project 7 shows $text (fields found: url, map_url)",
        ),
        (config(CHOICES, image='<Image name="photo" valueList="$urls"/>'), None, "shows a list of images"),
        (config(CHOICES, CHOICES.replace("dog", "eel")), "label", "2 Choices controls named 'label'"),
        (config(CHOICES.replace("dog", "d" * (LONGEST_CLASS + 1))), None, f"over {LONGEST_CLASS:,} characters long"),
        (config(CHOICES.replace("dog", "do&#10;g")), None, "more than one line: do g; give it a short alias"),
        (config(*(["<View/>"] * (LONGEST_CONFIG // 6))), None, f"at most {LONGEST_CONFIG:,} are read"),
        (config(CHOICES.replace("toName", 'perRegion="true" toName')), None, "perRegion"),
        (config(CHOICES.replace("toName", 'value="$options" toName')), None, "takes its choices from task data"),
        (config(CHOICES.replace('<Choice value="dog"/>', "")), None, "has 1 class(es) (found: cat)"),
        (config(CHOICES.replace("dog", "cat")), None, "lists classes twice: cat"),
        (config('<Choices name="l" toName="photo"/>'), None, "has 0 class(es)"),
        (
            config('<Choices name="l" toName="photo"><Choice value="a"><Choice value="b"/></Choice></Choices>'),
            None,
            "nests choices",
        ),
        (config(CHOICES, image='<Text name="photo" value="$t"/>'), None, "does not point at an Image"),
        (
            config(CHOICES.replace('"photo"', '"text"'), image=TWO_IMAGES),
            None,
            "(toName='text', images found: photo, map); set FASTEN_IMAGE_FIELD",
        ),
        (config(CHOICES, image='<Image name="photo" value="https://x/$id.png"/>'), None, 'must have value="$field"'),
        ("<View><Choices", None, "is not XML"),
        ("", None, "is not XML"),
    ],
)
def test_a_config_that_gives_no_single_class_is_one_clear_line(
    xml: str, control: ControlChoice | str | None, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        find_control(xml, project="7", control=control)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entities_are_never_expanded() -> None:
    laughs = '<!DOCTYPE v [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + config(CHOICES.replace("cat", "&b;"))
    with pytest.raises(ConfigError, match="declares a DTD or entities"):
        find_control(laughs, project="7")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_never_another_error(text: str) -> None:
    with pytest.raises(ConfigError):
        find_control(text, project="7")
