"""Your own data: `clean.parquet` and `noisy.parquet` with `sample_id, image, label` (design.md, Contracts).

The clean file may have `given_label`, the noisy one `true_label` (a benchmark's: the harness can then count what was
set right). A sample in both files is an audited one: it leaves the noisy set, and its label there is what was given.
Clean rows of provenance `review` are left out: a source does not tell them from random audits, and they would estimate
and test. What the noisy file says of such a sample stays in the noisy set.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data import mistakes
from benchmarks.data.folders import some_of
from benchmarks.data.source import UNKNOWN, Role, Source
from fasten_model.errors import DataError
from fasten_model.images.parquet import Samples, read_samples
from fasten_model.images.source import in_memory
from fasten_model.train.seeds import generator
from pipeline.demo.image_rows import read_columns, stated_classes

_log = logging.getLogger(__name__)

TESTED = 0.25
"""Share of the clean file that is the test part, always the same rows."""


def load_parquet(clean: Path | None, noisy: Path | None, *, size: int, limit: int | None, seed: int) -> Source:
    """A quarter of the clean file is the test part; at most `limit` samples of each file are kept."""
    if clean is None or noisy is None:
        raise DataError("the data set parquet needs clean.parquet and noisy.parquet: give their folder with --root")
    classes = _classes(clean, noisy)
    audited = read_samples(clean, size=size, classes=classes, audited=True)
    bulk = read_samples(noisy, size=size, classes=classes)
    for path, samples in ((clean, audited), (noisy, bulk)):
        if not samples.sample_ids:
            why = f"; the first: {samples.rejected[0][1]}" if samples.rejected else ""
            raise DataError(f"{path} has no usable row{why}")
    audited = _at_random(clean, audited)

    order = torch.randperm(len(audited.labels), generator=generator(0, "parquet", "test"))
    cut = round(TESTED * len(order))
    test = order[:cut].sort().values
    kept = order[cut:].sort().values
    kept = kept[some_of(len(kept), limit, seed, "clean")]
    known = set(audited.sample_ids)
    rows = torch.tensor([row for row, each in enumerate(bulk.sample_ids) if each not in known], dtype=torch.int64)
    rows = rows[some_of(len(rows), limit, seed, "noisy")]
    truth = _by_sample(bulk, _column(noisy, "true_label", classes), classes)
    return Source(
        name="parquet",
        train_images=torch.cat([in_memory(bulk.images[rows]), in_memory(audited.images[kept])]),
        train_labels=torch.cat([truth[rows], audited.labels[kept]]),
        test_images=in_memory(audited.images[test]),
        test_labels=audited.labels[test],
        classes=classes,
        mistaken_for=mistakes.next_class(len(classes)),
        given=torch.cat([bulk.labels[rows], _given(audited, bulk)[kept]]),
        role=torch.tensor([Role.NOISY] * len(rows) + [Role.CLEAN] * len(kept)),
    )


def _at_random(path: Path, audited: Samples) -> Samples:
    """Those that were drawn at random."""
    rows = audited.estimates.nonzero().squeeze(1)
    if len(rows) == 0:
        raise DataError(f"{path}: provenance is “review” in every usable row: nothing can estimate or test")
    if len(rows) == len(audited.sample_ids):
        return audited
    _log.warning("%s: %d rows of provenance “review” are left out", path, len(audited.sample_ids) - len(rows))
    return replace(
        audited,
        sample_ids=tuple(audited.sample_ids[row] for row in rows.tolist()),
        images=audited.images[rows],
        labels=audited.labels[rows],
        given_labels=audited.given_labels[rows],
        estimates=audited.estimates[rows],
        votes=None,
    )


_LABELS = ("label", "given_label", "true_label")


def _classes(clean: Path, noisy: Path) -> tuple[str, ...]:
    """As a file's metadata states them, else every label of both files in order."""
    stated = stated_classes(noisy) or stated_classes(clean)
    if stated is not None:
        return stated
    found: set[str | None] = set()
    for path in (clean, noisy):
        for column in read_columns(path, _LABELS, required=("sample_id", "label"), classes=None).values():
            found.update(column)
    names = [name for name in found if name is not None]
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return tuple(sorted(names, key=int if numbers else str))


def _column(path: Path, name: str, classes: Sequence[str]) -> dict[str, str]:
    """`sample_id` → the class in column `name`, where the file has that column and a class there."""
    columns = read_columns(path, ["sample_id", name], required=["sample_id"], classes=None)
    said = read_columns(path, [name], required=[], classes=classes).get(name, [])
    found: dict[str, str] = {}
    for sample_id, label in zip(columns["sample_id"], said, strict=False):
        if sample_id is not None and label is not None:
            found.setdefault(sample_id, label)
    return found


def _by_sample(samples: Samples, labels: dict[str, str], classes: Sequence[str]) -> Tensor:
    """int64 [M]: index of each sample's label, −1 where it has none that is a class."""
    index = {name: position for position, name in enumerate(classes)}
    return torch.tensor([index.get(labels.get(each, ""), UNKNOWN) for each in samples.sample_ids])


def _given(audited: Samples, bulk: Samples) -> Tensor:
    """int64 [C]: what was said of each audited sample: `given_label`, else its label in the noisy file, else −1."""
    said = dict(zip(bulk.sample_ids, bulk.labels.tolist(), strict=True))
    elsewhere = torch.tensor([said.get(each, UNKNOWN) for each in audited.sample_ids])
    return torch.where(audited.given_labels != UNKNOWN, audited.given_labels, elsewhere)
