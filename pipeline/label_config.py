"""Reading a project's labelling configuration: which Choices control holds the class, over which image.

The XML comes from whoever may edit the project, so it is parsed without entities or external references, and no more of
it than a screen can need. Label Studio's own reference: https://labelstud.io/tags/choices and
https://labelstud.io/tags/image. The SDK's label interface is not what reads it here: it expands entities, makes one
class of two with the same name, flattens nested ones and takes seconds to import. It checks what is sent
(`pipeline.label_studio.interface`).
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from pipeline.errors import ConfigError
from pipeline.records import LONGEST_CLASS, VERDICT_CONTROL, LabelControl, is_plain

LONGEST_CONFIG = 1_000_000
"""Characters of a labelling configuration: five thousand classes, each with everything that a Choice can have."""
_MOST_CLASSES = 5_000
_DATA_FIELD = re.compile(r"\$([\w-]+)\Z")
_SINGLE = ("single", "single-radio")

MultipleChoices = Literal["refuse", "single"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlChoice:
    """Which control and image of a label config hold the class, where more than one could."""

    name: str | None = None
    """The Choices control; None: the only one there is."""
    image_field: str | None = None
    """The key of task data that holds the image's URL; None: that of the Image which the control points at."""
    multiple: MultipleChoices = "refuse"
    """Of a control that allows several classes per image. `single`: an annotation with one of them is that class, and
    one with more decides nothing."""


def find_control(xml: str, *, project: str, control: ControlChoice | str | None = None) -> LabelControl:
    """The Choices control of label config `xml` that says which class an image is.

    `control` names it, or says more; without a name the only one there is taken (the review screen's verdict apart).
    `project` is only used in messages. Class names are what Label Studio writes into results: a Choice's alias where it
    has one, else its value.

    Raises `ConfigError`, listing what was found, where there is no such control or where it cannot give one class out
    of at least two to one image.
    """
    choice = control if isinstance(control, ControlChoice) else ControlChoice(name=control)
    root = parse_config(xml, project)
    element = _named(root, choice.name, project)
    where = f"Choices control {element.get('name')!r} of project {project}"
    to_name = _to_name(root, element, where)
    return LabelControl(
        name=str(element.get("name")),
        to_name=to_name,
        image_field=_image_field(root, to_name, where, choice.image_field),
        classes=_classes(element, where, choice.multiple),
    )


def parse_config(xml: str, project: str) -> Element:
    """The tree of label config `xml`; raises `ConfigError` where it is no XML, has entities or is absurdly long."""
    if len(xml) > LONGEST_CONFIG:
        raise ConfigError(
            f"the labelling configuration of project {project} has {len(xml):,} characters, and at most "
            f"{LONGEST_CONFIG:,} are read; shorten it"
        )
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except (ParseError, ValueError) as error:  # ValueError: half a surrogate pair, and defusedxml's own errors
        if isinstance(error, DefusedXmlException):
            raise ConfigError(
                f"the labelling configuration of project {project} declares a DTD or entities; remove them"
            ) from None
        problem = error if isinstance(error, ParseError) else "it holds characters that are none"
        raise ConfigError(f"the labelling configuration of project {project} is not XML: {problem}") from None
    return root


def _named(root: Element, name: str | None, project: str) -> Element:
    found = [element for element in root.iter("Choices") if element.get("name")]
    names = [str(element.get("name")) for element in found]
    if name is not None:
        matching = [element for element in found if element.get("name") == name]
        if not matching:
            raise ConfigError(
                f"project {project} has no Choices control named {name!r} "
                f"(found: {_listed(names or _others(root))}); set FASTEN_LABEL_CONTROL"
            )
        if len(matching) > 1:
            raise ConfigError(
                f"project {project} has {len(matching)} Choices controls named {name!r}; rename all but one"
            )
        return matching[0]
    matching = [element for element in found if element.get("name") != VERDICT_CONTROL]
    if not matching:
        raise ConfigError(
            f"project {project} has no Choices control (found: {_listed(_others(root))}); add <Choices> to its "
            "labelling configuration"
        )
    if len(matching) > 1:
        raise ConfigError(
            f"project {project} has several Choices controls (found: {_listed(names)}); set FASTEN_LABEL_CONTROL "
            "to the one that holds the class"
        )
    return matching[0]


