"""Temperature scaling (Guo et al., ICML 2017, section 4.2) and the weight of the given label, safe for few samples."""

import torch
from torch import Tensor

from fasten_model.checks import check_labels
from fasten_model.errors import DataError

MIN_TEMPERATURE = 0.05
MAX_TEMPERATURE = 20.0
SHARPNESS_SPREAD = 0.5
"""Standard deviation of 1/τ, about, before any sample is seen."""
MAX_EVIDENCE = 2.0
EVIDENCE_SPREAD = 0.5
"""Standard deviation of γ before any pair is seen."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The τ within [0.05, 20] for which softmax(logits / τ) predicts held-out labels best.

    Maximises Σ log p[label] − (β − 1 − log β)/0.5² over β = 1/τ, which is concave, by bisecting its derivative. The
    latter term is a Gamma prior with its mode at β = 1: a few samples that are all right do not make a model infinitely
    sure, nor a few that are wrong infinitely unsure. (Targets that are no certainties, Platt's, do so too, but leave
    forty predictions that are right 96 times in a hundred at 94 %.) No samples: 1.0.

    logits [N,K]: clean head on samples whose truth it was not told. labels int64 [N]: their true classes.
    Raises DataError if a logit is not finite, or the labels are not N of K classes.
    """
    if logits.ndim != 2:
        raise DataError(f"logits must be [N,K], got {list(logits.shape)}")
    count, num_classes = logits.shape
    check_labels("labels", labels, count, num_classes)
    if count == 0 or num_classes < 2:
        return 1.0
    z = logits.detach().double().cpu()
    if not torch.isfinite(z).all():
        raise DataError("cannot calibrate: the model's outputs are not finite; train again with a lower learning rate")
    reached = z.gather(1, labels.cpu()[:, None]).sum()

    def slope(beta: float) -> float:
        return float(reached - (torch.softmax(beta * z, dim=1) * z).sum()) - (1 - 1 / beta) / SHARPNESS_SPREAD**2

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low) <= 0:
        return MAX_TEMPERATURE
    if slope(high) >= 0:
        return MIN_TEMPERATURE
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return 2 / (low + high)


def fit_evidence(probabilities: Tensor, transition: Tensor, given_labels: Tensor, true_labels: Tensor) -> float:
    """The γ within [0, 2] with which q ∝ T[:,given]^γ·p predicts the true class of held-out pairs best.

    `fit_evidence_of` with log T[:,given]. transition [K,K]: positive, and not counted from these pairs. given_labels
    int64 [P].
    """
    log_t = transition.detach().double().cpu().log().t()[given_labels.cpu()]  # [P, K]: log T[:, given]
    return fit_evidence_of(probabilities, log_t, true_labels)


def fit_evidence_of(probabilities: Tensor, log_likelihood: Tensor, true_labels: Tensor) -> float:
    """The γ within [0, 2] with which q ∝ p·exp(γℓ) predicts the true class of held-out pairs best.

    Maximises Σ log q[true] − (γ−1)²/(2·0.5²), concave in γ, by bisecting its derivative
    Σ (ℓ[true] − E_q ℓ) − (γ−1)/0.5². It is below 1 where labels err on the samples that p errs on, where annotators
    make the same mistakes, or T is too sure, and above 1 where T is blurred. The prior on γ keeps a handful of pairs
    near 1. No pairs: 1.0.

    probabilities [P,K]: calibrated p. log_likelihood [P,K]: ℓ_i = log p(what was said | true=i). true_labels int64 [P].
    """
    log_p = probabilities.detach().double().cpu().clamp(min=torch.finfo(torch.float64).tiny).log()  # [P, K]
    said = log_likelihood.detach().double().cpu()
    reached = said.gather(1, true_labels.cpu()[:, None]).sum()

    def slope(gamma: float) -> float:
        q = torch.softmax(log_p + gamma * said, dim=1)
        return float(reached - (q * said).sum()) - (gamma - 1) / EVIDENCE_SPREAD**2

    low, high = 0.0, MAX_EVIDENCE
    if slope(low) <= 0:
        return low
    if slope(high) >= 0:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low + high) / 2
