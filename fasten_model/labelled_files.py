"""Labelled images from the inline Parquet files: two that are trained on, or one to be scored."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fasten_model.images.parquet import Samples, read_samples
from fasten_model.label_noise import OTHERS as ANYBODY
from fasten_model.labelled import UNKNOWN, LabelledImages
from fasten_model.votes import columns_of, count_unknown, count_votes, majority, vote_table

_log = logging.getLogger(__name__)


def load_files(
    clean: str | Path, noisy: str | Path, *, size: int, cache: str | Path | None = None
) -> tuple[LabelledImages, LabelledImages, tuple[str, ...]]:
    """(noisy, clean, classes) from the two inline Parquet files.

    Every clean row counts as drawn at random, unless the file has a column `provenance` that says which do (`audit`)
    and which do not (`review`). A sample in both files is an audited one: what the noisy file says of it is its given
    label, and its votes. Where the noisy file has a column `votes`, annotators are told apart. With the folder `cache`
    images are decoded once, kept there, and read as they are needed.

    The classes are those of the clean file, then those that only the noisy file has (which no training will take, for
    want of an audited sample: `fitting.check_trainable` says so).
    """
    audited = read_samples(clean, size=size, cache=cache, audited=True)
    bulk = read_samples(noisy, size=size, cache=cache)
    classes = all_classes(audited.classes, bulk.classes)
    columns = columns_of(count_votes(samples.votes for samples in (bulk, audited) if samples.votes is not None))
    noisy_set, clean_set = _apart(_labelled(bulk, noisy, classes, columns), _labelled(audited, clean, classes, columns))
    clean_set = replace(clean_set, given_labels=_given(clean_set, len(classes)))
    if noisy_set.votes is None or (noisy_set.votes < 0).all():  # nobody to be told apart in training
        noisy_set, clean_set = (replace(each, annotators=(), votes=None) for each in (noisy_set, clean_set))
    return noisy_set, clean_set, classes


def all_classes(clean: Sequence[str], noisy: Sequence[str]) -> tuple[str, ...]:
    """Those of the clean file, and after them what the noisy file has beyond."""
    return tuple(dict.fromkeys((*clean, *noisy)))


def load_to_score(path: str | Path, *, size: int, classes: Sequence[str], annotators: Sequence[str]) -> LabelledImages:
    """The samples of an inline Parquet file, to be scored by a model that knows these classes and annotators."""
    samples = read_samples(path, size=size, classes=classes)
    if samples.votes is None:
        return _labelled(samples, path, classes, ())
    if not annotators:
        _log.warning("%s: column votes is not used: the model was trained on one label a sample", path)
        return _labelled(samples, path, classes, ())
    own = [name for name in annotators if name != ANYBODY]
    return _labelled(samples, path, classes, columns_of(count_votes([samples.votes]), own))


def _labelled(samples: Samples, path: str | Path, classes: Sequence[str], columns: Sequence[str]) -> LabelledImages:
    """The usable rows of an inline Parquet file; what was rejected is logged, by reason.

    classes: labels index these, all of the file's among them. columns: whose votes are told apart (`columns_of`).
    """
    _tell_rejected(samples, path)
    place = {name: index for index, name in enumerate(classes)}
    # The last place is that of no label.
    places = torch.tensor([*(place[name] for name in samples.classes), UNKNOWN], dtype=torch.int64)
    votes = torch.full((len(samples.sample_ids), len(columns)), UNKNOWN)
    if samples.votes is not None and columns:
        votes = vote_table(samples.votes, columns, classes)
        if lost := count_unknown(samples.votes, classes):
            _log.warning("%s: %d votes are for no class that a label names: they do not count", path, lost)
    return LabelledImages(
        sample_ids=samples.sample_ids,
        images=samples.images,
        labels=places[samples.labels],
        given_labels=places[samples.given_labels],
        estimates=samples.estimates,
        annotators=tuple(columns),
        votes=votes if columns else None,
    )


def _apart(noisy: LabelledImages, clean: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """No sample in both: labels that are known to be wrong would be learnt, and who is held out would not be known."""
    rows = {sample_id: row for row, sample_id in enumerate(noisy.sample_ids)}
    found = torch.tensor([rows.get(sample_id, UNKNOWN) for sample_id in clean.sample_ids], dtype=torch.int64)
    both = found >= 0
    if not both.any():
        return noisy, clean
    _log.info("%d samples are in both files: their audited label counts", int(both.sum()))
    given, votes = clean.given_labels.clone(), clean.votes
    unsaid = both & (given == UNKNOWN)
    given[unsaid] = noisy.labels[found[unsaid]]
    if votes is not None and noisy.votes is not None:
        unsaid = both & clean.unvoted(clean.annotators)
        votes = votes.clone()
        votes[unsaid] = noisy.votes[found[unsaid]]
    bulk = torch.ones(len(noisy), dtype=torch.bool)
    bulk[found[both]] = False
    return noisy.at(bulk), replace(clean, given_labels=given, votes=votes)


def _given(clean: LabelledImages, num_classes: int) -> Tensor:
    """The given labels, int64 [N]; what most annotators had said where nothing else tells them."""
    if clean.votes is None:
        return clean.given_labels
    return torch.where(clean.given_labels == UNKNOWN, majority(clean.votes, num_classes), clean.given_labels)


def _tell_rejected(samples: Samples, path: str | Path) -> None:
    if not samples.rejected:
        return
    reasons: dict[str, int] = {}
    for _, reason in samples.rejected:
        reasons[reason] = reasons.get(reason, 0) + 1
    every = len(samples.rejected) + len(samples.sample_ids)
    _log.warning("%s: %d of %d rows are left out", path, len(samples.rejected), every)
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:5]:
        _log.warning("  %d: %s", count, reason)
    if len(reasons) > 5:
        _log.warning("  and more for %d other reasons", len(reasons) - 5)
