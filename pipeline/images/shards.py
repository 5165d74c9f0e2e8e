"""The image store's files: append-only Parquet, each written under another name first and then renamed.

    part-000007-<random>.parquet    images            (`schema.IMAGES`)
    urls-000007-<random>.parquet    address → image   (`schema.IMAGE_URLS`)

Numbers go up with time, so that a listing is in order; the random end keeps two writers from ever meeting in a name.
"""

import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.images.check import VerifiedImage
from pipeline.schema import IMAGE_URLS, IMAGES, check_columns

GROUP_BYTES = 8 * 2**20
GROUP_ROWS = 2_000
_NAME = re.compile(r"(part|urls)-(\d+)-.*\.parquet")
_STAGED = re.compile(r"\.(part|urls)-.*\.parquet")


def listed(folder: Path) -> list[str]:
    """The names of all files, oldest first; of one number, the images before their addresses."""
    found = [match for file in folder.iterdir() if (match := _NAME.fullmatch(file.name))]
    return [match[0] for match in sorted(found, key=lambda match: (int(match[2]), match[0]))]


def sweep(folder: Path) -> None:
    """Remove what a killed writer left unfinished. For the one writer only."""
    for file in folder.iterdir():
        if _STAGED.fullmatch(file.name):
            file.unlink(missing_ok=True)


def write_part(folder: Path, images: Sequence[VerifiedImage]) -> tuple[str, list[tuple[str, int]]]:
    """Keep `images` in a new part: its name, and the row group of each hash."""
    places: list[tuple[str, int]] = []

    def write(staged: Path) -> None:
        # The bytes are compressed already: only the other columns gain from zstd.
        compression = {"image_sha256": "zstd", "width": "zstd", "height": "zstd"}
        with pq.ParquetWriter(staged, IMAGES, compression=compression, use_dictionary=False) as writer:
            for row_group, group in enumerate(_groups(images)):
                writer.write_table(_table(group))
                places.extend((image.sha256, row_group) for image in group)

    return _whole(folder, "part", write), places


def write_urls(folder: Path, urls: Iterable[tuple[bytes, str]]) -> str:
    """Keep (digest of an address, hash of its image) in a new file; its name."""
    digests, hashes = zip(*urls, strict=True)
    columns = [pa.array(digests, pa.binary(32)), pa.array(hashes, pa.string())]
    table = pa.Table.from_arrays(columns, schema=IMAGE_URLS)  # `pa.table` would import pandas first
    return _whole(folder, "urls", lambda staged: pq.write_table(table, staged, compression="zstd"))


def read_places(folder: Path, name: str) -> Iterator[tuple[str, int]]:
    """(hash, row group) of every image in a part. Raises `DataError` where it is damaged."""
    check_columns(folder / name, IMAGES)
    with open_shard(folder, name) as file:
        for row_group in range(file.num_row_groups):
            hashes = file.read_row_group(row_group, columns=["image_sha256"])["image_sha256"]
            yield from ((sha, row_group) for sha in hashes.to_pylist())


def read_urls(folder: Path, name: str) -> Iterator[tuple[bytes, str]]:
    """(digest, hash) of every address in a file. Raises `DataError` where it is damaged."""
    check_columns(folder / name, IMAGE_URLS)
    with open_shard(folder, name) as file:
        for batch in file.iter_batches():
            yield from zip(batch["url_digest"].to_pylist(), batch["image_sha256"].to_pylist(), strict=True)


def open_shard(folder: Path, name: str) -> pq.ParquetFile:
    """Raises `DataError` where the file cannot be opened."""
    try:
        return pq.ParquetFile(folder / name)
    except (OSError, pa.ArrowException) as error:
        raise damaged(folder, name) from error


def damaged(folder: Path, name: str) -> DataError:
    """What to do about a file that cannot be read: what it held is fetched again."""
    return DataError(f"{folder / name} is damaged; remove it and pull again")


def _whole(folder: Path, kind: str, write: Callable[[Path], None]) -> str:
    """Write a file that is there whole or not at all, even after a power cut."""
    names = listed(folder)
    match = _NAME.fullmatch(names[-1]) if names else None
    last = int(match[2]) if match else -1
    # The addresses go with the part that was written just before them.
    number = last if kind == "urls" and names and names[-1].startswith("part-") else last + 1
    name = f"{kind}-{number:06d}-{uuid.uuid4().hex[:8]}.parquet"
    staged = folder / f".{name}"
    try:
        write(staged)
        _to_disk(staged)
        staged.replace(folder / name)
        _to_disk(folder)
    except OSError as error:  # pyarrow's own does not say where
        raise OSError(error.errno, error.strerror or str(error), str(folder / name)) from error
    finally:
        staged.unlink(missing_ok=True)
    return name


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _groups(images: Sequence[VerifiedImage]) -> Iterator[list[VerifiedImage]]:
    group: list[VerifiedImage] = []
    size = 0
    for image in images:
        group.append(image)
        size += len(image.data)
        if size >= GROUP_BYTES or len(group) >= GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(images: Sequence[VerifiedImage]) -> pa.Table:
    kind = IMAGES.field("image").type
    columns = [
        pa.array([image.sha256 for image in images], pa.string()),
        pa.StructArray.from_arrays(
            [
                pa.array([image.data for image in images], pa.binary()),
                pa.array([_file_name(image) for image in images], pa.string()),
            ],
            fields=list(kind),
        ),
        pa.array([image.width for image in images], pa.int32()),
        pa.array([image.height for image in images], pa.int32()),
    ]
    return pa.Table.from_arrays(columns, schema=IMAGES)


def _file_name(image: VerifiedImage) -> str:
    return f"{image.sha256}.{'jpg' if image.format == 'JPEG' else image.format.lower()}"
