"""The reviewer's screen: image on the left; what is claimed, what the model says and the keys to press on the right.

Tags: https://labelstud.io/tags. Every `$variable` here must exist in the data of each task, or Label Studio refuses the
import; `pipeline.queue` writes them. Built as a tree and serialised, so that any class name is escaped.
"""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pipeline.errors import ConfigError
from pipeline.records import NOT_SURE, UNUSABLE, VERDICT_CONTROL

REVIEW_CONTROL = "label"
"""Name of the Choices control with the classes."""
IMAGE = "image"
"""Name of the Image tag, and key of the task data with its URL."""
TASK_VARIABLES = (IMAGE, "current_label", "suggestion", "reason")
"""Keys of the task data that the screen shows."""

CLASS_KEYS = "0123456789acdfgijlqstyz"
"""Hotkeys in the order of the classes: class 3 of ten digits is key 3. Letters that the labelling screen uses itself
(`u` unselects, `h` pans, `m`, `b`, `e`, `o`, `k`, `w`, `p`, `r`, `v` are tools) and those of the verdicts are left out;
classes after the last key are chosen with the mouse."""
VERDICT_KEYS = {UNUSABLE: "x", NOT_SURE: "n"}


def review_config(classes: Sequence[str], *, small_images: bool = False, width_px: int = 320) -> str:
    """Label config XML of a review project over `classes`, which keep their order.

    `width_px` is the width at which images are shown; `small_images` shows their pixels instead of blurring them.
    Raises `ConfigError` for fewer than two or repeated classes, and for a name that starts with `$`, which Label Studio
    would take for a variable.
    """
    if len(set(classes)) != len(classes) or len(classes) < 2 or "" in classes:
        raise ConfigError(
            f"a review screen needs two or more classes, each with a name of its own, not {list(classes)}"
        )
    variables = [name for name in classes if name.startswith("$")]
    if variables:
        raise ConfigError(f"class {variables[0]!r} starts with $, which Label Studio takes for a variable; rename it")
    root = Element("View", style="display: flex; gap: 24px; align-items: flex-start")
    left = SubElement(root, "View", style=f"flex: 0 0 {width_px}px; max-width: 50%")
    shown = {"name": IMAGE, "value": f"${IMAGE}", "maxWidth": f"{width_px}px", "zoomControl": "false"}
    if small_images:
        shown["smoothing"] = "false"
    SubElement(left, "Image", shown | {"rotateControl": "false"})
    right = SubElement(root, "View", style="flex: 1 1 auto; min-width: 280px")
    SubElement(right, "Header", value="Current label: $current_label", size="4")
    SubElement(right, "Header", value="Model says: $suggestion", size="4")
    SubElement(right, "Header", value="Why you see this: $reason", size="5")
    keys: list[str | None] = [*CLASS_KEYS]
    keys += [None] * (len(classes) - len(keys))
    _choices(right, REVIEW_CONTROL, dict(zip(classes, keys, strict=False)))
    SubElement(right, "Header", value="No single right answer?", size="5")
    _choices(right, VERDICT_CONTROL, VERDICT_KEYS)
    indent(root)
    return tostring(root, encoding="unicode")


def _choices(parent: Element, name: str, keys: dict[str, str | None] | dict[str, str]) -> None:
    control = {"name": name, "toName": IMAGE, "choice": "single-radio", "showInline": "true"}
    element = SubElement(parent, "Choices", control)
    for value, key in keys.items():
        SubElement(element, "Choice", {"value": value} | ({"hotkey": key} if key else {}))


def confidence_in_words(probability: float) -> str:
    """A probability as people say it: "almost certain (98 %)"."""
    words = "guessing"
    for limit, text in ((0.95, "almost certain"), (0.8, "confident"), (0.6, "fairly sure"), (0.4, "unsure")):
        if probability >= limit:
            words = text
            break
    return f"{words} ({probability:.0%})".replace("%", " %")
