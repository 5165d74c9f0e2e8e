"""The reviewer's screen: image on the left; what is claimed, what the model says and the keys to press on the right.

Tags: https://labelstud.io/tags. A `value` of the config is either fixed text or exactly one `$variable` of the task's
data: then a task that lacks it shows nothing, where `Current label: $current_label` would show “undefined”, and a
caption whose value is empty hides itself. So one config serves every kind of question, and those of earlier versions.
Built as a tree and serialised, so that any class name is escaped.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from statistics import median
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pipeline.errors import ConfigError
from pipeline.records import NOT_SURE, UNSHOWN, UNUSABLE, VERDICT_CONTROL, ReviewTask

REVIEW_CONTROL = "label"
"""Name of the Choices control with the classes."""
IMAGE = "image"
"""Name of the Image tag, and key of the task data with its URL."""
REFERENCES = ("reference_1", "reference_2", "reference_3")
"""Keys of the task data with the images of the suggested class, as markup: see `screen_data`."""
TASK_VARIABLES = (IMAGE, "current_label", "suggestion", "reason", *REFERENCES)
"""Keys of the task data that the screen shows. Label Studio refuses a task without those of its named tags, which are
the image and the references."""

CLASS_KEYS = "0123456789acdfgijlqstyz"
"""Hotkeys in the order of the classes: class 3 of ten digits is key 3. Letters that the labelling screen uses itself
(`u` unselects, `h` pans, `m`, `b`, `e`, `o`, `k`, `w`, `p`, `r`, `v` are tools) and those of the verdicts are left out;
classes after the last key are found by typing a part of their name, or with the mouse."""
VERDICT_KEYS = {UNUSABLE: "x", NOT_SURE: "n"}
FILTER_KEY = "/"
"""Key that puts the cursor into the box that narrows the classes down."""
NEUTRAL_REASON = "Random check: say what you see."
"""Said of every question that must lead nobody to an answer, whichever of `UNSHOWN` it is."""

SMALL_SIDE_PX = 128
"""Images whose longer side is below this are shown as pixels; above, nearest neighbours would only look jagged."""

_STYLE = """
.fasten { display: flex; gap: 24px; align-items: flex-start; }
.fasten-image { flex: 0 1 %(width)s; min-width: 200px; position: sticky; top: 0; }
.fasten-image .lsf-toolbar { display: none; }
.fasten-side { flex: 1 1 0; min-width: 280px; }
.fasten-claims { display: flex; flex-wrap: wrap; column-gap: 32px; }
.fasten-row:has(:empty), .fasten-references:not(:has(.fasten-example)) { display: none; }
.fasten-examples { display: flex; gap: 8px; margin-top: 4px; }
.fasten-example { display: block; width: 72px; height: 72px; image-rendering: %(rendering)s;
  background-position: center; background-repeat: no-repeat; background-size: contain; }
.fasten-side:has(input:checked) .fasten-none,
.fasten-side:not(:has(input:checked)) .fasten-some { display: none; }
.fasten-side .ant-input { background: transparent; color: inherit; }
.fasten-many .lsf-choices { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); }
"""
"""Without `>`, `<` and `&`, which Label Studio would escape. No colours: those of the theme, light or dark, apply. The
classes `lsf-…` and `ant-…` are Label Studio's own (1.23): where they change, only the looks suffer."""
_NOT_IN_CSS = frozenset("'\\\n\r\f")
"""What would end a string in CSS, or begin an escape."""
_CAPTION = "margin: 8px 0 0; font-size: 13px; line-height: 18px; font-weight: 400; opacity: 0.75"
_VALUE = "margin: 0"


def review_config(classes: Sequence[str], *, small_images: bool = False, width_px: int = 640) -> str:
    """Label config XML of a review project over `classes`, which keep their order.

    `width_px` is the most that the image's column is wide, half of the screen apart; `small_images` shows the pixels of
    what is enlarged instead of blurring them (`are_small`). Raises `ConfigError` for fewer than two or repeated
    classes, and for a name that starts with `$`, which Label Studio would take for a variable.
    """
    if len(set(classes)) != len(classes) or len(classes) < 2 or "" in classes:
        raise ConfigError(
            f"a review screen needs two or more classes, each with a name of its own, not {list(classes)}"
        )
    variables = [name for name in classes if name.startswith("$")]
    if variables:
        raise ConfigError(f"class {variables[0]!r} starts with $, which Label Studio takes for a variable; rename it")
    many = len(classes) > len(CLASS_KEYS)
    root = Element("View", className="fasten")
    rendering = "pixelated" if small_images else "auto"
    SubElement(root, "Style").text = _STYLE % {"width": f"min({width_px}px, 50%)", "rendering": rendering}
    left = SubElement(root, "View", className="fasten-image")
    tools = ("zoomControl", "rotateControl", "selectionControl")
    # Said in either case: a browser remembers what another project's screen has said.
    shown = {"name": IMAGE, "value": f"${IMAGE}", "maxWidth": "100%", "smoothing": "false" if small_images else "true"}
    SubElement(left, "Image", shown | dict.fromkeys(tools, "false"))
    right = SubElement(root, "View", className="fasten-side")
    claims = SubElement(right, "View", className="fasten-claims")
    _row(claims, "Current label", "current_label")
    _row(claims, "The model says", "suggestion")
    _row(right, "Why you are asked", "reason", size="5")
    _references(right)
    if many:  # the other answers above them, or they would be out of sight
        _verdicts(right)
        _caption(right, f"{FILTER_KEY} and a part of the name narrow the classes down; then Tab, and Space to choose")
        box = {"name": "narrow", "toName": REVIEW_CONTROL, "minlength": "1", "hotkey": FILTER_KEY}
        # With its text left in place, Enter can only choose what the box still shows, never the first of all classes.
        SubElement(right, "Filter", box | {"cleanup": "false", "placeholder": "Part of a name"})
    keys: list[str | None] = [*CLASS_KEYS]
    keys += [None] * (len(classes) - len(keys))
    choices = SubElement(right, "View", className="fasten-many" if many else "fasten-few")
    _choices(choices, REVIEW_CONTROL, dict(zip(classes, keys, strict=False)))
    if not many:
        _verdicts(right)
    indent(root)
    return tostring(root, encoding="unicode")


