"""Temperature: against a dense grid in float64, and safe where there is little to go by."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasten_model.calibrate import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature
from fasten_model.errors import DataError


def smoothed_loss(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """Cross-entropy against Platt's targets, sample by sample."""
    count, num_classes = logits.shape
    total = 0.0
    for row, label in zip(logits.double().numpy() / temperature, labels.tolist(), strict=True):
        log_p = row - row.max() - np.log(np.exp(row - row.max()).sum())
        target = np.full(num_classes, 1 / (count + 2) / (num_classes - 1))
        target[label] = (count + 1) / (count + 2)
        total -= float((target * log_p).sum())
    return total


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 6), st.sampled_from([0.3, 2.0, 20.0]))
def test_no_temperature_on_a_grid_does_better(seed: int, count: int, num_classes: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, num_classes, generator=generator)
    labels = torch.randint(num_classes, (count,), generator=generator)
    found = fit_temperature(logits, labels)
    assert MIN_TEMPERATURE <= found <= MAX_TEMPERATURE
    best = min(smoothed_loss(logits, labels, float(t)) for t in np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 60))
    assert smoothed_loss(logits, labels, found) <= best + 1e-6


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(true_temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator).squeeze(1)
    assert fit_temperature(true_temperature * logits, labels) == pytest.approx(true_temperature, rel=0.05)


def test_few_samples_that_are_all_right_do_not_make_the_model_certain() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
    temperature = fit_temperature(logits, torch.tensor([0, 1, 2]))
    assert torch.softmax(logits / temperature, dim=1).max().item() == pytest.approx(4 / 5, abs=1e-3)


def test_no_samples_leave_the_model_as_it_is() -> None:
    assert fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)) == 1.0


def test_constant_logits_stay_within_bounds() -> None:
    assert MIN_TEMPERATURE <= fit_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])) <= MAX_TEMPERATURE


def test_infinite_logits_are_a_data_error() -> None:
    with pytest.raises(DataError, match="not finite"):
        fit_temperature(torch.tensor([[float("inf"), 0.0]]), torch.tensor([0]))
