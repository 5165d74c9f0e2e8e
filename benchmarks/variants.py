"""The ablation's variants: the paper's FasTEN or ours with one thing changed, and what that should do.

A prediction is written before the measurement and stays as it is; `docs/ablation.md` has what came of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fasten_model.errors import DataError
from fasten_model.train.method import OURS, PAPER, Method

BASES: Mapping[str, Method] = {"paper": PAPER, "ours": OURS, "fitted": OURS}
"""The published method; ours, its network trained on all audited samples; and ours as the product runs it
(`fasten_model.fit`), which keeps some of them to calibrate by."""

Judged = Literal["p", "q", "fitted"]
"""How labels are judged: by the clean head's p, by q under training's T̂ (of the same network, weight for weight), or as
`fasten_model.fit` and `score` do it."""

_JUDGED: Mapping[str, Judged] = {"paper": "p", "ours": "q", "fitted": "fitted"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One base with changes; without any it is the base itself."""

    base: Literal["paper", "ours", "fitted"]
    change: str = ""
    """Its name, after the base's and a + or −."""
    switches: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Method`."""
    judges: Judged | None = None
    """None: as the base does."""
    clean_share: float | None = None
    """B_clean / B_noisy; None: the preset's."""
    predicted: str = ""

    @property
    def name(self) -> str:
        """`paper`, `paper +joint`, `ours -pairs`."""
        return f"{self.base} {self.change}".strip()

    def method(self) -> Method:
        """The base with the changed switches."""
        return replace(BASES[self.base], **self.switches)

    @property
    def judged(self) -> Judged:
        """How its labels are judged."""
        return self.judges or _JUDGED[self.base]


_ORIGINAL = {"noisy_head_labels": "original"}

_OF_PAPER = (
    Variant(base="paper"),
    Variant(
        base="paper", change="+joint", switches={"forwards": "joint"},
        predicted="one forward: a tenth faster, accuracy as before (±0.3)",
    ),
    Variant(
        base="paper", change="+shuffled", switches={"clean_sampling": "shuffled"},
        predicted="rows of T̂ missing now and then: accuracy as before or a little below",
    ),
    Variant(
        base="paper", change="+smoothing", switches={"smoothing": 1e-3},
        predicted="nothing, unless a label that T̂ calls impossible makes the loss jump",
    ),
    Variant(
        base="paper", change="+decayed", switches={"estimator": "clean_decayed"},
        predicted="T̂ less noisy: error a fifth lower, diagonal as biased as before, accuracy +0.2",
    ),
    Variant(
        base="paper", change="+evaluation", switches={"evaluation_features": True},
        predicted="T̂'s diagonal a little nearer, a third slower",
    ),
    Variant(
        base="paper", change="+folds", switches={"folds": 2},
        predicted="T̂ from samples that did not train in this epoch: half of the diagonal's bias",
    ),
    Variant(
        base="paper", change="+folds +decayed", switches={"folds": 2, "estimator": "clean_decayed"},
        predicted="a third of the diagonal's bias, accuracy +0.5",
    ),
    Variant(
        base="paper", change="+pairs", switches={"pairs": True},
        predicted="T̂ of corrected labels joined with counts of original ones: error lower early, wrong late",
    ),
    Variant(
        base="paper", change="-correction", switches={"correction": "none"},
        predicted="better in short trainings (+1), worse on heavy noise in long ones",
    ),
    Variant(
        base="paper", change="+late", switches={"correction_start": 0.5},
        predicted="fewer miscorrections of an unready model: +1",
    ),
    Variant(
        base="paper", change="+rho .95", switches={"rho": 0.95},
        predicted="more precise relabels, fewer of them: +0.5",
    ),
    Variant(
        base="paper", change="+late +rho .95", switches={"correction_start": 0.5, "rho": 0.95},
        predicted="nearly repairs the correction: +1.5",
    ),
    Variant(
        base="paper", change="+bulk -correction", switches={"estimator": "bulk", "correction": "none", **_ORIGINAL},
        predicted="T̂ of the original labels from thousands of samples: error a third of the paper's, +1.5",
    ),
    Variant(
        base="paper", change="+posterior",
        switches={"correction": "posterior", "rho": 0.95, "correction_start": 0.5, **_ORIGINAL},
        predicted="the given label counts too: +2, relabels far more precise",
    ),
    Variant(
        base="paper", change="+average", switches={"correction": "average", "correction_start": 0.5, **_ORIGINAL},
        predicted="soft targets: as good as the posterior, better calibrated",
    ),
    Variant(
        base="paper", change="+resample", switches={"loss": "resample"},
        predicted="as the forward loss, better where the noise depends on the instance (+1)",
    ),
    Variant(
        base="paper", change="+ema", switches={"ema": 0.98},
        predicted="averaged weights: +0.3 after a schedule that ends at zero",
    ),
    Variant(
        base="paper", change="+prior", switches={"prior_correction": True},
        predicted="nothing on balanced data; +1 under a long tail",
    ),
    Variant(
        base="paper", change="+q", judges="q",
        predicted="the same network: labels right +3, relabels far more precise",
    ),
    Variant(
        base="paper", change="+quarter", clean_share=0.25,
        predicted="five eighths of the cost; T̂ from a handful a step: accuracy −1",
    ),
)  # fmt: skip

_OF_OURS = (
    Variant(base="ours"),
    Variant(
        base="ours", change="+joint", switches={"forwards": "joint"},
        predicted="a tenth faster, accuracy as before (±0.3)",
    ),
    Variant(
        base="ours", change="-bulk (decayed)", switches={"estimator": "clean_decayed", "noisy_loss_weight": 0.5},
        predicted="T̂ biased toward identity: labels right −1",
    ),
    Variant(
        base="ours", change="-bulk (one batch)", switches={"estimator": "clean_batch", "noisy_loss_weight": 0.5},
        predicted="biased and jumping: labels right −2",
    ),
    Variant(
        base="ours", change="-posterior counts", switches={"estimator": "bulk"},
        predicted="an unsure model blurs T̂: its error a third higher, labels right −0.3",
    ),
    Variant(
        base="ours", change="-pairs", switches={"pairs": False},
        predicted="T̂ error a fifth higher, labels right −0.3; more with few clean samples",
    ),
    Variant(
        base="ours", change="-annotators", switches={"annotators": False},
        predicted="nothing with one label a sample; −1 with several annotators",
    ),
    Variant(
        base="ours", change="-visits", switches={"visits": False},
        predicted="(after a trial) labels right −0.3: nobody is held out to weigh them by",
    ),
    Variant(
        base="ours", change="-correction", switches={"correction": "none"},
        predicted="labels right −0.5",
    ),
    Variant(
        base="ours", change="+average", switches={"correction": "average"},
        predicted="as good as hard corrections, better calibrated",
    ),
    Variant(
        base="ours", change="+ensemble", switches={"correction": "ensemble"},
        predicted="steadier than one visit's q: labels right +0.2",
    ),
    Variant(
        base="ours", change="late", switches={"correction_start": 0.5},
        predicted="no corrections by an unready model: +0.3; noise learnt by then stays: −0.5",
    ),
    Variant(
        base="ours", change="rho .8", switches={"rho": 0.8},
        predicted="fewer corrections, more precise: ±0.3",
    ),
    Variant(
        base="ours", change="rho .99", switches={"rho": 0.99},
        predicted="hardly any correction: −0.2",
    ),
    Variant(
        base="ours", change="-smoothing", switches={"smoothing": 1e-6},
        predicted="nothing: decayed counts with a prior are positive",
    ),
    Variant(
        base="ours", change="+noisy head", switches={"noisy_loss_weight": 0.5},
        predicted="T̂ does not come from it: accuracy as before, or −0.3 by its pull on the trunk",
    ),
    Variant(
        base="ours", change="+balanced", switches={"clean_sampling": "balanced"},
        predicted="nothing where classes are even",
    ),
    Variant(
        base="ours", change="clean by count", switches={"clean_loss_weight": None},
        predicted="less trust in the clean set: −0.3 on heavy noise, +0.3 on light",
    ),
    Variant(
        base="ours", change="short memory", switches={"memory": 0.25},
        predicted="nothing: T of the original labels does not move",
    ),
    Variant(
        base="ours", change="+ema", switches={"ema": 0.98},
        predicted="+0.3",
    ),
    Variant(
        base="ours", change="+resample", switches={"loss": "resample"},
        predicted="+1 where the noise depends on the instance, else −0.5",
    ),
    Variant(
        base="ours", change="+prior", switches={"prior_correction": True},
        predicted="nothing on balanced data; +1 under a long tail",
    ),
    Variant(
        base="ours", change="-q", judges="p",
        predicted="the same network: labels right −2, relabels less precise",
    ),
    Variant(
        base="ours", change="quarter", clean_share=0.25,
        predicted="a quarter more than plain training instead of half: labels right −0.3",
    ),
)  # fmt: skip

_OF_FITTED = (
    Variant(base="fitted"),
    Variant(
        base="fitted", change="-calibrated", switches={"calibrated": False},
        predicted="corrections by an over-confident p: labels right −0.5",
    ),
    Variant(
        base="fitted", change="-bulk (decayed)", switches={"estimator": "clean_decayed", "noisy_loss_weight": 0.5},
        predicted="T̂ biased toward identity in training: test −0.3",
    ),
    Variant(
        base="fitted", change="-posterior counts", switches={"estimator": "bulk"},
        predicted="an unsure model blurs T̂: test −0.2; better on a small bulk, where q confirms its first guess",
    ),
    Variant(
        base="fitted", change="-pairs", switches={"pairs": False},
        predicted="T̂ in training from the bulk alone: ±0.2, −1 with a small bulk",
    ),
    Variant(
        base="fitted", change="-visits", switches={"visits": False},
        predicted="(after a trial) labels right −0.5 where p learns wrong labels by heart, −4 in long trainings",
    ),
    Variant(
        base="fitted", change="-correction", switches={"correction": "none"},
        predicted="labels right −0.5",
    ),
    Variant(
        base="fitted", change="-accuracy's weights",
        switches={"noisy_loss_weight": 0.0, "discounted": False, "fresh_passes": None},
        predicted="nothing where the images are easy, test −3 and labels right −2 where they are hard",
    ),
    Variant(
        base="fitted", change="-noisy head", switches={"noisy_loss_weight": 0.0},
        predicted="+0.2 where the images are easy, −1 where they are hard",
    ),
    Variant(
        base="fitted", change="-discount", switches={"discounted": False, "fresh_passes": None},
        predicted="+0.2 where the images are easy, −1 where they are hard",
    ),
    Variant(
        base="fitted", change="-fresh passes", switches={"fresh_passes": None},
        predicted="(after trials) nothing where a set is seen 60 times; test −1 in long trainings on hard images",
    ),
    Variant(
        base="fitted", change="clean by count", switches={"clean_loss_weight": None},
        predicted="−0.3 on heavy noise",
    ),
    Variant(
        base="fitted", change="+joint", switches={"forwards": "joint"},
        predicted="(after a trial) an eighth faster; labels right −0.5 on human labels, ±0.2 on digits",
    ),
    Variant(
        base="fitted", change="+ema", switches={"ema": 0.98},
        predicted="nothing after a schedule that ends at zero",
    ),
    Variant(
        base="fitted", change="+resample", switches={"loss": "resample"},
        predicted="labels right −1",
    ),
    Variant(
        base="fitted", change="quarter", clean_share=0.25,
        predicted="a quarter more than plain training instead of half: test −0.3",
    ),
)  # fmt: skip

VARIANTS: Mapping[str, Variant] = {variant.name: variant for variant in (*_OF_PAPER, *_OF_OURS, *_OF_FITTED)}
"""By name: the paper's method with each remedy put in, and ours with each taken out or exchanged."""


def find_variants(names: list[str] | None) -> list[Variant]:
    """The named ones (`paper` and `ours` with all of their own: `paper/*`), each after its base; None: all."""
    if names is None:
        return list(VARIANTS.values())
    found: dict[str, Variant] = {}
    for name in names:
        wanted = [v for v in VARIANTS.values() if name in (v.name, f"{v.base}/*")]
        if not wanted:
            raise DataError(f"no variant is called {name!r}; there are paper/*, ours/*, {', '.join(VARIANTS)}")
        for variant in wanted:
            found |= {variant.base: VARIANTS[variant.base], variant.name: variant}
    return list(found.values())
