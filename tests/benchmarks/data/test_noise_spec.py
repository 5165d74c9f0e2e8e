"""How noise is written."""

import pytest

from benchmarks.data import KINDS, NoiseSpec, parse_noise
from fasten_model.errors import DataError


@pytest.mark.parametrize(
    "text", ["sym:0.2", "asym:0.4", "instance:0.35", "human:worst", "human:raters", "annotators:3", "own", "sym:0"]
)
def test_what_is_parsed_prints_as_it_was_written(text: str) -> None:
    assert str(parse_noise(text)) == text


def test_a_rate_is_a_number() -> None:
    assert parse_noise(" sym:0.40 ") == NoiseSpec(kind="sym", rate=0.4)


def test_every_kind_is_described_under_its_name() -> None:
    assert all(line.startswith(kind) for kind, line in KINDS.items())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gauss:0.1", "no noise is called 'gauss:0.1'; there are sym, asym"),
        ("", "no noise is called ''"),
        ("sym", "'sym' needs a rate from 0 to 1, for example sym:0.4"),
        ("sym:1.2", "needs a rate"),
        ("asym:nan", "needs a rate"),
        ("instance:-0.1", "needs a rate"),
        ("sym:many", "needs a rate"),
        ("human:", "names no column"),
        ("annotators:0", "whole number from 1 to 100"),
        ("annotators:2.5", "whole number"),
        ("annotators:1000", "whole number"),
        ("own:1", "takes no value"),
    ],
)
def test_anything_else_is_one_clear_line(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as raised:
        parse_noise(text)
    assert "\n" not in str(raised.value)
