"""From labelled images to a calibrated model: split, train, calibrate, estimate T, choose ρ.

The audited samples that were drawn at random serve several purposes, and no sample serves two that would bias each
other: most train (and estimate T̂ inside training); a fixed share is held out, to fit the temperature, to choose ρ and
to tell the model's accuracy. Which share a sample falls into depends on its id alone, so that a held-out sample stays
held out in every later run. Reviews (`clean_estimates` false) only ever train.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fasten_model.calibrate import fit_evidence_of, fit_temperature
from fasten_model.device import resolve_device
from fasten_model.errors import DataError
from fasten_model.label_noise import LabelNoise, estimate_label_noise, given_of, given_of_audited, told_apart
from fasten_model.labelled import UNKNOWN, LabelledImages
from fasten_model.model import Model
from fasten_model.predict_sharded import predict_sharded
from fasten_model.relabel import CERTAINTY, NEVER, TARGET_PRECISION, RhoChoice, choose_rho, judge_rho, suggestions
from fasten_model.train import EpochMetrics, TrainConfig, TrainingSet, train
from fasten_model.train.checkpoint import CheckpointConfig
from fasten_model.train.stopping import Stop

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A trained, calibrated model and what was learnt about it and about the labels."""

    model: Model
    history: tuple[EpochMetrics, ...]
    held_out: int
    """Audited samples that no training step saw."""
    accuracy: float | None
    """Share of the held-out audited samples that the model labels as the auditor did; None where none was held out."""
    confusion: Tensor
    """int64 [K, K]: held-out audited samples by (audited label, predicted label)."""
    choice: RhoChoice
    """ρ, and what to expect of relabels at it."""
    training_transition: Tensor
    """[K, K] T̂ as the last training step had it (rows sum to 1)."""


