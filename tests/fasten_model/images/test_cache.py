"""Decoded images outlive the process that decoded them, and nothing half-written ever counts."""

import fcntl
import hashlib
import io
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fasten_model.errors import DataError
from fasten_model.images import cache as cache_module
from fasten_model.images.cache import ImageCache
from fasten_model.images.decode import decode_image, decode_images
from fasten_model.images.parquet import read_samples

BROKEN = b"\x89PNG\r\n\x1a\nbroken"


def png(seed: int, side: int = 6) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def hashed(*images: bytes) -> list[tuple[str, bytes]]:
    return [(hashlib.sha256(data).hexdigest(), data) for data in images]


def stored(folder: Path, images: list[tuple[str, bytes]], size: int = 8) -> torch.Tensor:
    """The images as the cache gives them back, after adding those it does not know."""
    with ImageCache(folder, size=size) as cache:
        rows = [place for _, place in cache.add(images) if isinstance(place, int)]
        return cache.images(rows).take(torch.arange(len(rows)))


def decoded(images: list[tuple[str, bytes]], size: int = 8) -> torch.Tensor:
    return torch.stack([decode_image(data, size) for _, data in images])


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_images(*_: object, **__: object) -> Iterator[torch.Tensor]:
        raise AssertionError("it is known already")

    monkeypatch.setattr(cache_module, "decode_images", decode_images)


def test_images_come_back_as_decoded_also_to_the_next_process(tmp_path: Path) -> None:
    images = hashed(*(png(seed) for seed in range(5)))
    assert torch.equal(stored(tmp_path, images), decoded(images))
    with ImageCache(tmp_path, size=8) as cache:
        places = cache.find([sha for sha, _ in images])
        again = cache.images([int(places[sha]) for sha, _ in reversed(images)])
    assert torch.equal(again.take(torch.arange(5)), decoded(images[::-1]))
    assert again.shape == (5, 3, 8, 8)


@pytest.mark.usefixtures("no_decoding")
def test_an_empty_cache_knows_nothing_and_gives_no_images(tmp_path: Path) -> None:
    with ImageCache(tmp_path, size=8) as cache:
        assert cache.find(["a" * 64]) == {}
        assert list(cache.add([])) == []
        assert cache.images([]).shape == (0, 3, 8, 8)


def test_what_is_known_is_not_decoded_again(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    images = hashed(png(0), BROKEN, png(1))
    with ImageCache(tmp_path, size=8) as cache:
        first = list(cache.add(images))
    request.getfixturevalue("no_decoding")
    with ImageCache(tmp_path, size=8) as cache:
        assert list(cache.add(images)) == first
        assert cache.find(sha for sha, _ in images) == dict(first)


def test_a_corrupt_image_takes_no_row_and_its_reason_is_remembered(tmp_path: Path) -> None:
    with ImageCache(tmp_path, size=8) as cache:
        good, bad, other = (place for _, place in cache.add(hashed(png(0), BROKEN, png(1))))
    assert (good, other) == (0, 1)
    assert "breaks off within its header" in str(bad)


def test_the_same_image_twice_has_one_row(tmp_path: Path) -> None:
    with ImageCache(tmp_path, size=8) as cache:
        assert [place for _, place in cache.add(hashed(png(0), png(1), png(0)))] == [0, 1, 0]
    assert (cache.folder / "images.u8").stat().st_size == 2 * 3 * 8 * 8


def test_sizes_lie_apart(tmp_path: Path) -> None:
    images = hashed(png(0))
    for size in (8, 5):
        assert torch.equal(stored(tmp_path, images, size), decoded(images, size))


def test_an_image_too_large_once_is_looked_at_again_under_another_limit(tmp_path: Path) -> None:
    image = hashed(png(0))
    for limit, kept in ((35, False), (36, True)):
        with ImageCache(tmp_path, size=8, max_pixels=limit) as cache:
            ((_, place),) = cache.add(image)
        assert isinstance(place, int) is kept


def test_many_chunks_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_CHUNK_IMAGES", 3)
    monkeypatch.setattr(cache_module, "_AT_ONCE", 2)
    images = hashed(*(png(seed) for seed in range(10)))
    assert torch.equal(stored(tmp_path, images), decoded(images))
    with ImageCache(tmp_path, size=8) as cache:
        assert cache.find(sha for sha, _ in images) == {sha: row for row, (sha, _) in enumerate(images)}


def test_images_are_drawn_a_chunk_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_CHUNK_BYTES", 4 * 3 * 8 * 8)
    drawn = []

    def source() -> Iterator[tuple[str, bytes]]:
        for image in hashed(*(png(seed) for seed in range(20))):
            drawn.append(image)
            yield image

    with ImageCache(tmp_path, size=8) as cache:
        places = cache.add(source())
        next(places)
        assert len(drawn) <= 4
        assert len(list(places)) == 19


def test_rows_written_by_a_process_that_died_before_the_index_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path, hashed(png(0)))
    written = ImageCache._write_rows

    def write_half_and_die(self: ImageCache, first: int, images: list[torch.Tensor]) -> None:
        written(self, first, [torch.full_like(images[0], 7)])
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(ImageCache, "_write_rows", write_half_and_die)
        with pytest.raises(KeyboardInterrupt):
            stored(tmp_path, hashed(png(1), png(2)))
    with ImageCache(tmp_path, size=8) as cache:
        assert len(cache.find(sha for sha, _ in hashed(png(0), png(1), png(2)))) == 1
    images = hashed(png(2), png(1), png(0))
    assert torch.equal(stored(tmp_path, images), decoded(images))


