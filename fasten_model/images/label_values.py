"""Labels as a file holds them: names of classes, or whole numbers."""

import math
import re
from collections.abc import Iterable
from typing import Any

_NUMBER = re.compile(r"[+-]?\d+")


def plain_label(value: Any) -> Any:
    """The integer that a whole double stands for, None for NaN, else `value`: pandas writes integers with gaps so."""
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() else value


def are_indices(classes: Iterable[str]) -> bool:
    """Whether a whole number is an index into these classes: where one of them looks like a number, it is a name."""
    return not any(_NUMBER.fullmatch(name) for name in classes)
