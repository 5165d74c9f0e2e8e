"""What a model says of given labels: keep, relabel, or ask a person.

Decisions go by the posterior q_i ∝ T[i, given]^γ·p_i, which knows the image and the given label; of samples that the
model was trained on, by what training made of them too (`fasten_model.stacking`). The paper's rule
(section 3.3, eq. 6) goes by max p alone; on people's labels that is wrong more often than right (`docs/concepts.md`).

    relabel          argmax q is another class and max q ≥ ρ
    keep             else, where q[given] ≥ the target precision
    low_confidence   else

ρ may depend on the class that is suggested. Only a relabel may change the label, and only where relabels are applied;
otherwise the label handed out is the given one, always.

Shapes: N samples, K classes, S image side.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fasten_model.checks import check_finite, check_tensor, check_votes, is_number, shown
from fasten_model.errors import DataError
from fasten_model.features import predict_with_features
from fasten_model.images.source import Images, check_images
from fasten_model.label_noise import Given, LabelNoise
from fasten_model.model import Model
from fasten_model.relabel import TARGET_PRECISION
from fasten_model.stacking import stacked
from fasten_model.train.process import ALONE, this_process

_log = logging.getLogger(__name__)

Decision = Literal["keep", "relabel", "low_confidence"]
DECISIONS: tuple[Decision, ...] = ("keep", "relabel", "low_confidence")
"""A decision's code is its place here."""
KEEP, RELABEL, LOW_CONFIDENCE = range(3)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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
    rho: Tensor
    """float64 [K]: ρ by the class that is suggested."""
    features: Tensor | None = None
    """float16 [N,D]: φ(x), of length 1, where they were asked for."""

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
        """int64 [N]: the label by the decision, argmax q of a relabel and else the given label."""
        return self.handed_out(applied=True)

    def handed_out(self, applied: bool) -> Tensor:
        """int64 [N]: the label handed out, where relabels are applied or only suggested."""
        return torch.where(self.decisions == RELABEL, self.guess, self.given_labels) if applied else self.given_labels

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

    def priority(self, applied: bool) -> Tensor:
        """float64 [N]: 1 − q[handed out], that the label handed out is wrong: what a review should set right."""
        return (1 - _at(self.posterior, self.handed_out(applied))).clamp(0, 1)


def decide(
    probabilities: Tensor, posterior: Tensor, given_labels: Tensor, *, rho: float | Tensor, target_precision: float
) -> Scores:
    """The decisions above, label by label. Both boundaries belong to the model: `>=`.

    probabilities, posterior [N,K]: p and q. given_labels int64 [N]. rho: of all classes alike, or [K].
    """
    p, q, given = probabilities.double().cpu(), posterior.double().cpu(), given_labels.cpu()
    thresholds = torch.as_tensor(rho, dtype=torch.float64).expand(q.shape[1])
    confidence, best = q.max(dim=1)
    relabel = (best != given) & (confidence >= thresholds[best])
    keep = ~relabel & (_at(q, given) >= target_precision)
    decisions = torch.where(relabel, RELABEL, torch.where(keep, KEEP, LOW_CONFIDENCE))
    return Scores(probabilities=p, posterior=q, given_labels=given, decisions=decisions, rho=thresholds)


