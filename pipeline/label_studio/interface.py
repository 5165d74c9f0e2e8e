"""The SDK's label interface: what is to be sent, checked against the label config before it goes.

Label Studio takes a prediction with a class, a control or a score that its screen does not know for an answer of 201,
and drops it or shows nothing; of the data it misses only what a tag with a name shows. The interface is given a config
that was parsed without entities (`label_config.parse_config`) and written anew. Importing it takes seconds, so that is
left to the first check.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import tostring

import orjson

from pipeline.errors import ConfigError
from pipeline.label_config import parse_config

if TYPE_CHECKING:
    from label_studio_sdk.label_interface.interface import LabelInterface

MOST_PROBLEMS = 20
"""More are not looked for: they are of one kind by then."""
MOST_BYTES = 200_000_000
"""Of one request: Label Studio answers 500 to 250 MB."""
_LONGEST = 300
_SINGLE = ("single", "single-radio")


def check_payload(label_config: str, tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with tasks that are to be imported into a project with that label config; nothing, if all is well.

    Looks at the data that named tags of the screen show, at every prediction's and annotation's control, image, type
    and choices, at scores, and at the size of it all as one request. At most `MOST_PROBLEMS` lines, each with the push
    key of its task or its place. Raises `ConfigError` where the config cannot be read.
    """
    interface = label_interface(label_config)
    problems: list[str] = []
    size = 0
    for number, task in enumerate(tasks):
        where = f"task {number}"
        data = task.get("data")
        if isinstance(data, Mapping) and isinstance(data.get("push_key"), str):
            where += f" ({data['push_key'][:64]!r})"
        try:
            size += len(orjson.dumps(task))
        except TypeError as error:
            problems.append(f"{where} cannot be written as JSON: {error}")
            continue
        problems += [f"{where} {problem}"[:_LONGEST] for problem in _problems(interface, task)]
        if len(problems) >= MOST_PROBLEMS:
            return problems[:MOST_PROBLEMS]
    if size > MOST_BYTES:
        problems.append(
            f"{len(tasks)} tasks are {size:,} bytes, more than the {MOST_BYTES:,} that one request may have; send fewer"
        )
    return problems


@lru_cache(maxsize=4)
def label_interface(label_config: str) -> "LabelInterface":
    """The SDK's reading of a label config; raises `ConfigError` where there is none."""
    root = parse_config(label_config, "to be checked against")
    from label_studio_sdk.label_interface.interface import LabelInterface

    try:
        return LabelInterface(tostring(root, encoding="unicode"))
    except Exception as error:  # the SDK raises whatever it runs into
        raise ConfigError(f"Label Studio's SDK cannot read the labelling configuration ({error}); mend it") from None


def _problems(interface: "LabelInterface", task: Mapping[str, Any]) -> Iterator[str]:
    data = task.get("data")
    if not isinstance(data, dict):
        yield "has no data"
        return
    try:
        shown = interface.validate_task({"data": data})  # type: ignore[arg-type]
    except (AttributeError, TypeError) as error:  # a tag without a value
        yield f"cannot be checked: {error}"
        return
    if not shown:
        variables = {each.value_name for each in interface.objects if each.value_is_variable}
        missing = sorted(name for name in variables if data.get(name) is None)
        yield f"lacks {', '.join(missing)}, which the screen shows"
    for kind in ("predictions", "annotations"):
        given = task.get(kind, ())
        if not isinstance(given, list | tuple):
            yield f"has {kind} that are no list"
            continue
        for one in given:
            if not isinstance(one, dict):
                yield f"has {kind} that are no objects"
                continue
            yield from _answer_problems(interface, one, kind)


def _answer_problems(interface: "LabelInterface", answer: Mapping[str, Any], kind: str) -> Iterator[str]:
    score = answer.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        yield f"has {kind} with the score {score!r}"  # the SDK would take text that spells a number
    found: list[str] = interface.validate_prediction(answer, return_errors=True)  # type: ignore[no-untyped-call]
    yield from (f"has {kind} that do not fit: {problem}" for problem in found)
    if found:
        return
    for region in answer["result"]:
        name, value = region.get("from_name"), region.get("value")
        if region["type"] == "relation":
            continue
        if not isinstance(name, str):  # which the SDK takes for the only control there is
            yield f"has {kind} of no control"
        elif region["type"].lower() == "choices":
            # The SDK lets pass what lies one level deeper, no choice at all, and two of a control that takes one.
            choices = value.get("choices") if isinstance(value, dict) else None
            allowed = interface.get_control(name).attr.get("choice", "single")  # type: ignore[no-untyped-call]
            if not isinstance(choices, list) or not choices or (len(choices) > 1 and allowed in _SINGLE):
                yield f"has {kind} with the choices {choices!r} of {name!r}, which takes one of its own"
