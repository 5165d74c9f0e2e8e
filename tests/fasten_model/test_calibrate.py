"""Temperature and γ: against a dense grid in float64, and safe where there is little to go by."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasten_model.calibrate import (
    EVIDENCE_SPREAD,
    MAX_EVIDENCE,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    SHARPNESS_SPREAD,
    fit_evidence,
    fit_temperature,
)
from fasten_model.errors import DataError
from fasten_model.posterior import posterior


def loss(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """Cross-entropy, sample by sample, and the prior on 1/τ."""
    beta = 1 / temperature
    total = float(beta - 1 - np.log(beta)) / SHARPNESS_SPREAD**2
    for row, label in zip(logits.double().numpy() / temperature, labels.tolist(), strict=True):
        total -= float(row[label] - row.max() - np.log(np.exp(row - row.max()).sum()))
    return total


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 6), st.sampled_from([0.3, 2.0, 20.0]))
def test_no_temperature_on_a_grid_does_better(seed: int, count: int, num_classes: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, num_classes, generator=generator)
    labels = torch.randint(num_classes, (count,), generator=generator)
    found = fit_temperature(logits, labels)
    assert MIN_TEMPERATURE <= found <= MAX_TEMPERATURE
    best = min(loss(logits, labels, float(t)) for t in np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 60))
    assert loss(logits, labels, found) <= best + 1e-6


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(true_temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator).squeeze(1)
    assert fit_temperature(true_temperature * logits, labels) == pytest.approx(true_temperature, rel=0.05)


def test_few_samples_that_are_all_right_do_not_make_the_model_certain_and_many_do() -> None:
    found = []
    for count in (3, 30, 300):
        labels = torch.arange(count) % 3
        found.append(fit_temperature(2.0 * torch.eye(3)[labels], labels))
    assert 0.7 < found[0] < 1
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.5


def test_a_few_that_are_wrong_do_not_make_it_know_nothing() -> None:
    logits = 4 * torch.eye(3)
    assert 1 < fit_temperature(logits, torch.tensor([1, 2, 0])) < 3


@pytest.mark.parametrize("count", [40, 200])
def test_a_model_that_is_as_right_as_it_says_is_left_so(count: int) -> None:
    """Right 96 times in a hundred, on average over audits that are as small as one begins with."""
    generator = torch.Generator().manual_seed(1)
    confidences = []
    for _ in range(50):
        logits = 5.5 * torch.eye(10)[torch.randint(10, (count,), generator=generator)]
        p = torch.softmax(logits, dim=1)
        temperature = fit_temperature(logits, torch.multinomial(p, 1, generator=generator).squeeze(1))
        confidences.append(float(torch.softmax(logits / temperature, dim=1).amax(dim=1).mean()))
    assert np.mean(confidences) == pytest.approx(float(p.amax()), abs=0.01)


def test_no_samples_leave_the_model_as_it_is() -> None:
    assert fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)) == 1.0


def test_constant_logits_stay_within_bounds() -> None:
    assert MIN_TEMPERATURE <= fit_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])) <= MAX_TEMPERATURE


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (torch.zeros(3), torch.zeros(3).long(), r"^logits must be \[N,K\], got \[3\]$"),
        (torch.zeros(3, 2), torch.zeros(4).long(), r"^labels must be int64 \[3\], got int64 \[4\]$"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "^labels must be from 0 to 1, found 2$"),
        (torch.zeros(3, 2), [0, 1, 1], "^labels must be a tensor, got list: "),
    ],
)
def test_labels_that_do_not_fit_are_a_data_error(logits: torch.Tensor, labels: torch.Tensor, says: str) -> None:
    with pytest.raises(DataError, match=says):
        fit_temperature(logits, labels)


@pytest.mark.parametrize("scale", [1e-6, 1e4, 1e30])
def test_logits_of_any_size_leave_it_within_bounds(scale: float) -> None:
    """All right: as it is, where logits are so large that nothing could be surer. All wrong: as unsure as can be."""
    logits = scale * torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    right, wrong = (fit_temperature(logits, labels) for labels in (logits.argmax(dim=1), logits.argmin(dim=1)))
    assert right == pytest.approx(1, abs=1e-3)
    assert wrong == pytest.approx(1 if scale < 1 else MAX_TEMPERATURE, abs=1e-3)


def test_infinite_logits_are_a_data_error() -> None:
    with pytest.raises(DataError, match="not finite"):
        fit_temperature(torch.tensor([[float("inf"), 0.0]]), torch.tensor([0]))


def pairs(count: int, seed: int, *, exponent: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(p, given, true) under NOISE: p calibrated, and the label independent of it where `exponent` is 1."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(2 * torch.randn(count, 3, generator=generator).double(), dim=1)
    given_labels = torch.randint(3, (count,), generator=generator)
    q = posterior(p, NOISE, given_labels, exponent)
    return p, given_labels, torch.multinomial(q, 1, generator=generator).squeeze(1)


NOISE = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.05, 0.05, 0.9]], dtype=torch.float64)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 60), st.floats(0, 2))
def test_no_gamma_on_a_grid_predicts_better(seed: int, count: int, exponent: float) -> None:
    p, given_labels, true = pairs(count, seed, exponent=exponent)

    def objective(gamma: float) -> float:
        total = -(((gamma - 1) / EVIDENCE_SPREAD) ** 2) / 2
        for row, said, label in zip(p.numpy(), given_labels.tolist(), true.tolist(), strict=True):
            joint = row * NOISE[:, said].numpy() ** gamma
            total += float(np.log(joint[label] / joint.sum()))
        return total

    found = fit_evidence(p, NOISE, given_labels, true)
    assert 0 <= found <= MAX_EVIDENCE
    assert objective(found) >= max(map(objective, np.linspace(0, MAX_EVIDENCE, 81))) - 1e-6


@pytest.mark.parametrize("exponent", [0.3, 1.0, 1.6])
def test_a_known_gamma_is_recovered(exponent: float) -> None:
    assert fit_evidence(*_reordered(pairs(20_000, 0, exponent=exponent))) == pytest.approx(exponent, abs=0.05)


def _reordered(
    drawn: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return drawn[0], NOISE, drawn[1], drawn[2]


def test_few_pairs_leave_gamma_near_bayes_rule_and_none_leave_it_there() -> None:
    assert fit_evidence(*_reordered(pairs(3, 1))) == pytest.approx(1, abs=0.4)
    assert fit_evidence(*_reordered(pairs(0, 1))) == pytest.approx(1)


def test_a_class_that_p_rules_out_keeps_gamma_finite() -> None:
    p = torch.tensor([[1.0, 0.0, 0.0]])
    assert 0 <= fit_evidence(p, NOISE, torch.tensor([1]), torch.tensor([2])) <= MAX_EVIDENCE
