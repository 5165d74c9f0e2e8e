"""The data sets that come as Parquet files with the image inline: CIFAR-10N, and your own two files."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.demo.annotators import assign
from pipeline.demo.image_rows import drawn_at_random, read_columns, read_images, stated_classes
from pipeline.demo.records import DemoDataset, DemoSample, HeldOut, Vote
from pipeline.demo.sampling import LEAST_AUDITED_PER_CLASS, audit_places, audit_size, generator, shuffled
from pipeline.errors import DataError

_log = logging.getLogger(__name__)

CIFAR_RATERS = ("rater_1", "rater_2", "rater_3")

_Columns = Mapping[str, Sequence[str | None]]


def load_cifar10n(root: Path, limit: int, most_held_out: int, seed: int) -> DemoDataset:
    """CIFAR-10 with its real human labels: the three raters are the three annotators, one or two of them a task."""
    train, test = root / "train.parquet", root / "test.parquet"
    classes = stated_classes(train, ["clean_label"])
    if classes is None:
        raise DataError(f"{train} does not name its classes (schema metadata 'classes')")
    names = ("clean_label", *CIFAR_RATERS)
    columns = read_columns(train, names, required=names, classes=classes)
    truths = read_columns(test, ["clean_label"], required=["clean_label"], classes=classes)["clean_label"]

    usable = [row for row, labels in enumerate(zip(*columns.values(), strict=True)) if None not in labels]
    drawn = shuffled(usable, generator(seed, "draw"))[:limit]
    raters = assign(len(drawn), len(CIFAR_RATERS), generator(seed, "votes"))
    audits = audit_places(len(drawn), audit_size(len(drawn), len(classes)), generator(seed, "audit"))
    images = read_images(train, drawn)
    samples = tuple(
        DemoSample(
            sample_id=f"cifar10n-{row:05d}",
            image=images[row],
            truth=columns["clean_label"][row],
            votes=tuple(Vote(annotator=who, label=str(columns[CIFAR_RATERS[who]][row])) for who in whom),
            audit=audit,
        )
        for row, whom, audit in zip(drawn, raters, audits, strict=True)
        if row in images
    )
    held_out = shuffled(range(len(truths)), generator(seed, "held out"))[:most_held_out]
    return DemoDataset(
        name="cifar10n",
        classes=classes,
        samples=samples,
        held_out=_held_out(test, held_out, truths),
        native_size=32,
        left_out=len(columns["clean_label"]) - len(usable) + len(drawn) - len(samples),
    )


def load_own_files(clean: Path, noisy: Path, limit: int, most_held_out: int, seed: int) -> DemoDataset:
    """Clean rows become audited tasks, noisy rows tasks that one annotator labelled.

    What the annotator had said of a clean row is its `given_label`, else the label of the same `sample_id` in the
    noisy file. A noisy file may carry `true_label` (a benchmark's): simulated reviewers then know the answer. Up to
    a quarter of the clean rows is held out, where `LEAST_AUDITED_PER_CLASS` a class remain.

    Rows that were chosen because a model was unsure of them (`provenance` is `review`) are no audits: entered as such
    they would estimate, and held out they would make the score board harder. Such a sample is a task like any other
    where the noisy file has it, and what is known of it is what its reviewer will say; else it is left out.
    """
    stated = stated_classes(noisy) or stated_classes(clean)
    names, required = ("sample_id", "label", "given_label", "true_label"), ("sample_id", "label")
    clean_columns = read_columns(clean, names, required=required, classes=stated)
    noisy_columns = read_columns(noisy, names, required=required, classes=stated)
    classes = stated or _in_order({*clean_columns["label"], *noisy_columns["label"]})
    known_rows, noisy_rows = _usable(clean_columns, classes), _usable(noisy_columns, classes)
    if not known_rows or not noisy_rows:
        raise DataError(f"{clean if not known_rows else noisy} has no row with a sample_id and a label of {classes}")
    at_random = drawn_at_random(clean)
    clean_rows = {each: row for each, row in known_rows.items() if at_random is None or at_random[row]}
    if not clean_rows:
        raise DataError(f"{clean}: provenance is “review” in every usable row: none can stand for an audit at random")
    if reviews := len(known_rows) - len(clean_rows):
        _log.warning("%s: %d rows of provenance “review” are no audits: they are not entered as such", clean, reviews)

    order = shuffled(clean_rows.values(), generator(seed, "held out"))
    spared = min(len(order) // 4, max(len(order) - LEAST_AUDITED_PER_CLASS * len(classes), 0), most_held_out)
    held_out, audited = order[:spared], order[spared:]
    unaudited = [row for sample_id, row in noisy_rows.items() if sample_id not in clean_rows]
    if limit < len(audited) + len(unaudited):
        audited = audited[: audit_size(limit, len(classes))]
    unaudited = shuffled(unaudited, generator(seed, "draw"))[: limit - len(audited)]

    given = _given_labels(clean_columns, noisy_columns, noisy_rows)
    clean_images, noisy_images = read_images(clean, audited), read_images(noisy, unaudited)
    places = audit_places(len(audited), len(audited), generator(seed, "audit"))
    samples = [
        DemoSample(
            sample_id=str(clean_columns["sample_id"][row]),
            image=clean_images[row],
            truth=clean_columns["label"][row],
            votes=_one_vote(given[row], classes),
            audit=place,
        )
        for row, place in zip(audited, places, strict=True)
        if row in clean_images
    ]

    def _known(sample_id: str | None) -> str | None:
        row = known_rows.get(str(sample_id))
        return None if row is None else clean_columns["label"][row]

    truths = noisy_columns.get("true_label", [None] * len(noisy_columns["label"]))
    samples += [
        DemoSample(
            sample_id=str(noisy_columns["sample_id"][row]),
            image=noisy_images[row],
            truth=truths[row] if truths[row] in classes else _known(noisy_columns["sample_id"][row]),
            votes=_one_vote(noisy_columns["label"][row], classes),
        )
        for row in unaudited
        if row in noisy_images
    ]
    unusable = sum(len(c["label"]) for c in (clean_columns, noisy_columns)) - len(known_rows) - len(noisy_rows)
    return DemoDataset(
        name="parquet",
        classes=classes,
        samples=tuple(shuffled(samples, generator(seed, "order"))),
        held_out=_held_out(clean, held_out, clean_columns["label"]),
        native_size=None,
        left_out=unusable + len(audited) + len(unaudited) - len(samples),
    )


def _usable(columns: _Columns, classes: Sequence[str]) -> dict[str, int]:
    """`sample_id` → row, of rows with both a `sample_id` and a label that is a class; the first of equal ids."""
    known = set(classes)
    rows: dict[str, int] = {}
    for row, (sample_id, label) in enumerate(zip(columns["sample_id"], columns["label"], strict=True)):
        if sample_id is not None and label in known:
            rows.setdefault(sample_id, row)
    return rows


def _given_labels(clean: _Columns, noisy: _Columns, noisy_rows: Mapping[str, int]) -> list[str | None]:
    """What the annotators had said, for each clean row."""
    own = clean.get("given_label", [None] * len(clean["label"]))
    return [
        said if said is not None or sample_id not in noisy_rows else noisy["label"][noisy_rows[sample_id]]
        for said, sample_id in zip(own, map(str, clean["sample_id"]), strict=True)
    ]


def _one_vote(label: str | None, classes: Sequence[str]) -> tuple[Vote, ...]:
    return (Vote(annotator=0, label=label),) if label is not None and label in classes else ()


def _held_out(path: Path, rows: Sequence[int], truths: Sequence[str | None]) -> tuple[HeldOut, ...]:
    images = read_images(path, rows)
    return tuple(
        HeldOut(image=images[row], truth=truth) for row in rows if row in images and (truth := truths[row]) is not None
    )


def _in_order(labels: Iterable[str | None]) -> tuple[str, ...]:
    """Sorted, whole numbers in their own order, so that 10 comes after 9."""
    names = {label for label in labels if label is not None}
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))
