"""What a model says of given labels: keep, relabel, or ask a person.

Decisions go by the posterior q_i ∝ T[i, given]^γ·p_i, which knows the image and the given label. The paper's rule
(section 3.3, eq. 6) goes by max p alone; on people's labels that is wrong more often than right (`docs/concepts.md`).

    relabel          argmax q is another class and max q ≥ ρ
    keep             else, where q[given] ≥ the target precision
    low_confidence   else

Only a relabel changes the label; otherwise the label handed out is the given one, always.

Shapes: N samples, K classes, S image side.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.images.source import Images
from fasten_model.model import Model
from fasten_model.posterior import posterior
from fasten_model.relabel import TARGET_PRECISION

Decision = Literal["keep", "relabel", "low_confidence"]
DECISIONS: tuple[Decision, ...] = ("keep", "relabel", "low_confidence")
"""A decision's code is its place here."""
KEEP, RELABEL, LOW_CONFIDENCE = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What is known and decided of N labels; everything on the CPU."""

    probabilities: Tensor
    """float64 [N,K]: calibrated p of the clean head."""
    posterior: Tensor
    """float64 [N,K]: q."""
    given_labels: Tensor
    """int64 [N]"""
    decisions: Tensor
    """int64 [N]: KEEP, RELABEL or LOW_CONFIDENCE."""
    rho: float

    @property
    def guess(self) -> Tensor:
        """int64 [N]: argmax q, what a reviewer is offered."""
        return self.posterior.argmax(dim=1)

    @property
    def guess_probability(self) -> Tensor:
        """float64 [N]: max q."""
        return self.posterior.amax(dim=1)

    @property
    def suggested(self) -> Tensor:
        """int64 [N]: the label handed out, argmax q of a relabel and else the given label."""
        return torch.where(self.decisions == RELABEL, self.guess, self.given_labels)

    @property
    def confidence(self) -> Tensor:
        """float64 [N]: max p."""
        return self.probabilities.amax(dim=1)

    @property
    def given_label_probability(self) -> Tensor:
        """float64 [N]: p of the given label."""
        return _at(self.probabilities, self.given_labels)

    @property
    def error_probability(self) -> Tensor:
        """float64 [N]: 1 − q[given], that the given label is wrong."""
        return (1 - _at(self.posterior, self.given_labels)).clamp(0, 1)

    @property
    def priority(self) -> Tensor:
        """float64 [N]: 1 − q[suggested], that the label handed out is wrong: what a review is expected to set right."""
        return (1 - _at(self.posterior, self.suggested)).clamp(0, 1)


def decide(
    probabilities: Tensor, posterior: Tensor, given_labels: Tensor, *, rho: float, target_precision: float
) -> Scores:
    """The decisions above, label by label. Both boundaries belong to the model: `>=`.

    probabilities, posterior [N,K]: p and q. given_labels int64 [N].
    """
    p, q, given = probabilities.double().cpu(), posterior.double().cpu(), given_labels.cpu()
    confidence, best = q.max(dim=1)
    relabel = (best != given) & (confidence >= rho)
    keep = ~relabel & (_at(q, given) >= target_precision)
    decisions = torch.where(relabel, RELABEL, torch.where(keep, KEEP, LOW_CONFIDENCE))
    return Scores(probabilities=p, posterior=q, given_labels=given, decisions=decisions, rho=rho)


def score(
    model: Model,
    images: Tensor | Images,
    given_labels: Tensor,
    *,
    rho: float | None = None,
    target_precision: float = TARGET_PRECISION,
) -> Scores:
    """Judge given labels by their images.

    images: uint8 [N,3,S,S]. given_labels int64 [N]: indices into the model's classes. rho: the model's own unless
    given. target_precision: how sure q must be of a given label for nobody to be asked.

    Raises `DataError` where labels and images do not fit each other or the model, or ρ is no number from 0.
    """
    if len(images) != len(given_labels):
        raise DataError(f"{len(given_labels)} labels for {len(images)} images: score one label an image")
    if ((given_labels < 0) | (given_labels >= len(model.classes))).any():
        raise DataError(f"a given label lies outside the model's {len(model.classes)} classes")
    rho = model.rho if rho is None else rho
    if not 0 <= rho < math.inf:
        raise DataError(f"rho must be 0 or above, got {rho}")
    p = model.predict_probabilities(images).double()
    q = posterior(p, model.transition.to(p), given_labels.to(p.device), model.evidence)
    return decide(p, q, given_labels, rho=rho, target_precision=target_precision)


def _at(shares: Tensor, labels: Tensor) -> Tensor:
    return shares.gather(1, labels[:, None]).squeeze(1)