def write_half_a_row_and_be_killed(folder: Path) -> None:
    """A process of its own: SIGKILL between the first bytes of a row and the index."""

    def write_rows(self: ImageCache, *_: object) -> None:
        with (self.folder / "images.u8").open("ab") as file:
            file.write(b"\x07" * 50)
        os.kill(os.getpid(), signal.SIGKILL)

    ImageCache._write_rows = write_rows  # type: ignore[assignment, method-assign]
    add_all(folder, [1, 2])


def test_a_process_killed_while_it_writes_leaves_no_lock_and_no_row(tmp_path: Path) -> None:
    add_all(tmp_path, [0])
    killed = multiprocessing.get_context("spawn").Process(target=write_half_a_row_and_be_killed, args=(tmp_path,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    images = hashed(png(2), png(1), png(0))
    assert torch.equal(stored(tmp_path, images), decoded(images))


def test_rows_that_the_file_has_lost_are_decoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = hashed(*(png(seed) for seed in range(4)))
    stored(tmp_path, images)
    (file,) = tmp_path.rglob("images.u8")
    with file.open("r+b") as handle:
        handle.truncate(2 * 3 * 8 * 8 + 5)
    assert torch.equal(stored(tmp_path, images), decoded(images))
    assert "the last 2 images are gone" in caplog.text
    file.unlink()
    assert torch.equal(stored(tmp_path, images), decoded(images))


def test_images_handed_out_stay_while_the_file_grows(tmp_path: Path) -> None:
    before = hashed(png(0), png(1))
    with ImageCache(tmp_path, size=8) as cache:
        images = cache.images([int(place) for _, place in cache.add(before)])
        list(cache.add(hashed(*(png(seed) for seed in range(2, 9)))))
    assert torch.equal(images.take(torch.arange(2)), decoded(before))


def add_all(folder: Path, seeds: list[int]) -> None:
    with ImageCache(folder, size=8) as cache:
        for seed in seeds:
            list(cache.add(hashed(png(seed))))


def test_two_processes_that_add_at_once_agree(tmp_path: Path) -> None:
    seeds = list(range(15))
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=add_all, args=(tmp_path, order)) for order in (seeds, seeds[::-1])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    images = hashed(*map(png, seeds))
    assert torch.equal(stored(tmp_path, images), decoded(images))
    (file,) = tmp_path.rglob("images.u8")
    assert file.stat().st_size == 15 * 3 * 8 * 8, "no image twice"


def test_what_another_process_has_kept_meanwhile_is_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = hashed(png(0))

    def slow(images: Iterable[bytes], size: int, *, max_pixels: int) -> list[torch.Tensor | DataError]:
        result = list(decode_images(images, size, max_pixels=max_pixels))
        with monkeypatch.context() as other:
            other.setattr(cache_module, "decode_images", decode_images)
            stored(tmp_path, image)
        return result

    monkeypatch.setattr(cache_module, "decode_images", slow)
    with ImageCache(tmp_path, size=8) as cache:
        assert [place for _, place in cache.add(image)] == [0]
    assert (cache.folder / "images.u8").stat().st_size == 3 * 8 * 8


def test_the_lock_is_free_between_writes(tmp_path: Path) -> None:
    with ImageCache(tmp_path, size=8) as cache:
        list(cache.add(hashed(png(0))))
        with (cache.folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_damaged_index_is_one_line_with_a_way_out(tmp_path: Path) -> None:
    stored(tmp_path, hashed(png(0)))
    (index,) = tmp_path.rglob("index.sqlite")
    index.write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match=r"8px-v\d+ is damaged .* remove it: the images are decoded again"):
        ImageCache(tmp_path, size=8)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"decoded images cannot be kept in .* \(Not a directory\)"):
        ImageCache(tmp_path / "file", size=8)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ImageCache, "_write_rows", full)
    with pytest.raises(DataError, match="No space left on device"):
        stored(tmp_path, hashed(png(0)))


def test_the_index_holds_nothing_that_needs_unpickling(tmp_path: Path) -> None:
    stored(tmp_path, hashed(png(0)))
    (index,) = tmp_path.rglob("index.sqlite")
    connection = sqlite3.connect(index)
    assert connection.execute("SELECT * FROM image").fetchall() == [(hashed(png(0))[0][0], 0)]
    connection.close()


def test_a_parquet_file_read_through_the_cache_is_the_file_read_without(tmp_path: Path) -> None:
    rows = [
        {"sample_id": name, "image": {"bytes": data, "path": None}, "label": label}
        for name, data, label in (
            ("a", png(0), "dog"),
            ("b", BROKEN, "cat"),
            ("a", png(1), "cat"),
            ("c", png(0), "cat"),
            ("d", png(2), None),
            ("e", png(3), "dog"),
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "samples.parquet", row_group_size=2)
    plain = read_samples(tmp_path / "samples.parquet", size=8)
    for _ in range(2):
        kept = read_samples(tmp_path / "samples.parquet", size=8, cache=tmp_path / "decoded")
        assert not isinstance(kept.images, torch.Tensor)
        assert isinstance(plain.images, torch.Tensor)
        assert torch.equal(kept.images.take(torch.arange(3)), plain.images)
        for name in ("sample_ids", "classes", "rejected"):
            assert getattr(kept, name) == getattr(plain, name)
        assert kept.labels.tolist() == plain.labels.tolist() == [1, 0, 1]
    assert [sample_id for sample_id, _ in plain.rejected] == ["b", "a", "d"], "in the file's order"