def _classes(element: Element, where: str, multiple: MultipleChoices) -> tuple[str, ...]:
    for scope in ("perRegion", "perItem"):
        if element.get(scope, "false").lower() == "true":
            raise ConfigError(f"{where} is answered {scope}, not once per image; remove {scope}")
    if element.get("value", "").startswith("$"):
        raise ConfigError(f"{where} takes its choices from task data ({element.get('value')}); list them as <Choice>")
    if any(choice.find(".//Choice") is not None for choice in element.iter("Choice")):
        raise ConfigError(f"{where} nests choices; list every class as one flat <Choice>")
    classes = tuple(name for entry in element.iter("Choice") if (name := entry.get("alias") or entry.get("value")))
    allowed = element.get("choice", "single")
    if allowed not in _SINGLE and not (allowed == "multiple" and multiple == "single"):
        raise ConfigError(
            f'{where} allows several classes per image (choice="{allowed}", classes found: {_listed(list(classes))}); '
            'make it choice="single", or set FASTEN_MULTIPLE_CHOICES=single to use the answers that chose one class'
        )
    repeated = sorted(name for name, count in Counter(classes).items() if count > 1)
    if repeated:
        raise ConfigError(f"{where} lists classes twice: {_listed(repeated)}")
    if not 2 <= len(classes) <= _MOST_CLASSES:
        bound = "at least two needed" if len(classes) < 2 else f"at most {_MOST_CLASSES:,} are read"
        raise ConfigError(f"{where} has {len(classes)} class(es) (found: {_listed(list(classes))}); {bound}")
    odd = [name for name in classes if len(name) > LONGEST_CLASS or not is_plain(name)]
    if odd:
        raise ConfigError(
            f"{where} has a class that is over {LONGEST_CLASS:,} characters long or more than one line: "
            f"{_listed(odd)}; give it a short alias"
        )
    return classes


def _to_name(root: Element, element: Element, where: str) -> str:
    to_name = element.get("toName") or ""
    if "," in to_name:
        raise ConfigError(
            f"{where} points at several tags (toName={to_name!r}, images found: {_listed([*_images(root)])}); point it "
            "at the one image that the class is said of"
        )
    return to_name


def _image_field(root: Element, to_name: str, where: str, wanted: str | None) -> str:
    images = _images(root)
    if wanted is not None:
        fields = [found[1] for image in images.values() if (found := _DATA_FIELD.match(image.get("value", "")))]
        if wanted not in fields:
            raise ConfigError(
                f"no Image in the project of {where} shows ${wanted} (fields found: {_listed(fields)}); set "
                "FASTEN_IMAGE_FIELD to one of them, or to nothing"
            )
        return wanted
    if to_name not in images:
        raise ConfigError(
            f"{where} does not point at an Image (toName={to_name!r}, images found: {_listed([*images])})"
            + ("; set FASTEN_IMAGE_FIELD to the field of task data that holds the image" if images else "")
        )
    image = images[to_name]
    if image.get("valueList"):
        raise ConfigError(
            f"image {to_name!r}, which {where} points at, shows a list of images "
            f'(valueList={image.get("valueList")!r}); give it one as value="$field"'
        )
    value = image.get("value", "")
    field = _DATA_FIELD.match(value)
    if field is None:
        raise ConfigError(f'image {to_name!r}, which {where} points at, must have value="$field" (found: {value!r})')
    return field[1]


def _images(root: Element) -> dict[str, Element]:
    return {str(image.get("name")): image for image in root.iter("Image") if image.get("name")}


def _others(root: Element) -> list[str]:
    """Names of the controls that are there instead."""
    return [f"{element.tag} {element.get('name')!r}" for element in root.iter() if element.get("toName")]


def _listed(names: list[str], limit: int = 10) -> str:
    flat = [" ".join(name.split()) for name in names[:limit]]
    shown = ", ".join(name if len(name) <= 80 else f"{name[:80]}…" for name in flat) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