def score(
    model: Model,
    images: Tensor | Images,
    given_labels: Tensor,
    *,
    rho: float | None = None,
    target_precision: float = TARGET_PRECISION,
    annotators: Sequence[str] = (),
    votes: Tensor | None = None,
    sample_ids: Sequence[str] | None = None,
    with_features: bool = False,
    sharded: bool = False,
) -> Scores:
    """Judge given labels by their images.

    images: uint8 [N,3,S,S]. given_labels int64 [N]: indices into the model's classes. rho: the model's own unless
    given. target_precision: how sure q must be of a given label for nobody to be asked.
    annotators, votes: R names and what each said, int64 [N,R], −1 where nothing: they count instead of the given label
    where the model tells annotators apart; someone it does not know is taken for an average one.
    sample_ids: N ids, as in training. Samples that the model was trained on, the same images with these labels, are
    judged by what training made of them, too (`Model.visited`), for which all images are read once more; without ids
    all are judged as images that it has never seen. What was promised of ρ (`fasten_model.fit`) was tested for labels
    that it was trained on.
    with_features: keep what the trunk sees of each image, too; it is computed anyway.
    sharded: every process that `torch.distributed` knows of calls this with the same arguments, reads its share of the
    images and sends it through the network, and gets the scores of all. What goes wrong in one is raised in all.

    Raises `DataError` where labels, votes and images do not fit each other or the model, ρ is no number from 0, or what
    the network says is not finite.
    """
    process = this_process() if sharded else ALONE
    ids = None if sample_ids is None else tuple(sample_ids)
    given = process.each(lambda: _given(model, images, given_labels, tuple(annotators), votes, ids))
    process.check_same("samples", given.labels)
    if rho is not None and not (is_number(rho) and 0 <= rho < math.inf):
        raise DataError(f"rho must be 0 or above, got {rho!r}")
    if not (is_number(target_precision) and 0 <= target_precision <= 1):
        raise DataError(f"target_precision must be from 0 to 1, got {target_precision!r}")
    count, own_images = len(images), process.own_images(images)
    logits, features = process.each(lambda: _looked_at(model, own_images, with_features=with_features))
    logits = process.gather(logits, count)
    if features is not None:
        features = process.gather(features, count)
    check_finite("images", logits)
    p = torch.softmax(logits / model.temperature, dim=1).double()
    noise = LabelNoise(transition=model.transition, annotators=model.annotators, matrices=model.annotator_transitions)
    q = noise.posterior(p, given, model.evidence)
    if model.visited is not None and ids is not None:
        find = partial(model.visited.find, ids[process.rank :: process.world], process.own(given.labels), own_images)
        known, means = process.each(find)
        trained_on, visits = process.gather(known.byte(), count).bool(), process.gather(means, count)
        _log.info("%d of %d labels are of those that the model was trained on", int(trained_on.sum()), count)
        if trained_on.any():
            said = noise.log_likelihood(given).clamp(min=math.log(torch.finfo(torch.float32).tiny))
            log_p = torch.log_softmax(logits.double(), dim=1)
            q = torch.where(trained_on[:, None], stacked(log_p, visits, said, model.visited.weights), q)
    thresholds = torch.tensor(model.thresholds if rho is None else rho, dtype=torch.float64)
    return replace(decide(p, q, given.labels, rho=thresholds, target_precision=target_precision), features=features)


def _given(
    model: Model,
    images: Tensor | Images,
    given_labels: Tensor,
    annotators: tuple[str, ...],
    votes: Tensor | None,
    sample_ids: tuple[str, ...] | None,
) -> Given:
    """What the samples were called, on the CPU; `DataError` where the arguments do not fit each other or the model."""
    check_images(images, model.image_size)
    check_tensor("given_labels", given_labels)
    if given_labels.ndim != 1 or given_labels.dtype not in _WHOLE:
        raise DataError(f"given_labels must be whole numbers [N], got {shown(given_labels)}")
    labels = given_labels.cpu().long()  # of bytes torch would make a mask
    if len(images) != len(labels):
        raise DataError(f"{len(labels)} labels for {len(images)} images: score one label an image")
    if ((labels < 0) | (labels >= len(model.classes))).any():
        raise DataError(f"a given label lies outside the model's {len(model.classes)} classes")
    if votes is not None:
        check_votes("votes", votes, (len(images), len(annotators)), len(model.classes))
    elif annotators:
        raise DataError(f"votes must be int64 [{len(images)}, {len(annotators)}], what each annotator said; got none")
    if sample_ids is not None and len(sample_ids) != len(images):
        raise DataError(f"sample_ids must be {len(images)} texts, got {len(sample_ids)}")
    return Given(labels=labels, annotators=annotators, votes=None if votes is None else votes.cpu())


def _looked_at(model: Model, images: Tensor | Images, *, with_features: bool) -> tuple[Tensor, Tensor | None]:
    """(the clean head's logits [n,K], features of length 1 [n,D] where they are asked for)."""
    if with_features:
        return predict_with_features(model.network, images, normalized=True)
    return model.predict_logits(images), None


def _at(shares: Tensor, labels: Tensor) -> Tensor:
    return shares.gather(1, labels[:, None]).squeeze(1)
