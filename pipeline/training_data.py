"""Labelled images, from a snapshot."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fasten_model.images.cache import ImageCache
from fasten_model.images.decode import decode_images
from fasten_model.images.source import TableImages
from fasten_model.labelled import UNKNOWN, LabelledImages
from fasten_model.votes import columns_of, vote_table
from pipeline.images.store import ImageStore
from pipeline.snapshot import Snapshot
from pipeline.votes import count_votes

logger = logging.getLogger(__name__)


def load_noisy(snapshot: Snapshot, store: ImageStore, *, size: int, cache: Path | None = None) -> LabelledImages:
    """The snapshot's noisy samples, decoded to `size`×`size`; what does not decode is logged and left out.

    With the folder `cache`, which all snapshots share, an image is decoded once and read as it is needed; without, all
    lie in memory.
    """
    return _load(snapshot.noisy_path, snapshot, store, size, cache)


def load_clean(
    snapshot: Snapshot, store: ImageStore, *, size: int, cache: Path | None = None, runs: Sequence[str] | None = None
) -> LabelledImages:
    """The snapshot's audited samples; `estimates` is true for those drawn at random (provenance `audit`).

    runs: keys of the runs that have asked questions, the earliest first, where `asked_in` is wanted.
    """
    found = _load(snapshot.clean_path, snapshot, store, size, cache)
    return found if runs is None else replace(found, asked_in=_asked_in(found, snapshot, runs))


def _asked_in(clean: LabelledImages, snapshot: Snapshot, runs: Sequence[str]) -> Tensor:
    """int64 [N]: the round, from 1, that asked about each sample; 0 of what was drawn before any.

    A draw counts as early and a review as late as can be, where several questions were asked, or nothing is known.
    """
    numbers, late = {key: number for number, key in enumerate(runs, start=1)}, len(runs) + 1
    drawn: dict[str, int] = {}
    reviewed: dict[str, int] = {}
    columns = ["sample_id", "origin", "ground_truth", "asked_as", "asked_by_run"]
    people = (pc.field("origin") != "labels") | pc.field("ground_truth")
    for row in pq.read_table(snapshot.labels_path, columns=columns, filters=people).to_pylist():
        sample, run = row["sample_id"], row["asked_by_run"]
        if row["origin"] != "review":
            drawn[sample] = 0
            continue
        if row["asked_as"] == "audit":
            drawn[sample] = min(drawn.get(sample, late), numbers.get(run, 0))
        reviewed[sample] = max(reviewed.get(sample, 0), numbers.get(run, late))
    found = [
        drawn.get(sample, 0) if at_random else reviewed.get(sample, late)
        for sample, at_random in zip(clean.sample_ids, clean.estimates.tolist(), strict=True)
    ]
    return torch.tensor(found, dtype=torch.int64)


def _load(path: Path, snapshot: Snapshot, store: ImageStore, size: int, cache: Path | None) -> LabelledImages:
    rows, classes = pq.read_table(path), snapshot.classes
    hashes: list[str] = rows["image_sha256"].to_pylist()
    images, bad = _decode(hashes, store, size) if cache is None else _keep(hashes, store, size, cache)
    for sha256, reason in bad.items():
        logger.warning("image %s is left out: %s", sha256[:12], reason)
    usable = [sha256 not in bad for sha256 in hashes]
    if missing := len(usable) - sum(usable):
        logger.warning(
            "%d of %d samples of %s are left out: their image does not decode", missing, len(hashes), path.name
        )
    index = {name: position for position, name in enumerate(classes)} | {None: UNKNOWN}
    rows = rows.filter(pa.array(usable, pa.bool_()))
    audited = "given_label" in rows.column_names
    given = rows["given_label"].to_pylist() if audited else [None] * len(rows)
    provenance = rows["provenance"].to_pylist() if audited else ["noisy"] * len(rows)
    annotators = columns_of(count_votes(snapshot))
    return LabelledImages(
        sample_ids=tuple(rows["sample_id"].to_pylist()),
        images=images,
        labels=torch.tensor([index[name] for name in rows["label"].to_pylist()], dtype=torch.int64),
        given_labels=torch.tensor([index[name] for name in given], dtype=torch.int64),
        estimates=torch.tensor([kind == "audit" for kind in provenance], dtype=torch.bool),
        annotators=annotators,
        votes=vote_table(rows["votes"], annotators, classes) if annotators else None,
    )


def _decode(hashes: Sequence[str], store: ImageStore, size: int) -> tuple[Tensor, dict[str, str]]:
    """The images of these hashes that decode, in their order: uint8 [N,3,S,S]; and what is wrong with the others."""
    places: dict[str, list[int]] = {}
    for row, sha256 in enumerate(hashes):
        places.setdefault(sha256, []).append(row)
    images = torch.zeros(len(hashes), 3, size, size, dtype=torch.uint8)
    usable = torch.zeros(len(hashes), dtype=torch.bool)
    bad: dict[str, str] = {}
    # The decoder reads ahead: what it has been given and not yet given back.
    pending: deque[str] = deque()
    for decoded in decode_images(_remembering(store.iter_images(places), pending), size):
        sha256 = pending.popleft()
        if isinstance(decoded, Tensor):
            images[places[sha256]] = decoded
            usable[places[sha256]] = True
        else:
            bad[sha256] = str(decoded)
    return images[usable] if bad else images, bad


def _remembering(images: Iterable[tuple[str, bytes]], hashes: deque[str]) -> Iterator[bytes]:
    for sha256, data in images:
        hashes.append(sha256)
        yield data


def _keep(hashes: Sequence[str], store: ImageStore, size: int, cache: Path) -> tuple[TableImages, dict[str, str]]:
    """The same, memory-mapped: only images that no snapshot had before are fetched from the store and decoded."""
    with ImageCache(cache, size=size) as kept:
        unique = dict.fromkeys(hashes)
        places = kept.find(unique)
        new = [sha256 for sha256 in unique if sha256 not in places]
        if new:
            for sha256, place in kept.add(store.iter_images(new)):
                places[sha256] = place
        rows = [places[sha256] for sha256 in hashes]
        images = kept.images([row for row in rows if isinstance(row, int)])
    return images, {sha256: place for sha256, place in places.items() if isinstance(place, str)}
