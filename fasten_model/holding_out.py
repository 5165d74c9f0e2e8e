"""Of which audited samples a model is not told what they truly are, so that they can tell what it is worth.

    one model   a fixed share is held out
    M folds     M models, each told all but another M-th: every sample is held out once, and none is lost to training
                (cross-fitting; Stone, 1974)

A held-out sample that had been labelled trains with that label, as the bulk does (`fasten_model.fitting`).
Only samples drawn at random are held out: a targeted review would bias whatever is estimated.

Shapes: C audited samples, M models, K classes.
"""

import hashlib

import torch
from torch import Tensor

from fasten_model.checks import is_number
from fasten_model.errors import DataError
from fasten_model.labelled import LabelledImages

HOLDOUT = 0.25
"""The share that one model leaves out, unless told."""
MOST_FOLDS = 20
"""So many models at most."""
NOWHERE = -1
"""The fold of a sample whose truth every model is told."""


def folds_of(clean: LabelledImages, num_classes: int, *, holdout: float | None = None, folds: int = 1) -> Tensor:
    """int64 [C]: the number, below `folds`, of the model that each audited sample is held out from, or NOWHERE.

    holdout: the share that the one model leaves out where `folds` is 1; HOLDOUT unless given. Raises `DataError` as
    `check_folds` does.
    """
    check_folds(holdout=holdout, folds=folds)
    if folds == 1:
        share = HOLDOUT if holdout is None else holdout
        return torch.where(holdout_mask(clean, share, num_classes), 0, NOWHERE)
    return _cross_folds(clean, folds)


def check_folds(*, holdout: float | None, folds: int) -> None:
    """`DataError` where both a share and several folds are asked for, or one is out of range."""
    if not isinstance(folds, int) or not 1 <= folds <= MOST_FOLDS:
        raise DataError(f"folds must be from 1 to {MOST_FOLDS}, got {folds!r}")
    if holdout is None:
        return
    if folds > 1:
        raise DataError(f"with {folds} folds every audited sample is held out once: leave holdout out, or folds at 1")
    if not (is_number(holdout) and 0 <= holdout < 1):
        raise DataError(f"holdout must be from 0 to below 1, got {holdout!r}")


def is_held_out(sample_id: str, share: float) -> bool:
    """Whether an audited sample is held out: decided by its id alone, the same in every run."""
    return _place(sample_id) < share * 2**64


def holdout_mask(clean: LabelledImages, share: float, num_classes: int) -> Tensor:
    """bool [C]: the audited samples that are held out from one model.

    Never the last one of its class, which is the last that a growing share comes to: without it, that row of T̂ would
    be estimated from nothing.
    """
    mask = torch.tensor([is_held_out(sample_id, share) for sample_id in clean.sample_ids], dtype=torch.bool)
    mask &= clean.estimates
    for label in range(num_classes):
        of_class = ((clean.labels == label) & clean.estimates).nonzero().flatten().tolist()
        if of_class:
            mask[max(of_class, key=lambda at: _place(clean.sample_ids[at]))] = False
    return mask


def _cross_folds(clean: LabelledImages, folds: int) -> Tensor:
    """Folds of equal size with equal shares of each class, by class and then by a hash of the id.

    A class with a single sample keeps it for training: the model without it would not know the class.
    """
    fold = torch.full((len(clean),), NOWHERE)
    counts = torch.bincount(clean.labels[clean.estimates], minlength=int(clean.labels.max()) + 1 if len(clean) else 1)
    usable = (clean.estimates & (counts[clean.labels] > 1)).nonzero().flatten().tolist()
    order = sorted(usable, key=lambda at: (int(clean.labels[at]), _place(clean.sample_ids[at])))
    fold[order] = torch.arange(len(order)) % folds
    return fold


def _place(sample_id: str) -> int:
    """Uniform in 0 … 2⁶⁴ − 1."""
    # Ids that came out of broken bytes are texts with surrogates.
    text = sample_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(b"fasten holdout\0" + text).digest()[:8], "big")
