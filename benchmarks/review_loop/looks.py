"""What a model says of the pool after some rounds: our own, fitted as the product does, and cleanlab's way.

Shapes: N samples of the pool, M of them open, K classes.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from benchmarks.measures import accuracy
from benchmarks.methods.base import beliefs_of
from benchmarks.methods.plain import train_plain
from benchmarks.review_loop.ledger import Ledger
from benchmarks.review_loop.pool import Pool
from fasten_model.fitting import Fitted, fit
from fasten_model.scoring import Scores, score
from fasten_model.train import TrainConfig
from fasten_model.train.seeds import generator

NONE = -1
"""In `Look.standing`: nothing was promised."""
Kind = Literal["fasten", "folds", "truth"]
"""`fasten`: `fasten_model.fit`. `folds`: cross-entropy on the labels as they are now, out of fold. `truth`: nothing is
trained, it is known what is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One model, after the decisions of one ledger."""

    p: Tensor
    """[N,K]: of the classes by the image alone, calibrated where the model is; rows sum to 1."""
    labels: Tensor
    """int64 [N]: the labels as they are now, a person's where there is one."""
    open: Tensor
    """bool [N]: nobody has decided."""
    guess: Tensor
    """int64 [N]: what the model suggests; the label itself where it is decided."""
    error: Tensor
    """float64 [M]: probability that the given label of an open sample is wrong."""
    fitted: Fitted | None = None
    """`fasten`: the model and what was learnt about it."""
    scores: Scores | None = None
    """`fasten`: the M open samples."""
    accuracy: float | None = None
    """`fasten`: of the clean head on the test images."""
    standing: Tensor | None = None
    """int64 [N]: what an earlier round promised to change an open label to, where this one promises nothing; NONE else
    (`pipeline.corrected`: its relabels stand)."""

    @property
    def rows(self) -> Tensor:
        """int64 [M]: the places of the open samples in the pool."""
        return self.open.nonzero().flatten()


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How the models are trained: the same for every policy."""

    config: TrainConfig
    """Its epochs are put in for each training."""
    steps: int
    """Of each training, whatever is left to train on: what is decided leaves the bulk from round to round, and a model
    that only knew fewer steps each time would be worse each time."""
    audit_folds: int
    """Models that each look of ours comes from, each trained without another part of the random audits."""
    target_precision: float
    """What is promised of automatic relabels, …"""
    certainty: float
    """… and how surely."""
    folds: int
    """Of cleanlab's own model."""

    def trained_on(self, count: int, seed: int) -> TrainConfig:
        """For a bulk of `count` samples."""
        epochs = max(1, round(self.steps * self.config.settings().noisy_batch / max(1, count)))
        return replace(self.config, epochs=epochs, seed=seed)


class Looks:
    """Trains what is asked for, once for equal decisions: in the first round all policies look at the same model."""

    def __init__(self, pool: Pool, setup: Setup, *, keep: int = 4) -> None:
        self._pool, self._setup, self._keep = pool, setup, keep
        self._known: OrderedDict[str, Look] = OrderedDict()
        self.trained = 0
        """Trainings so far."""

    def look(self, kind: Kind, ledger: Ledger) -> Look:
        """The model of this kind after these decisions."""
        if kind == "truth":
            return look_at_truth(self._pool, ledger)
        key = _key(kind, ledger)
        if key not in self._known:
            train: Callable[[Pool, Ledger, Setup], Look] = look_fasten if kind == "fasten" else look_folds
            self._known[key] = train(self._pool, ledger, self._setup)
            self.trained += 1
            # The first round's two models serve every policy; of later ones a few are shared, and memory is bounded.
            while len(self._known) > self._keep:
                self._known.pop(list(self._known)[2])
        return self._known[key]


def _key(kind: Kind, ledger: Ledger) -> str:
    digest = hashlib.sha256(ledger.decided.numpy().tobytes())
    if kind == "fasten":
        digest.update(ledger.claimed_random.numpy().tobytes())
        digest.update(ledger.asked_in.numpy().tobytes())
    return f"{kind} {digest.hexdigest()}"


def look_fasten(pool: Pool, ledger: Ledger, setup: Setup) -> Look:
    """`fasten_model.fit` on what is open and what is decided, `fasten_model.score` of what is open."""
    noisy, clean = ledger.noisy(pool), ledger.clean(pool)
    config = setup.trained_on(len(noisy), pool.seed)
    fitted = fit(
        noisy,
        clean,
        pool.classes,
        config,
        folds=setup.audit_folds,
        target_precision=setup.target_precision,
        certainty=setup.certainty,
    )
    scores = score(
        fitted.model,
        noisy.images,
        noisy.labels,
        target_precision=setup.target_precision,
        with_features=True,
        annotators=noisy.annotators,
        votes=noisy.votes,
        sample_ids=noisy.sample_ids,
    )
    labels = torch.where(ledger.open, pool.given, ledger.decided)
    guess = labels.clone()
    guess[ledger.open] = scores.guess
    test = fitted.model.predict_probabilities(pool.test_images).argmax(dim=1)
    return Look(
        p=fitted.model.predict_probabilities(pool.images),
        labels=labels,
        open=ledger.open,
        guess=guess,
        error=scores.error_probability,
        fitted=fitted,
        scores=scores,
        accuracy=accuracy(test, pool.test_labels),
    )


def look_folds(pool: Pool, ledger: Ledger, setup: Setup) -> Look:
    """p of each sample by a cross-entropy model that was not trained on it, as cleanlab's guides have it.

    The folds are of all N samples with the labels as they are now, with as many of each label in every fold as can be.
    """
    labels = torch.where(ledger.open, pool.given, ledger.decided)
    order = torch.randperm(len(pool), generator=generator(pool.seed, "review", "folds"))
    order = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(labels)
    fold[order] = torch.arange(len(pool)) % setup.folds
    p = torch.zeros(len(pool), len(pool.classes))
    for number in range(setup.folds):
        held = fold == number
        config = setup.trained_on(int((~held).sum()), pool.seed)
        network = train_plain(pool.images[~held], labels[~held], len(pool.classes), config)
        p[held] = beliefs_of(network, pool.images[held])
    guess = torch.where(ledger.open, p.argmax(dim=1), labels)
    given = p[ledger.open].double().gather(1, labels[ledger.open, None]).squeeze(1)
    return Look(p=p, labels=labels, open=ledger.open, guess=guess, error=(1 - given).clamp(0, 1))


def look_at_truth(pool: Pool, ledger: Ledger) -> Look:
    """What a model would say that is never wrong."""
    return Look(
        p=torch.nn.functional.one_hot(pool.truth, len(pool.classes)).float(),
        labels=torch.where(ledger.open, pool.given, ledger.decided),
        open=ledger.open,
        guess=torch.where(ledger.open, pool.truth, ledger.decided),
        error=pool.wrong[ledger.open].double(),
    )
