"""The Beta distribution, against SciPy's."""

import numpy as np
import pytest
import scipy.stats
import torch

from fasten_model.beta import beta_cdf, beta_interval


def parameters(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """a and b from 0.01 to 10,000 each."""
    chance = torch.Generator().manual_seed(1)
    a, b = (10 ** (torch.rand(count, generator=chance, dtype=torch.float64) * 6 - 2) for _ in range(2))
    return a, b


def test_the_distribution_function_is_scipys() -> None:
    a, b = parameters(400)
    x = torch.rand(400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    np.testing.assert_allclose(beta_cdf(x, a, b), scipy.stats.beta.cdf(x, a, b), atol=1e-10)
    ends = torch.tensor([0.0, 1.0])
    assert beta_cdf(ends, torch.tensor(2.0), torch.tensor(0.5)).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("mass", [0.5, 0.95])
def test_intervals_are_scipys(mass: float) -> None:
    a, b = parameters(200)
    for bound, share in zip(beta_interval(a / (a + b), a + b, mass), ((1 - mass) / 2, (1 + mass) / 2), strict=True):
        np.testing.assert_allclose(bound, scipy.stats.beta.ppf(share, a, b), atol=1e-9)


def test_what_is_certain_is_its_own_interval() -> None:
    low, high = beta_interval(torch.tensor([0.0, 1.0]), torch.tensor(10.0))
    assert low.tolist() == high.tolist() == [0.0, 1.0]
