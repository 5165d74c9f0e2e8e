"""From labelled images to a calibrated model: split, train, calibrate, estimate T, choose ρ.

The audited samples that were drawn at random serve several purposes, and no model is told its worth by a sample whose
truth it was told: most teach (and estimate T̂ inside training); those held out fit the temperature and the weights of q,
choose ρ and tell the accuracy, and train as the bulk does, with the label that they came with. Either a share of them
is held out from one model, the same in every run, or another part from each of several (`fasten_model.holding_out`):
then every audited sample teaches and tells. Reviews (`clean_estimates` false) only ever teach.
"""

import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fasten_model.calibrate import fit_temperature
from fasten_model.checks import check_encodable, check_finite, check_labels, check_names, is_number
from fasten_model.device import resolve_device
from fasten_model.ensemble import together
from fasten_model.errors import DataError
from fasten_model.holding_out import folds_of
from fasten_model.judging import Seen, judge_labels, trains_along
from fasten_model.label_noise import OTHERS, told_apart
from fasten_model.labelled import UNKNOWN, LabelledImages, with_given
from fasten_model.model import Model
from fasten_model.predict import predict_logits
from fasten_model.predict_sharded import predict_sharded
from fasten_model.relabel import CERTAINTY, TARGET_PRECISION, RhoChoice
from fasten_model.train import EpochMetrics, OnEpoch, TrainConfig, Trained, TrainingSet, train
from fasten_model.train.checkpoint import CheckpointConfig, clear_other_layouts
from fasten_model.train.metrics import Observer
from fasten_model.train.plan import epochs_over
from fasten_model.train.process import this_process
from fasten_model.train.seeds import derived_seed
from fasten_model.train.stopping import Stop
from fasten_model.train.training_set import check_more_than_one
from fasten_model.visited import Visited

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A trained, calibrated model and what was learnt about it and about the labels."""

    model: Model
    history: tuple[EpochMetrics, ...]
    held_out: int
    """Audited samples that a model was judged by which had not been told what they truly are."""
    accuracy: float | None
    """Share of the held-out audited samples that the model labels as the auditor did; None where none was held out. As
    they train with the label that they came with (`Method.visits`), it is that on images like the bulk's; on new images
    a model that has learnt labels by heart does worse."""
    confusion: Tensor
    """int64 [K, K]: held-out audited samples by (audited label, predicted label)."""
    choice: RhoChoice
    """ρ, and what to expect of relabels at it."""
    training_transition: Tensor
    """[K, K] T̂ as the last training step had it (rows sum to 1); the mean over the models."""


def check_enough(noisy: Collection[str], clean: Collection[str], classes: Sequence[str]) -> None:
    """What of `check_trainable` is known from the labels and the classes, before any image is read.

    noisy, clean: the label of each sample, or each label that there is once; all are among the classes.
    """
    _check_some(len(noisy), len(clean), classes)
    check_audited(noisy, clean, classes)


def check_audited(noisy: Collection[str], clean: Collection[str], classes: Sequence[str]) -> None:
    """`DataError` where the noisy samples have a class, of these, that no audited one has."""
    audited, used = set(clean), set(noisy)
    unlearnable = [name for name in classes if name in used and name not in audited]
    if unlearnable:
        raise DataError(
            f"no audited sample of {'class' if len(unlearnable) == 1 else 'classes'} "
            f"{', '.join(f'“{name}”' for name in unlearnable[:5])}{' …' if len(unlearnable) > 5 else ''}: "
            "audit at least one of each, T̂ has no row without it"
        )


def check_classes(classes: Sequence[str]) -> None:
    """`DataError` unless they are two or more different names that a file can hold."""
    check_names("the names of the classes", classes)
    if len(classes) < 2:
        named = f" (“{classes[0]}”)" if classes else ""
        raise DataError(f"there is only one class{named}: nothing can be mislabelled; add classes to the label config")


def _check_some(noisy: int, clean: int, classes: Sequence[str]) -> None:
    check_classes(classes)
    if noisy == 0:
        raise DataError("there is no bulk label to learn from: label some tasks in the labels project first")
    if clean == 0:
        raise DataError(
            "the clean set is empty: audit some randomly drawn tasks, in an audit project (FASTEN_AUDIT_PROJECT) or as "
            "ground truth in the labels project"
        )


def check_trainable(noisy: LabelledImages, clean: LabelledImages, classes: Sequence[str]) -> None:
    """Raise `DataError` where FasTEN cannot be trained on these sets; the line says what is missing."""
    _check_some(len(noisy), len(clean), classes)
    check_labels("noisy labels", noisy.labels, len(noisy), len(classes))
    check_labels("clean labels", clean.labels, len(clean), len(classes))
    used, audited = ([classes[label] for label in set(labels.tolist())] for labels in (noisy.labels, clean.labels))
    check_enough(used, audited, classes)
    if OTHERS in noisy.annotators:
        raise DataError(f"an annotator is called “{OTHERS}”, which stands for all who are not known: take another name")
    check_encodable("the names of the annotators", noisy.annotators)
    low, high = (int(label) for label in clean.given_labels.aminmax())
    if low < UNKNOWN or high >= len(classes):
        raise DataError(
            f"given labels must be from −1 to {len(classes) - 1}, found {low if low < UNKNOWN else high}: "
            "−1 where nobody had labelled the sample"
        )
    if absent := [name for name in classes if name not in audited]:
        logger.warning("no sample at all of class %s: it is never predicted", ", ".join(absent[:5]))


def check_promise(*, target_precision: float, certainty: float, rho: float | None) -> None:
    """`DataError` unless ρ is a number from 0, or can be chosen for that precision with that certainty."""
    for name, share in (("target_precision", target_precision), ("certainty", certainty)):
        if not (is_number(share) and 0 < share < 1):
            raise DataError(f"{name} must lie between 0 and 1, got {share!r}")
    if rho is not None and not (is_number(rho) and 0 <= rho < math.inf):
        raise DataError(f"rho must be 0 or above, got {rho!r}")


def fit(
    noisy: LabelledImages,
    clean: LabelledImages,
    classes: Sequence[str],
    config: TrainConfig,
    *,
    holdout: float | None = None,
    folds: int = 1,
    target_precision: float = TARGET_PRECISION,
    certainty: float = CERTAINTY,
    rho: float | None = None,
    on_epoch: OnEpoch | None = None,
    observer: Observer | None = None,
    trunk: nn.Module | None = None,
    checkpoint: CheckpointConfig | None = None,
    stop: Stop | None = None,
) -> Fitted:
    """Train FasTEN, calibrate it on the held-out audited samples, estimate T of the original labels, and choose ρ.

    holdout: share of the randomly audited samples that is held out; a quarter unless given. folds: above 1, so many
    models are trained instead, each without another of so many parts, and the result is their ensemble. That is so many
    times the work; all audits teach, and all are held out once, as a promise needs where they are few. A held-out
    sample is judged by the one model that does not know its truth, the bulk by all together, which are less sure and
    more often right than one.
    The model keeps what training made of the noisy samples (`Model.visited`), so that `score` judges them as here.
    target_precision: share of the relabels that must be right, certainty: probability that they are (`choose_rho`).
    rho: fixes ρ instead; `Fitted.choice` then says what to expect of it.
    Where several annotators are told apart (`LabelledImages.votes`), each has a T of its own, and every vote counts: in
    training, in the posterior, and so in γ and ρ.
    trunk: a module that maps images [B,3,S,S] to features [B,D]; a copy is trained in place of the one in `config`.
    observer (of each model), checkpoint, stop: as for `fasten_model.train.train`.

    Where `torch.distributed` is initialised, all its processes call this with the same sets, train and score together,
    and get the same result. Raises `DataError` where the sets cannot be trained on, or a share is none.
    """
    check_promise(target_precision=target_precision, certainty=certainty, rho=rho)
    side = noisy.images.shape[-1]
    if config.image_size not in (None, side):
        raise DataError(
            f"images are {side}×{side}, image_size is {config.image_size}: decode them to that, or leave it out"
        )
    rho = None if rho is None else float(rho)
    config = replace(config, image_size=side)
    process = this_process()
    process.each(partial(check_trainable, noisy, clean, classes))
    process.check_same("samples", noisy.labels, clean.labels)
    num_classes = len(classes)
    fold = folds_of(clean, num_classes, holdout=holdout, folds=folds)
    if checkpoint is not None:
        process.first(partial(clear_other_layouts, checkpoint, folds))
    device = resolve_device(config.device)
    alongside = trains_along(clean, noisy)
    held_logits, held_visits = torch.zeros(2, len(clean), num_classes)
    bulk_logits: list[Tensor] = []
    bulk_visits: list[Tensor] = []
    trained: list[Trained] = []
    along = [int((alongside & (fold == number)).sum()) for number in range(folds)]
    counts = [len(noisy) + (of_fold if config.switches().visits else 0) for of_fold in along]
    for count in counts:  # before the first one trains
        check_more_than_one(count)
    epochs = [epochs_over(count, config.settings()) for count in counts]
    numbered = [partial(_numbered, before=sum(epochs[:number]), total=sum(epochs)) for number in range(folds)]
    for number in range(folds):
        held = fold == number
        if folds > 1:
            logger.info("model %d of %d, without %d audited samples", number + 1, folds, int(held.sum()))
        trained.append(
            _train_without(
                held,
                noisy,
                clean,
                num_classes,
                config if number == 0 else replace(config, seed=derived_seed(config.seed, "fold", number)),
                on_epoch=None if on_epoch is None else partial(_tell, on_epoch, numbered[number]),
                observer=observer,
                trunk=trunk,
                checkpoint=None if checkpoint is None else checkpoint.of_fold(number, folds),
                stop=stop,
            )
        )
        visits = trained[number].visits
        if visits is not None:
            bulk_visits.append(visits[: len(noisy)])
            held_visits[held & alongside] = visits[len(noisy) :]
        network = trained[number].network.to(device)
        held_logits[held] = process.each(partial(predict_logits, network, clean.at(held).images))[0]
        bulk_logits.append(predict_sharded(network, noisy.images, process=process)[0])
        network.cpu()
        check_finite("held-out images", held_logits[held])
        check_finite("noisy images", bulk_logits[number])
    seen = None
    if bulk_visits:  # as they are kept, to half precision
        seen = Seen(
            log_p=torch.log_softmax(torch.stack(bulk_logits).mean(dim=0).double(), dim=1),
            visits=torch.stack(bulk_visits).mean(dim=0).half().double(),
            held_log_p=torch.log_softmax(held_logits.double(), dim=1),
            held_visits=held_visits.half().double(),
            trained=alongside,
        )
    true, logits_of_true = clean.labels[fold >= 0], held_logits[fold >= 0]
    temperature = fit_temperature(logits_of_true, true)
    judged = judge_labels(
        torch.softmax(torch.stack(bulk_logits).mean(dim=0) / temperature, dim=1),
        [torch.softmax(logits / temperature, dim=1) for logits in bulk_logits],
        noisy,
        torch.softmax(held_logits / temperature, dim=1),
        clean,
        fold,
        target_precision=target_precision,
        certainty=certainty,
        rho=rho,
        seen=seen,
    )
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    predicted = logits_of_true.argmax(dim=1)
    confusion.index_put_((true, predicted), torch.ones_like(predicted), accumulate=True)
    return Fitted(
        model=Model(
            network=together([each.network for each in trained]),
            classes=tuple(classes),
            preset=config.preset,
            image_size=config.settings().image_size,
            temperature=temperature,
            transition=judged.noise.transition,
            evidence=judged.evidence,
            rho=judged.choice.rho,
            rho_per_class=judged.choice.per_class,
            annotators=judged.noise.annotators,
            annotator_transitions=judged.noise.matrices,
            visited=None
            if seen is None or judged.weights is None
            else Visited.of(noisy.sample_ids, noisy.labels, noisy.images, seen.visits, judged.weights),
            metadata={"relabels": judged.choice.sentence()},
        ),
        history=tuple(numbered[number](metrics) for number, each in enumerate(trained) for metrics in each.history),
        held_out=len(true),
        accuracy=float((predicted == true).double().mean()) if len(true) else None,
        confusion=confusion,
        choice=judged.choice,
        training_transition=torch.stack([each.transition for each in trained]).mean(dim=0),
    )


def _train_without(
    held: Tensor,
    noisy: LabelledImages,
    clean: LabelledImages,
    num_classes: int,
    config: TrainConfig,
    *,
    on_epoch: OnEpoch | None,
    observer: Observer | None,
    trunk: nn.Module | None,
    checkpoint: CheckpointConfig | None,
    stop: Stop | None,
) -> Trained:
    """One training, which is not told what the audited samples of `held` bool [C] truly are but by the temperature and
    the weights that it corrects by, and the weights of its losses.

    Those that had been labelled train with that label, after the bulk and like it: what is then learnt of them holds
    for the bulk, whose wrong labels the network comes to believe in the same way.
    """
    votes = partial(_training_votes, noisy) if told_apart(noisy) else None
    taught, kept = clean.at(~held), clean.at(held)
    rows, bulk = None, noisy
    if config.switches().visits:
        labelled = trains_along(kept, noisy)
        rows = torch.where(labelled, len(noisy) - 1 + labelled.cumsum(dim=0), UNKNOWN)
        bulk = with_given(noisy, kept.at(labelled))
    return train(
        TrainingSet(
            noisy_images=bulk.images,
            noisy_labels=bulk.labels,
            clean_images=taught.images,
            clean_labels=taught.labels,
            clean_estimates=taught.estimates,
            votes=None if votes is None else votes(bulk, bulk.labels),
            clean_votes=taught.given_labels[:, None] if votes is None else votes(taught, taught.given_labels),
            num_classes=num_classes,
            held_out_images=kept.images if len(kept) else None,
            held_out_labels=kept.labels if len(kept) else None,
            held_out_rows=rows if len(kept) else None,
        ),
        config,
        on_epoch=on_epoch,
        observer=observer,
        trunk=trunk,
        checkpoint=checkpoint,
        stop=stop,
    )


def _training_votes(noisy: LabelledImages, samples: LabelledImages, labels: Tensor) -> Tensor:
    """int64 [N,R]: what the annotators of `noisy` had said of `samples`; where some of `noisy` have no vote, their
    labels int64 [N] are one more annotator's: else nothing would be learnt of them."""
    names = told_apart(noisy)
    votes = samples.votes_of(names)
    if not noisy.unvoted(names).any():
        return votes
    return torch.cat([votes, torch.where(samples.unvoted(names), labels, UNKNOWN)[:, None]], dim=1)


def _tell(on_epoch: OnEpoch, numbered: Callable[[EpochMetrics], EpochMetrics], metrics: EpochMetrics) -> None:
    on_epoch(numbered(metrics))


def _numbered(metrics: EpochMetrics, *, before: int, total: int) -> EpochMetrics:
    """As one of the `total` epochs of all trainings together, of which the trainings before this one had `before`."""
    return replace(metrics, epoch=metrics.epoch + before, epochs=total)


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