def is_held_out(sample_id: str, share: float) -> bool:
    """Whether an audited sample is kept from training: decided by its id alone, the same in every run."""
    digest = hashlib.sha256(b"fasten holdout\0" + sample_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def holdout_mask(clean: LabelledImages, share: float, num_classes: int) -> Tensor:
    """bool [C]: the audited samples kept from training.

    Only samples drawn at random are held out (a targeted review would bias the estimate), and never the last such one
    of its class: without it, that row of T̂ would be estimated from nothing.
    """
    mask = torch.tensor([is_held_out(sample_id, share) for sample_id in clean.sample_ids], dtype=torch.bool)
    mask &= clean.estimates
    for label in range(num_classes):
        of_class = (clean.labels == label) & clean.estimates
        if of_class.any() and not (of_class & ~mask).any():
            mask &= ~of_class
    return mask


def check_trainable(noisy: LabelledImages, clean: LabelledImages, classes: Sequence[str]) -> None:
    """Raise `DataError` where FasTEN cannot be trained on these sets; the line says what is missing."""
    if len(classes) < 2:
        named = f" (“{classes[0]}”)" if classes else ""
        raise DataError(f"there is only one class{named}: nothing can be mislabelled; add classes to the label config")
    if len(noisy) == 0:
        raise DataError("there is no bulk label to learn from: label some tasks in the labels project first")
    if len(clean) == 0:
        raise DataError(
            "the clean set is empty: audit some randomly drawn tasks, in an audit project (FASTEN_AUDIT_PROJECT) or as "
            "ground truth in the labels project"
        )
    audited = set(clean.labels.tolist())
    missing = [name for index, name in enumerate(classes) if index not in audited]
    used = set(noisy.labels.tolist())
    unlearnable = [name for name in missing if classes.index(name) in used]
    if unlearnable:
        raise DataError(
            f"no audited sample of {'class' if len(unlearnable) == 1 else 'classes'} "
            f"{', '.join(f'“{name}”' for name in unlearnable[:5])}{' …' if len(unlearnable) > 5 else ''}: "
            "audit at least one of each, T̂ has no row without it"
        )
    low, high = (int(label) for label in clean.given_labels.aminmax())
    if low < UNKNOWN or high >= len(classes):
        raise DataError(
            f"given labels must be from −1 to {len(classes) - 1}, found {low if low < UNKNOWN else high}: "
            "−1 where nobody had labelled the sample"
        )
    if missing:
        logger.warning("no sample at all of class %s: it is never predicted", ", ".join(missing[:5]))


def fit(
    noisy: LabelledImages,
    clean: LabelledImages,
    classes: Sequence[str],
    config: TrainConfig,
    *,
    holdout: float,
    target_precision: float = TARGET_PRECISION,
    certainty: float = CERTAINTY,
    rho: float | None = None,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    observer: Callable[[int, nn.Module], None] | None = None,
    trunk: nn.Module | None = None,
    checkpoint: CheckpointConfig | None = None,
    stop: Stop | None = None,
) -> Fitted:
    """Train FasTEN, calibrate it on the held-out audited samples, estimate T of the original labels, and choose ρ.

    holdout: share of the randomly audited samples kept from training. target_precision: share of the relabels that must
    be right, certainty: probability that they are (`choose_rho`). rho: fixes ρ instead; `Fitted.choice` then says what
    to expect of it.
    Where several annotators are told apart (`LabelledImages.votes`), each has a T of its own, and every vote counts: in
    training, in the posterior, and so in γ and ρ.
    trunk: a module that maps images [B,3,S,S] to features [B,D]; a copy is trained in place of the one in `config`.
    observer, checkpoint, stop: as for `fasten_model.train.train`.

    Where `torch.distributed` is initialised, all its processes call this with the same sets, train and score together,
    and get the same result. Raises `DataError` where the sets cannot be trained on, or a share is none.
    """
    if not 0 < target_precision < 1:
        raise DataError(f"target_precision must lie between 0 and 1, got {target_precision}")
    if not 0 < certainty < 1:
        raise DataError(f"certainty must lie between 0 and 1, got {certainty}")
    if rho is not None and not 0 <= rho < math.inf:
        raise DataError(f"rho must be 0 or above, got {rho}")
    if not 0 <= holdout < 1:
        raise DataError(f"holdout must be from 0 to below 1, got {holdout}")
    side = noisy.images.shape[-1]
    if config.image_size not in (None, side):
        raise DataError(
            f"images are {side}×{side}, image_size is {config.image_size}: decode them to that, or leave it out"
        )
    config = replace(config, image_size=side)
    check_trainable(noisy, clean, classes)
    num_classes = len(classes)
    annotators = told_apart(noisy)
    held = holdout_mask(clean, holdout, num_classes)
    taught, kept = clean.at(~held), clean.at(held)
    trained = train(
        TrainingSet(
            noisy_images=noisy.images,
            noisy_labels=noisy.labels,
            clean_images=taught.images,
            clean_labels=taught.labels,
            clean_estimates=taught.estimates,
            votes=noisy.votes_of(annotators) if annotators else None,
            clean_votes=taught.votes_of(annotators) if annotators else taught.given_labels[:, None],
            num_classes=num_classes,
            held_out_images=kept.images if len(kept) else None,
            held_out_labels=kept.labels if len(kept) else None,
        ),
        config,
        on_epoch=on_epoch,
        observer=observer,
        trunk=trunk,
        checkpoint=checkpoint,
        stop=stop,
    )
    device = resolve_device(config.device)
    model = Model(
        network=trained.network.to(device),
        classes=tuple(classes),
        preset=config.preset,
        image_size=config.settings().image_size,
        temperature=1.0,
        transition=trained.transition,
        rho=NEVER,
    )
    held_logits = model.predict_logits(kept.images)
    temperature = fit_temperature(held_logits, kept.labels) if len(kept) else 1.0
    bulk = torch.softmax(predict_sharded(model.network, noisy.images)[0] / temperature, dim=1)
    held = torch.softmax(held_logits / temperature, dim=1)
    noise, evidence, choice = _judge_labels(
        bulk, noisy, held, kept, taught, target_precision=target_precision, certainty=certainty, rho=rho
    )
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    predicted = held_logits.argmax(dim=1)
    confusion.index_put_((kept.labels, predicted), torch.ones_like(predicted), accumulate=True)
    trained.network.cpu()
    return Fitted(
        model=replace(
            model,
            temperature=temperature,
            transition=noise.transition,
            evidence=evidence,
            rho=choice.rho,
            rho_per_class=choice.per_class,
            annotators=noise.annotators,
            annotator_transitions=noise.matrices,
            metadata={"relabels": choice.sentence()},
        ),
        history=trained.history,
        held_out=len(kept),
        accuracy=float((predicted == kept.labels).double().mean()) if len(kept) else None,
        confusion=confusion,
        choice=choice,
        training_transition=trained.transition,
    )


def _judge_labels(
    bulk: Tensor,
    noisy: LabelledImages,
    held: Tensor,
    kept: LabelledImages,
    taught: LabelledImages,
    *,
    target_precision: float,
    certainty: float,
    rho: float | None,
) -> tuple[LabelNoise, float, RhoChoice]:
    """(T of the original labels, γ, ρ), from calibrated p of the bulk [N,K] and of the held-out samples [P,K].

    T knows every pair. The held-out pairs are judged under a T that does not know them, or they would vouch for
    themselves.
    """
    every, without = estimate_label_noise(bulk, noisy, [taught, kept]), estimate_label_noise(bulk, noisy, [taught])
    paired = kept.given_labels >= 0
    p, true, said = held[paired], kept.labels[paired], given_of_audited(kept).at(paired)
    evidence = fit_evidence_of(p, without.log_likelihood(said), true)
    tried = suggestions(without.posterior(p, said, evidence), said.labels, true)
    doubted = suggestions(every.posterior(bulk, given_of(noisy), evidence), noisy.labels)
    if rho is not None:
        return every, evidence, judge_rho(rho, doubted, tried, certainty=certainty)
    chosen = choose_rho(doubted, tried, target_precision, certainty=certainty, num_classes=bulk.shape[1])
    return every, evidence, chosen


def summary(fitted: Fitted) -> dict[str, Any]:
    """What is known about a training besides its weights, as JSON values."""
    return {
        "held_out": fitted.held_out,
        "accuracy": fitted.accuracy,
        "temperature": fitted.model.temperature,
        "evidence": fitted.model.evidence,
        "relabels": {**asdict(fitted.choice), "sentence": fitted.choice.sentence()},
        "confusion": fitted.confusion.tolist(),
        "transition": fitted.model.transition.double().tolist(),
        "annotators": list(fitted.model.annotators),
        "training_transition": fitted.training_transition.double().tolist(),
        "history": [asdict(metrics) for metrics in fitted.history],
    }
