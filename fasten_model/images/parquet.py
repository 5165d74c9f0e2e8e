"""Samples from Parquet with the images inline: `sample_id, image struct<bytes,path>, label[, given_label]`.

A file of audited samples may have a column `provenance`, and any a column `votes`.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fasten_model.checks import check_names, check_whole
from fasten_model.errors import DataError
from fasten_model.images.cache import ImageCache, Place
from fasten_model.images.columns import check_columns, image_column, inline_bytes
from fasten_model.images.decode import MAX_PIXELS, decode_image, decode_images
from fasten_model.images.rows import BATCH_ROWS, Row, Rows
from fasten_model.images.source import Images
from fasten_model.images.votes_column import read_votes

__all__ = ["MAX_PIXELS", "Labels", "Samples", "classes_with_an_image", "decode_image", "read_labels", "read_samples"]

_log = logging.getLogger(__name__)

_BUFFER_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The usable rows of one file, in its order, and what was wrong with the others."""

    sample_ids: tuple[str, ...]
    images: Tensor | Images
    """uint8 [N,3,S,S]; a tensor unless they are kept in a cache."""
    labels: Tensor
    """int64 [N], index into `classes`."""
    given_labels: Tensor
    """int64 [N]: what the annotators had said before the audit; −1 where that is unknown."""
    estimates: Tensor
    """bool [N]: false of a sample that was audited because a model was unsure of it (`provenance` is `review`)."""
    votes: pa.ChunkedArray | None
    """list<struct<annotator, label>> [N]: who had said what (`fasten_model.votes`); None where the file has none."""
    classes: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    """(sample_id, reason) of each row left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The rows of one file that can be used unless their image does not decode, in its order."""

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    """(sample_id, reason) of the others."""


def read_samples(
    path: str | Path,
    *,
    size: int,
    classes: Sequence[str] | None = None,
    audited: bool = False,
    max_pixels: int = MAX_PIXELS,
    cache: str | Path | None = None,
) -> Samples:
    """Read `path`, a few hundred rows at a time, decoding each image to size × size (`decode_image`), in parallel.

    With `cache`, a folder that any number of files may share, images are decoded once and memory-mapped ever after
    (`ImageCache`): memory does not grow with their number.

    Labels are class names, or whole numbers. In a `ClassLabel` column of the library `datasets` a number stands for a
    name, and −1 for none; in any other it is a name, too, where a class looks like a number, and where none does an
    index into the classes: those that the file lists, where it does, whatever the argument. Classes come from the
    argument, else from the schema metadata (`stated_classes`), else they are the file's own labels, sorted.
    audited: the file is of audited samples, whose `provenance` is heeded.
    A bad row (no id, an id seen before, no label, unknown class, bad image) is left out and told in `rejected`; only
    inline bytes count, the image's `path` is never opened. Raises DataError for a file that is not of this form.
    """
    path = Path(path)
    check_whole("size", size, 1)
    if classes is not None:
        check_names("classes", classes)
    with _opened(path) as file:
        check_columns(path, file, audited=audited)
        votes = read_votes(path, file)
        if votes is None and "votes" in file.schema_arrow.names:
            _log.warning(
                "%s: column votes is not used: it holds %s, not list<struct<annotator: string, label: string>>",
                path,
                file.schema_arrow.field("votes").type,
            )
        rows = Rows(path, file, classes, audited=audited)
        images: Tensor | Images
        if cache is None:
            images, places = _decode(rows.images(), file.metadata.num_rows, size, max_pixels)
        else:
            with ImageCache(Path(cache), size=size, max_pixels=max_pixels) as kept:
                hashed = ((hashlib.sha256(data).hexdigest(), data) for data in rows.images())
                places = [place for _, place in kept.add(hashed)]
                images = kept.images([place for place in places if isinstance(place, int)])
        return _samples(rows, images, places, votes)


def read_labels(path: str | Path, *, audited: bool = False) -> Labels:
    """What `read_samples` knows before it decodes an image; raises every `DataError` of its own that needs none."""
    path = Path(path)
    with _opened(path) as file:
        check_columns(path, file, audited=audited)
        read_votes(path, file)
        rows = Rows(path, file, None, audited=audited)
        rows.read()
        return Labels(rows=tuple(rows.usable), classes=rows.classes, rejected=rows.reasons())


def classes_with_an_image(path: str | Path, rows: Mapping[int, str], *, size: int) -> set[str]:
    """Of these classes, by the number of the row, those of which an image decodes; one of each is decoded, if sound."""
    wanted, found, start = set(rows.values()), set[str](), 0
    with _opened(Path(path)) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[image_column(file.schema_arrow)]):
            if found == wanted:
                break
            for offset, image in enumerate(batch.column(0)):
                name = rows.get(start + offset)
                if name is not None and name not in found and _decodes(inline_bytes(image.as_py()), size):
                    found.add(name)
            start += batch.num_rows
    return found


def _decodes(image: bytes | None, size: int) -> bool:
    if image is None:
        return False
    try:
        decode_image(image, size)
    except DataError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The file, to be read a bit at a time; what is wrong with it is one line."""
    try:
        # Left to itself, Arrow reads ahead, and keeps what it has read until the file is closed.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path} cannot be read (No such file or directory)") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or str(error).splitlines()[0]})") from error
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a sound Parquet file ({str(error).splitlines()[0]})") from error


def _samples(rows: Rows, images: Tensor | Images, places: Sequence[Place], votes: pa.ChunkedArray | None) -> Samples:
    """`places`: what became of each row's image, in the order of `rows.usable`; `images`: those that have a row."""
    usable = []
    for row, place in zip(rows.usable, places, strict=True):
        if isinstance(place, int):
            usable.append(row)
        else:
            rows.reject(row, place)
    return Samples(
        sample_ids=tuple(row.sample_id for row in usable),
        images=images,
        labels=torch.tensor([row.label for row in usable], dtype=torch.int64),
        given_labels=torch.tensor([row.given for row in usable], dtype=torch.int64),
        estimates=torch.tensor([row.estimates for row in usable], dtype=torch.bool),
        votes=None if votes is None else votes.take(pa.array([row.number for row in usable], pa.int64())),
        classes=rows.classes,
        rejected=rows.reasons(),
    )


def _decode(images: Iterator[bytes], most: int, size: int, max_pixels: int) -> tuple[Tensor, list[Place]]:
    """All that decode, uint8 [N,3,S,S] with N ≤ `most`, and the place of each that was given."""
    try:
        table = torch.empty(most, 3, size, size, dtype=torch.uint8)
    except RuntimeError:  # of more than the machine has; torch has no error of its own for that on a CPU
        raise DataError(
            f"{most:,} images of {size}×{size} take {most * 3 * size**2 / 2**30:,.0f} GiB of memory: take a smaller "
            "image size, or a cache on disk (`--cache`)"
        ) from None
    places: list[Place] = []
    count = 0
    for image in decode_images(images, size, max_pixels=max_pixels):
        if isinstance(image, DataError):
            places.append(str(image))
        else:
            table[count] = image
            places.append(count)
            count += 1
    return table[:count], places
