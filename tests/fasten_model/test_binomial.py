"""Exact binomial tails and bounds, against SciPy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fasten_model.binomial import failures_allowed, lower_bound, tries_needed, upper_bound, upper_tail

LEVELS = st.floats(1e-4, 0.4)


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[int, int]:
    """(successes, tries)."""
    tries = draw(st.integers(0, 3000))
    return draw(st.integers(0, tries)), tries


@given(outcomes(), st.floats(0, 1))
def test_the_tail_is_the_one_of_scipy(outcome: tuple[int, int], chance: float) -> None:
    successes, tries = outcome
    expected = float(stats.binom.sf(successes - 1, tries, chance))
    assert upper_tail(successes, tries, chance) == pytest.approx(expected, rel=1e-8, abs=1e-290)


def test_more_successes_than_tries_do_not_happen() -> None:
    assert upper_tail(3, 2, 0.5) == upper_tail(3, 2, 1.0) == 0.0
    assert upper_tail(0, 0, 0.0) == upper_tail(2, 2, 1.0) == 1.0


@given(outcomes(), LEVELS)
def test_the_bounds_are_those_of_clopper_and_pearson(outcome: tuple[int, int], level: float) -> None:
    successes, tries = outcome
    low = float(stats.beta.ppf(level, successes, tries - successes + 1)) if successes else 0.0
    high = float(stats.beta.ppf(1 - level, successes + 1, tries - successes)) if successes < tries else 1.0
    assert lower_bound(successes, tries, level) == pytest.approx(low, abs=1e-9)
    assert upper_bound(successes, tries, level) == pytest.approx(high, abs=1e-9)


@given(st.floats(0.5, 0.99), st.floats(0.01, 0.4), st.integers(0, 5))
def test_the_tries_that_are_needed_suffice_and_one_fewer_do_not(chance: float, level: float, failures: int) -> None:
    tries = tries_needed(chance, level, failures=failures)
    assert lower_bound(tries - failures, tries, level) >= chance - 1e-12
    assert tries - 1 == failures or upper_tail(tries - 1 - failures, tries - 1, chance) > level


def test_without_an_error_the_promise_of_95_percent_takes_45() -> None:
    assert tries_needed(0.95, 0.1) == 45
    assert tries_needed(0.95, 0.1, failures=1) == 77


@given(st.integers(0, 400), st.floats(0.5, 0.99), st.floats(0.01, 0.4))
def test_the_failures_that_are_allowed_are_the_most(tries: int, chance: float, level: float) -> None:
    allowed = failures_allowed(tries, chance, level)
    assert allowed == -1 or upper_tail(tries - allowed, tries, chance) <= level
    assert allowed + 1 > tries or upper_tail(tries - allowed - 1, tries, chance) > level
    assert (allowed == -1) == (tries < tries_needed(chance, level))