def _row(parent: Element, caption: str, variable: str, *, size: str = "4") -> None:
    row = SubElement(parent, "View", className="fasten-row")
    _caption(row, caption)
    SubElement(row, "Header", value=f"${variable}", size=size, style=_VALUE)


def _caption(parent: Element, text: str) -> None:
    SubElement(parent, "Header", value=text, size="5", style=_CAPTION)


def _references(parent: Element) -> None:
    block = SubElement(parent, "View", className="fasten-references")
    _caption(block, "Checked examples of that class")
    examples = SubElement(block, "View", className="fasten-examples")
    for name in REFERENCES:
        SubElement(examples, "HyperText", name=name, value=f"${name}", inline="true", selectionEnabled="false")


def _verdicts(parent: Element) -> None:
    """The answers that are no class, and whether there is anything to send."""
    _caption(parent, "No single right answer?")
    _choices(parent, VERDICT_CONTROL, VERDICT_KEYS)
    _caption(SubElement(parent, "View", className="fasten-some"), "Ctrl+Enter sends what is selected.")
    _caption(SubElement(parent, "View", className="fasten-none"), "Nothing is selected yet.")


def _choices(parent: Element, name: str, keys: dict[str, str | None] | dict[str, str]) -> None:
    control = {"name": name, "toName": IMAGE, "choice": "single-radio", "showInline": "true"}
    element = SubElement(parent, "Choices", control)
    for value, key in keys.items():
        SubElement(element, "Choice", {"value": value} | ({"hotkey": key} if key else {}))


def screen_data(task: ReviewTask) -> dict[str, str]:
    """What the screen shows of `task` beside its image: every one of `TASK_VARIABLES` but `image`.

    Empty where nothing is to be shown: a question of `UNSHOWN` says neither a label nor why it is asked, and one
    without a model behind it suggests nothing.
    """
    shown = task.asked_as not in UNSHOWN
    suggested = shown and task.model_label != ""
    images = [_image(url) for url in task.references[: len(REFERENCES)]] if suggested else []
    images += [""] * (len(REFERENCES) - len(images))
    return {
        "current_label": task.current_label if shown else "",
        "suggestion": f"{task.model_label}, {confidence_in_words(task.confidence)}" if suggested else "",
        "reason": task.reason if shown else NEUTRAL_REASON,
        **dict(zip(REFERENCES, images, strict=True)),
    }


def _image(url: str) -> str:
    """Markup that shows one image, or nothing where it cannot be loaded.

    A background, because Label Studio takes `data:` URIs out of `<img>`, and a broken one would say so; in single
    quotes, among which it finds the `s3://…` that it serves itself.
    """
    quoted = "".join(f"\\{ord(character):x} " if character in _NOT_IN_CSS else character for character in url)
    return f"""<span class="fasten-example" style="background-image: url('{escape(quoted)}')"></span>"""


def what_is_seen(data: Mapping[str, Any], image_field: str = IMAGE) -> str:
    """Equal for two tasks that a reviewer would not tell apart: image, claims, and how sure the model is, in words.

    The per cent beside those words move with every training and are left out, as are the reference images, which are
    good examples of the class whichever they are.
    """
    suggestion = data.get("suggestion")
    in_words = suggestion.rpartition(" (")[0] if isinstance(suggestion, str) else suggestion
    seen = [data.get(image_field), data.get("current_label"), in_words, data.get("reason")]
    return sha256(json.dumps(seen, default=str).encode()).hexdigest()[:24]


def is_earlier(label_config: str) -> bool:
    """Whether `label_config` is a review screen as earlier versions made it, which people have not made their own.

    It may be replaced by `review_config` of the same classes: answers stay, and waiting questions show what they have.
    """
    return "Current label: $current_label" in label_config and f'name="{VERDICT_CONTROL}"' in label_config


def are_small(sides: Sequence[int]) -> bool:
    """Whether images are to be shown as pixels, given the longer side of each: the median is below `SMALL_SIDE_PX`."""
    return bool(sides) and median(sides) < SMALL_SIDE_PX


def confidence_in_words(probability: float) -> str:
    """A probability as people say it: "almost certain (98 %)"."""
    words = "guessing"
    for limit, text in ((0.95, "almost certain"), (0.8, "confident"), (0.6, "fairly sure"), (0.4, "unsure")):
        if probability >= limit:
            words = text
            break
    share = "over 99 %" if probability > 0.99 else f"{100 * probability:.0f} %"
    return f"{words} ({share})"
