"""Label noise as it is written on the command line: `sym:0.4`, `human:worst`, `own`."""

from dataclasses import dataclass
from typing import Literal, cast

from fasten_model.errors import DataError

Kind = Literal["sym", "asym", "instance", "human", "annotators", "own"]

KINDS = {
    "sym": "sym:R  a share R of the labels is drawn anew from all K classes, the true one included",
    "asym": "asym:R  each class is taken for the one that it looks like, with probability R",
    "instance": "instance:R  a share R is wrong, which and how depends on the image (Xia et al., NeurIPS 2020)",
    "human": "human:COLUMN  labels by people: a column of the data; human:raters takes all of rater_1, rater_2, …",
    "annotators": "annotators:R  R simulated annotators, about 30 % wrong each, who do not all label everything",
    "own": "own  the labels that the data came with",
}
MOST_ANNOTATORS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSpec:
    """One kind of noise."""

    kind: Kind
    rate: float = 0.0
    """sym, asym, instance: 0…1."""
    column: str = ""
    """human: the name of the column."""
    annotators: int = 0
    """annotators: how many, from 1."""

    def __str__(self) -> str:
        match self.kind:
            case "human":
                return f"human:{self.column}"
            case "annotators":
                return f"annotators:{self.annotators}"
            case "own":
                return "own"
        return f"{self.kind}:{self.rate:g}"


def parse_noise(text: str) -> NoiseSpec:
    """`sym:0.4` → NoiseSpec; DataError, one line, says what is wrong with any other text."""
    kind, colon, value = text.strip().partition(":")
    if kind not in KINDS:
        raise DataError(f"no noise is called {text!r}; there are {', '.join(KINDS)}")
    if kind == "own":
        if colon:
            raise DataError(f"the noise {text!r} takes no value; write own")
        return NoiseSpec(kind="own")
    if kind == "human":
        if not value:
            raise DataError(f"the noise {text!r} names no column; write for example human:worst")
        return NoiseSpec(kind="human", column=value)
    if kind == "annotators":
        if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= MOST_ANNOTATORS):
            raise DataError(f"the noise {text!r} needs a whole number from 1 to {MOST_ANNOTATORS}: annotators:3")
        return NoiseSpec(kind="annotators", annotators=int(value))
    return NoiseSpec(kind=cast(Kind, kind), rate=_rate(text, value))


def _rate(text: str, value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:  # NaN too
        raise DataError(f"the noise {text!r} needs a rate from 0 to 1, for example {text.partition(':')[0]}:0.4")
    return rate
