"""Reading a project's labelling configuration: which Choices control holds the class, over which image.

The XML comes from whoever may edit the project, so it is parsed without entities or external references. Label Studio's
own reference: https://labelstud.io/tags/choices and https://labelstud.io/tags/image.
"""

import re
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from pipeline.errors import ConfigError
from pipeline.records import VERDICT_CONTROL, LabelControl

_DATA_FIELD = re.compile(r"\$([\w-]+)\Z")
_SINGLE = ("single", "single-radio")


def find_control(xml: str, *, project: str, control: str | None = None) -> LabelControl:
    """The Choices control of label config `xml` that says which class an image is.

    `control` names it; without a name the only one there is taken (the review screen's verdict apart). `project` is
    only used in messages. Class names are what Label Studio writes into results: a Choice's alias where it has one,
    else its value.

    Raises `ConfigError`, listing what was found, where there is no such control or where it cannot give one class out
    of at least two to one image.
    """
    root = _parse(xml, project)
    found = [element for element in root.iter("Choices") if element.get("name")]
    names = [str(element.get("name")) for element in found]
    if control is not None:
        matching = [element for element in found if element.get("name") == control]
        if not matching:
            raise ConfigError(
                f"project {project} has no Choices control named {control!r} "
                f"(found: {_listed(names or _others(root))}); set FASTEN_LABEL_CONTROL"
            )
    else:
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
    element = matching[0]
    name = str(element.get("name"))
    where = f"Choices control {name!r} of project {project}"
    to_name = element.get("toName") or ""
    return LabelControl(
        name=name, to_name=to_name, image_field=_image_field(root, to_name, where), classes=_classes(element, where)
    )


def _parse(xml: str, project: str) -> Element:
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except ParseError as error:
        raise ConfigError(f"the labelling configuration of project {project} is not XML: {error}") from None
    except DefusedXmlException:
        raise ConfigError(
            f"the labelling configuration of project {project} declares a DTD or entities; remove them"
        ) from None
    return root


def _classes(element: Element, where: str) -> tuple[str, ...]:
    choice = element.get("choice", "single")
    if choice not in _SINGLE:
        raise ConfigError(f'{where} allows several classes per image (choice="{choice}"); make it choice="single"')
    for scope in ("perRegion", "perItem"):
        if element.get(scope, "false").lower() == "true":
            raise ConfigError(f"{where} is answered {scope}, not once per image; remove {scope}")
    if element.get("value", "").startswith("$"):
        raise ConfigError(f"{where} takes its choices from task data ({element.get('value')}); list them as <Choice>")
    if any(choice.find(".//Choice") is not None for choice in element.iter("Choice")):
        raise ConfigError(f"{where} nests choices; list every class as one flat <Choice>")
    classes = tuple(name for entry in element.iter("Choice") if (name := entry.get("alias") or entry.get("value")))
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise ConfigError(f"{where} lists classes twice: {_listed(repeated)}")
    if len(classes) < 2:
        raise ConfigError(
            f"{where} has {len(classes)} class(es) (found: {_listed(list(classes))}); at least two needed"
        )
    return classes


def _image_field(root: Element, to_name: str, where: str) -> str:
    images = {str(image.get("name")): image for image in root.iter("Image") if image.get("name")}
    if to_name not in images:
        raise ConfigError(
            f"{where} does not point at an Image (toName={to_name!r}, images found: {_listed([*images])})"
        )
    value = images[to_name].get("value", "")
    field = _DATA_FIELD.match(value)
    if field is None:
        raise ConfigError(f'image {to_name!r}, which {where} points at, must have value="$field" (found: {value!r})')
    return field[1]


def _others(root: Element) -> list[str]:
    """Names of the controls that are there instead."""
    return [f"{element.tag} {element.get('name')!r}" for element in root.iter() if element.get("toName")]


def _listed(names: list[str], limit: int = 10) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
