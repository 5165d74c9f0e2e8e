"""Beliefs weighed into one: the maximum, found in another way, and what moves the weights."""

from dataclasses import astuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.posterior import posterior
from fasten_model.stacking import Weights, fit_weights, stacked

DEFAULTS = torch.tensor(astuple(Weights()), dtype=torch.float64)


def told(seed: int, count: int, num_classes: int, spread: float = 2.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p, v, ℓ [P,K] and true labels that have something to do with them."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(num_classes, (count,), generator=generator)
    noise = spread * torch.randn(3, count, num_classes, generator=generator, dtype=torch.float64)
    signal = torch.nn.functional.one_hot(true, num_classes) * torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    log_p, visits, evidence = torch.log_softmax(noise + signal, dim=2)
    return log_p, visits, evidence, true


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 12), st.sampled_from([0.3, 2.0, 8.0]))
@settings(max_examples=30)
def test_the_weights_are_those_that_a_bounded_optimiser_finds(
    seed: int, count: int, num_classes: int, spread: float
) -> None:
    log_p, visits, evidence, true = told(seed, count, num_classes, spread)

    def lost(weights: object) -> tuple[float, object]:
        w = torch.as_tensor(weights, dtype=torch.float64).requires_grad_()
        belief = w[0] * log_p + w[1] * visits + w[2] * evidence
        value = torch.nn.functional.cross_entropy(belief, true, reduction="sum") + (w - DEFAULTS).square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        assert w.grad is not None
        return value.item(), w.grad.numpy()

    found = fit_weights(log_p, visits, evidence, true)
    best = minimize(lost, DEFAULTS.numpy(), jac=True, bounds=[(0, None)] * 3, options={"ftol": 1e-15, "gtol": 1e-10})
    assert min(astuple(found)) >= 0
    assert lost(astuple(found))[0] == pytest.approx(best.fun, rel=1e-6, abs=1e-6)
    assert astuple(found) == pytest.approx(best.x.tolist(), abs=1e-3)


def test_nobody_to_learn_from_leaves_the_defaults() -> None:
    none = torch.empty(0, 4)
    assert fit_weights(none, none, none, torch.empty(0, dtype=torch.int64)) == Weights()


def test_a_network_that_has_learnt_wrong_labels_by_heart_is_not_asked() -> None:
    """It says what it was told; its visits, when it did not yet know that, say what is true."""
    true, given = torch.arange(40) % 4, (torch.arange(40) + torch.arange(40) // 20) % 4
    by_heart = torch.log_softmax(8.0 * torch.nn.functional.one_hot(given, 4), dim=1)
    visits = torch.log_softmax(2.0 * torch.nn.functional.one_hot(true, 4), dim=1)
    evidence = torch.log_softmax(1.0 * torch.nn.functional.one_hot(given, 4), dim=1)
    weights = fit_weights(by_heart, visits, evidence, true)
    assert weights.network == 0 < weights.evidence < Weights().evidence
    assert weights.visits > 1
    assert torch.equal(stacked(by_heart, visits, evidence, weights).argmax(dim=1), true)
    assert not torch.equal(stacked(by_heart, visits, evidence, Weights(network=1, visits=0)).argmax(dim=1), true)


def test_with_one_belief_and_the_label_alone_it_is_the_posterior() -> None:
    log_p, visits, _, given = told(1, 30, 5)
    transition = torch.softmax(torch.eye(5, dtype=torch.float64) * 2, dim=1)
    q = stacked(log_p, visits, transition.log().t()[given], Weights(network=1.0, visits=0.0, evidence=0.7))
    torch.testing.assert_close(q, posterior(log_p.exp(), transition, given, 0.7))


def test_beliefs_that_are_no_numbers_are_refused() -> None:
    log_p, visits, evidence, true = told(0, 3, 3)
    log_p[1, 1] = torch.nan
    with pytest.raises(DataError, match="not finite; train again with a lower learning rate"):
        fit_weights(log_p, visits, evidence, true)
