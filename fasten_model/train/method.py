"""FasTEN's switches: the reference as published, and each remedy for a weakness of it that can be turned on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from fasten_model.checks import check_flag, check_whole, is_number
from fasten_model.errors import DataError

Estimator = Literal["clean_batch", "clean_decayed", "bulk", "bulk_posterior"]
Correction = Literal["confidence", "posterior", "average", "ensemble", "none"]

_NUMBERS: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (("rho", "noisy_loss_weight", "pair_weight"), "0 or above", lambda value: 0 <= value < math.inf),
    (
        ("memory", "prior_strength", "pooled_strength", "annotator_strength", "fresh_passes"),
        "above 0",
        lambda value: 0 < value < math.inf,
    ),
    (
        ("correction_start", "average_momentum", "ema", "clean_loss_weight"),
        "from 0 to 1",
        lambda value: 0 <= value <= 1,
    ),
    (("smoothing",), "above 0 and at most 1", lambda value: 0 < value <= 1),
)
"""Fields, what their numbers must be, and whether one is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """How T̂ is estimated, which labels are trained on, and what the trained network is. `docs/ablation.md` has what
    each is worth."""

    forwards: Literal["separate", "joint"] = "separate"
    """Two passes through the trunk, each batch with BatchNorm statistics of its own (reference), or one over both."""
    noisy_loss_weight: float | None = None
    """λ (reference: 0.5); None: 2·(1 − a), where a is the share of held-out audited samples that the network gets
    right, 1 where nothing is held out. What is hard to see takes more images than were audited: the trunk learns from
    all labels, wrong ones too. What is easy is only blurred by them. The sum is then divided by 1 + λ."""
    clean_loss_weight: float | None = 0.5
    """Weight of the clean batch in the clean head's loss, 0 to 1; None: its share of the samples (reference)."""
    discounted: bool = True
    """Multiply that weight by (1 + a)/2: what the network learns of the few clean samples and cannot tell of others
    is learnt by heart."""
    fresh_passes: float | None = 60.0
    """Passes over the clean set for which it keeps that weight. After V of them, when there are more, the discount has
    another factor (fresh_passes / V)^(2 − 2a): the oftener they are seen, the more is learnt by heart. None: no number
    is too many, or nothing is discounted."""
    smoothing: float = 1e-3
    """δ of `smooth_transition`."""
    clean_sampling: Literal["shuffled", "balanced"] = "shuffled"
    """Clean batches as the clean set is, or with as many samples of each class (reference): where the batch is no
    multiple of the classes, those with one sample more take turns."""
    prior_correction: bool = False
    """Train the clean head on clean batches with the bulk's class frequencies (logit adjustment, Menon et al. 2021)."""

    estimator: Estimator = "bulk_posterior"
    """T̂ from softmax(θ̄) over one clean batch (reference), over decayed sums of those, or from decayed soft counts
    of the bulk itself: Σ p·1[ȳ*], or Σ q·1[ȳ*] (the M-step of expectation-maximisation)."""
    memory: float = 1.0
    """Passes over the set that decayed sums remember."""
    prior_strength: float = 10.0
    """α: samples that the prior row of T̂ is worth, where sums are decayed."""
    evaluation_features: bool = False
    """Estimate T̂ from clean samples in evaluation mode: not augmented, BatchNorm's running statistics. Takes one more
    forward. Where clean batches estimate it."""
    folds: int = 1
    """Clean folds that take turns, an epoch each: one estimates T̂ while the others train. 1: all do
    both (reference). More where clean batches estimate it."""
    pairs: bool = True
    """Join T̂ with direct counts of the audited samples whose bulk label is known: the label as it was given, so that a
    T̂ of corrected labels becomes a mixture of two."""
    pair_weight: float = 1.0
    """Samples that each pair counts for, against those that `pooled_strength` says the estimate is worth."""
    pooled_strength: float = 30.0
    """Samples that a row of the estimate is worth beside the pairs."""
    annotators: bool = True
    """Where votes are known, T̂ comes from the bulk, and the loss is `forward` (`resample` weighs one label a sample): a
    T̂ for each annotator, shrunk to the shared one, and the likelihoods multiplied. Else the majority's label counts."""
    annotator_strength: float = 50.0
    """Samples that a row of the shared T̂ is worth beside an annotator's own."""

    loss: Literal["forward", "resample"] = "forward"
    """−log (T̂ᵀp)[ȳ], or cross-entropy over a batch that is drawn again with weights p[ȳ]/(T̂ᵀp)[ȳ] (RENT, ICLR 2024).
    ȳ is the label that T̂ is of. A corrected label under a T̂ of the original ones is taken to be right: cross-entropy,
    weight 1."""
    noisy_head_labels: Literal["original", "corrected"] = "original"
    """What θ̄ learns: then T̂ of the clean-batch estimators belongs to these labels. Corrected ones are then corrected
    by `confidence`: the others need a T̂ of the original labels."""
    correction: Correction = "posterior"
    """Labels trained on: argmax p at ρ (reference), argmax of q at ρ, the running average of q, the q of p's running
    average (`ensemble`), or always the original."""
    calibrated: bool = True
    """Divide the logits by a temperature that is fitted to held-out audited samples before every epoch, wherever p is
    counted or corrects; not in the losses. Without such samples: 1."""
    visits: bool = True
    """Weigh what the network made of a sample at all its visits into q, by the held-out samples
    (`fasten_model.stacking`), wherever q counts, corrects or judges; these then train with the label they came with.
    Else q ∝ p·T̂[:,given] of one visit, and held-out samples train not at all."""
    rho: float = 0.6
    """ρ: correct where the probability is at least this. Above 1: never. `average` and `ensemble` know no ρ."""
    correction_start: float = 0.05
    """Share of training after which corrections begin."""
    average_momentum: float = 0.7
    """Share of the old average that a visit leaves, for `average` and `ensemble`."""

    ema: float = 0.0
    """Decay of the averaged weights that predict and score; 0: the last weights (reference)."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in ("forwards", "clean_sampling", "estimator", "loss", "noisy_head_labels", "correction"):
            if getattr(self, name) not in get_args(hints[name]):
                raise DataError(
                    f"{name} must be one of {', '.join(get_args(hints[name]))}, got {getattr(self, name)!r}"
                )
        for names, wanted, fits in _NUMBERS:
            for name in names:
                value = getattr(self, name)
                left_out = value is None and type(None) in get_args(hints[name])
                if not left_out and not (is_number(value) and fits(value)):
                    raise DataError(f"{name} must be {wanted}, got {value!r}")
        check_whole("folds", self.folds, 1)
        for name in (name for name, hint in hints.items() if hint is bool):
            check_flag(name, getattr(self, name))
        self._check_together()

    def _check_together(self) -> None:
        """`DataError` for switches of which one would do nothing, or something else than it says, beside another."""
        if self.counts_bulk:
            for name, off in (("folds", 1), ("evaluation_features", False)):
                if getattr(self, name) != off:
                    raise DataError(
                        f"{name} {getattr(self, name)} is about clean batches that estimate T̂, and estimator "
                        f"{self.estimator} counts the bulk: leave {name} at {off}, or set estimator to clean_decayed"
                    )
        if not self.discounted and self.fresh_passes is not None:
            raise DataError(
                f"fresh_passes {self.fresh_passes} is about the discount, and discounted is False: set fresh_passes to "
                "None, or discounted to True"
            )
        if not self.counts_bulk and self.noisy_loss_weight == 0:
            raise DataError(
                f"estimator {self.estimator} takes T̂ from the noisy head, and with noisy_loss_weight 0 nothing teaches "
                "it: set noisy_loss_weight to 0.5, or estimator to bulk_posterior"
            )
        if self.visits and self.of_corrected:
            raise DataError(
                f"visits are weighed with what T̂ says of the original labels, and estimator {self.estimator} with "
                "noisy_head_labels corrected is of the corrected ones: set visits to False, or noisy_head_labels to "
                "original"
            )
        soft = self.correction in ("average", "ensemble")
        if soft and self.loss == "resample":
            raise DataError(
                f"loss resample draws samples with one label each, and correction {self.correction} keeps a share of "
                "every class: choose loss forward, or correction posterior, confidence or none"
            )
        if self.of_corrected and (soft or self.correction == "posterior"):
            raise DataError(
                f"correction {self.correction} asks T̂ about the original labels, and estimator {self.estimator} with "
                "noisy_head_labels corrected is of the corrected ones: set noisy_head_labels to original, or estimator "
                "to bulk_posterior"
            )

    @property
    def counts_bulk(self) -> bool:
        """Whether T̂ comes from the bulk, so that it is of the original labels."""
        return self.estimator in ("bulk", "bulk_posterior")

    @property
    def of_corrected(self) -> bool:
        """Whether T̂ is of the labels as corrected (reference): p(corrected | true), not p(original | true)."""
        return self.noisy_head_labels == "corrected" and not self.counts_bulk

    @property
    def asks_accuracy(self) -> bool:
        """Whether weights of the losses follow the accuracy on held-out samples."""
        return self.noisy_loss_weight is None or self.discounted

    @property
    def tells_apart(self) -> bool:
        """Whether annotators whose votes are known have a T̂ each."""
        return self.annotators and self.counts_bulk and self.loss == "forward"


PAPER = Method(
    forwards="separate",
    noisy_loss_weight=0.5,
    clean_loss_weight=None,
    discounted=False,
    fresh_passes=None,
    smoothing=1e-6,
    clean_sampling="balanced",
    estimator="clean_batch",
    pairs=False,
    annotators=False,
    noisy_head_labels="corrected",
    correction="confidence",
    calibrated=False,
    visits=False,
    rho=0.8,
    correction_start=0.0,
    ema=0.0,
)
"""The method as its authors' code runs it (Kye et al., ECCV 2022)."""

OURS = Method()
"""What `docs/ablation.md` found to be best."""
