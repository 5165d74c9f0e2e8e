"""The Beta distribution's distribution function and credible intervals, in plain PyTorch."""

import torch
from torch import Tensor

_TINY = 1e-300
_EXACT = 1e-13
_TERMS = 20_000
"""More than enough: the fraction takes about √max(a, b) terms."""
_HALVINGS = 50


def beta_cdf(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """I_x(a, b) = p(X ≤ x) for X ~ Beta(a, b), elementwise, float64. x in [0, 1]; a, b > 0.

    Lentz's evaluation of the continued fraction (Abramowitz and Stegun, 26.5.8), which converges fast below the mean;
    above it I_x(a, b) = 1 − I_{1−x}(b, a).
    """
    every = x + a + b
    x, a, b = (value.double().expand_as(every) for value in (x, a, b))
    above = x > (a + 1) / (a + b + 2)
    x, a, b = torch.where(above, 1 - x, x), torch.where(above, b, a), torch.where(above, a, b)
    front = torch.special.xlogy(a, x) + torch.special.xlog1py(b, -x)
    front = front + torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    share = (front.exp() * _fraction(x, a, b) / a).clamp(0, 1)
    return torch.where(above, 1 - share, share)


def _fraction(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    numerator = torch.ones_like(x)
    denominator = 1 / _away_from_0(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator, numerator = 1 / _away_from_0(1 + even * denominator), _away_from_0(1 + even / numerator)
        value = value * denominator * numerator
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        denominator, numerator = 1 / _away_from_0(1 + odd * denominator), _away_from_0(1 + odd / numerator)
        step = denominator * numerator
        value = value * step
        if not ((step - 1).abs() > _EXACT).any():
            break
    return value


def _away_from_0(value: Tensor) -> Tensor:
    return torch.where(value.abs() < _TINY, torch.full_like(value, _TINY), value)


def beta_interval(mean: Tensor, size: Tensor, mass: float = 0.95) -> tuple[Tensor, Tensor]:
    """(low, high) between which the middle `mass` of Beta(mean·size, (1−mean)·size) lies, elementwise, float64.

    mean in [0, 1]: 0 and 1 are certain, and their own interval. size > 0: the two parameters' sum. By bisection.
    """
    mean, size = mean.double().expand_as(mean + size), size.double().expand_as(mean + size)
    certain = (mean <= 0) | (mean >= 1)
    a = torch.where(certain, torch.ones_like(mean), mean * size)
    b = torch.where(certain, torch.ones_like(mean), (1 - mean) * size)
    low, high = (torch.where(certain, mean, _quantile(share, a, b)) for share in ((1 - mass) / 2, 1 - (1 - mass) / 2))
    return low, high


def _quantile(share: float, a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.zeros_like(a), torch.ones_like(a)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = beta_cdf(middle, a, b) < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
