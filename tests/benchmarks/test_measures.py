"""Measures against values worked out by hand, plain loops and other libraries."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.measures import (
    accuracy,
    correction,
    expected_calibration_error,
    mean_with_interval,
    student_t_975,
    transition_error,
)


def test_ece_of_four_predictions_by_hand() -> None:
    """Two bins: (0, ½] holds .5 (right); (½, 1] holds .6, .9 and 1.0, of which two are right."""
    p = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.1, 0.9], [1.0, 0.0]])
    truth = torch.tensor([0, 0, 0, 0])
    wanted = 1 / 4 * abs(1 - 0.5) + 3 / 4 * abs(2 / 3 - 2.5 / 3)
    assert expected_calibration_error(p, truth, bins=2) == pytest.approx(wanted)


@settings(derandomize=True, database=None, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 6))
def test_ece_is_the_sum_over_bins(seed: int, count: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(2 * torch.randn(count, num_classes, generator=generator, dtype=torch.float64), dim=1)
    truth = torch.randint(num_classes, (count,), generator=generator)
    confidence, right = p.max(dim=1).values.numpy(), (p.argmax(dim=1) == truth).numpy()
    wanted = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            wanted += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(p, truth) == pytest.approx(wanted)


def test_a_sure_and_right_model_has_no_calibration_error_and_a_sure_and_wrong_one_all() -> None:
    sure = torch.eye(3)
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0])) == 1


def test_transition_error_by_hand() -> None:
    true = torch.tensor([[0.8, 0.2], [0.0, 1.0]])
    found = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    error = transition_error(found, true)
    assert error.absolute == pytest.approx((0.1 + 0.1 + 0.3 + 0.3) / 4)
    # The impossible entry T[1,0] is left out; what it took is missing elsewhere in the row.
    assert error.chi2 == pytest.approx(((0.01 / 0.8 + 0.01 / 0.2) + 0.09 / 1.0) / 2)
    assert error.true_diagonal == pytest.approx(0.9)
    assert error.estimated_diagonal == pytest.approx(0.8)


def test_chi2_of_a_row_is_pearsons_statistic_of_one_observation() -> None:
    generator = torch.Generator().manual_seed(1)
    true, found = torch.softmax(torch.randn(2, 4, 4, generator=generator, dtype=torch.float64), dim=2)
    rows = [stats.chisquare(found[i].numpy(), true[i].numpy()).statistic for i in range(4)]
    assert transition_error(found, true).chi2 == pytest.approx(np.mean(rows))


def test_no_transition_error_where_the_estimate_is_the_truth() -> None:
    error = transition_error(torch.eye(3), torch.eye(3))
    assert (error.absolute, error.chi2) == (0, 0)


def test_correction_by_hand() -> None:
    """Six samples: a right relabel, a wrong one, an unsure one, two kept, and a right label that is taken away."""
    beliefs = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.9, 0.1, 0.0], [0.2, 0.8, 0.0],
                            [0.0, 0.1, 0.9]])  # fmt: skip
    given_labels = torch.tensor([1, 1, 1, 0, 1, 0])
    truth = torch.tensor([0, 2, 0, 0, 1, 0])
    found = correction(beliefs, given_labels, truth, rho=0.8)
    assert found.given == pytest.approx(3 / 6)
    assert found.correct == pytest.approx(4 / 6)  # samples 0, 2, 3, 4
    assert found.correct_of_wrong == pytest.approx(2 / 3)  # of 0, 1, 2
    assert found.relabelled == pytest.approx(3 / 6)  # 0, 1, 5
    assert found.precision == pytest.approx(1 / 3)
    assert found.recall == pytest.approx(1 / 3)


def test_what_is_undefined_is_none() -> None:
    sure = torch.eye(2)
    labels = torch.tensor([0, 1])
    found = correction(sure, labels, labels, rho=0.8)
    assert (found.correct, found.precision, found.recall, found.correct_of_wrong) == (1.0, None, None, None)
    nothing = torch.empty(0, dtype=torch.int64)
    assert accuracy(nothing, nothing) is None
    assert expected_calibration_error(torch.empty(0, 2), nothing) is None


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 9, 29, 120])
def test_quantile_of_students_t(degrees: int) -> None:
    assert student_t_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_interval_is_scipys() -> None:
    values = [0.91, 0.93, 0.90, 0.95, 0.92]
    found = mean_with_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=np.std(values, ddof=1) / math.sqrt(5))
    assert found.half_width is not None
    assert found.mean - found.half_width == pytest.approx(low)
    assert found.mean + found.half_width == pytest.approx(high)
    assert mean_with_interval([3.0]).half_width is None
