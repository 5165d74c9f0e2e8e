"""The image store keeps each image once, and what a killed writer leaves behind is made good."""

import errno
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.images import shards
from pipeline.images import store as image_store
from pipeline.images.check import VerifiedImage
from pipeline.images.store import ImageStore
from pipeline.schema import IMAGE_URLS, IMAGES


def image(number: int, size: int = 20) -> VerifiedImage:
    data = number.to_bytes(4, "big") + bytes(size)
    return VerifiedImage(data=data, sha256=f"{number:064x}", width=2, height=3, format="PNG")


def known(store: ImageStore, url: str) -> str | None:
    return store.known([url]).get(url)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(image_store, "_PART_ROWS", 4)
    monkeypatch.setattr(shards, "GROUP_ROWS", 2)
    return iter(())


def fill(root: Path, numbers: range) -> None:
    with ImageStore(root) as store:
        for number in numbers:
            store.add(f"/data/{number}.png", image(number))


def test_what_was_added_is_found_by_url_and_by_hash(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    with ImageStore(tmp_path) as store:
        assert known(store, "/data/1.png") == image(1).sha256
        assert known(store, "/data/9.png") is None
        assert dict(store.iter_images([image(2).sha256, image(0).sha256])) == {
            image(0).sha256: image(0).data,
            image(2).sha256: image(2).data,
        }


def test_parts_have_the_agreed_columns(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with ImageStore(tmp_path) as store:
        (part,) = store.parts()
    table = pq.read_table(part)
    assert table.schema.equals(IMAGES)
    assert table.to_pylist()[0] == {
        "image_sha256": image(0).sha256,
        "image": {"bytes": image(0).data, "path": f"{image(0).sha256}.png"},
        "width": 2,
        "height": 3,
    }


@pytest.mark.usefixtures("small_parts")
def test_parts_are_bounded_and_only_ever_added(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    with ImageStore(tmp_path) as store:
        first = {part: part.read_bytes() for part in store.parts()}
    assert [pq.read_metadata(part).num_rows for part in sorted(first)] == [4, 4, 2]
    fill(tmp_path, range(12))
    with ImageStore(tmp_path) as store:
        assert store.parts()[:3] == tuple(sorted(first))
        assert [pq.read_metadata(part).num_rows for part in store.parts()] == [4, 4, 2, 2]
        assert len(dict(store.iter_images(image(number).sha256 for number in range(12)))) == 12
    assert {part: part.read_bytes() for part in first} == first


def test_images_that_are_there_already_write_nothing(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    with ImageStore(tmp_path) as store:
        before = store.parts()
        store.add("/data/again.png", image(1))
        store.flush()
        assert store.parts() == before
        assert known(store, "/data/again.png") == image(1).sha256


def test_a_large_image_closes_its_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GROUP_BYTES", 100)
    with ImageStore(tmp_path) as store:
        for number in range(4):
            store.add(f"/{number}", image(number, size=150))
        store.flush()
        (part,) = store.parts()
    assert pq.read_metadata(part).num_row_groups == 4


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    with ImageStore(tmp_path) as store, pytest.raises(DataError, match=f"1 images are not .* {image(7).sha256}"):
        dict(store.iter_images([image(0).sha256, image(7).sha256]))


@pytest.mark.usefixtures("small_parts")
def test_a_lost_index_is_made_again_from_the_parts(tmp_path: Path) -> None:
    fill(tmp_path, range(6))
    (tmp_path / "images" / "index.sqlite").unlink()
    with ImageStore(tmp_path) as store:
        assert len(dict(store.iter_images(image(number).sha256 for number in range(6)))) == 6
        parts = store.parts()
        store.add("/data/3.png", image(3))
        store.flush()
        assert store.parts() == parts


def test_a_damaged_index_says_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    (tmp_path / "images" / "index.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match="remove it"):
        ImageStore(tmp_path)


def test_a_part_that_is_gone_is_forgotten_so_that_its_images_are_fetched_again(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with ImageStore(tmp_path) as store:
        store.parts()[0].unlink()
    with ImageStore(tmp_path) as store:
        assert known(store, "/data/1.png") is None
    fill(tmp_path, range(2))
    with ImageStore(tmp_path) as store:
        assert len(dict(store.iter_images([image(0).sha256, image(1).sha256]))) == 2


def test_a_damaged_part_is_one_clear_error(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with ImageStore(tmp_path) as store:
        (part,) = store.parts()
        part.write_bytes(part.read_bytes()[:40])
        with pytest.raises(DataError, match="damaged"):
            dict(store.iter_images([image(0).sha256]))


def test_a_write_that_fails_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ImageStore(tmp_path) as store:
        store.add("/data/0.png", image(0))

        def full(*_: object) -> None:
            raise OSError("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(OSError, match="no space"):
                store.flush()
        assert [file.name for file in (tmp_path / "images").iterdir()] == ["index.sqlite"]


def test_reading_does_not_hold_up_a_writer(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    with ImageStore(tmp_path) as reader:
        reading = reader.iter_images(image(number).sha256 for number in range(3))
        next(reading)
        fill(tmp_path, range(3, 6))
        assert len(list(reading)) == 2


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5)), max_size=20))
def test_any_order_of_urls_and_images_reads_back(
    tmp_path_factory: pytest.TempPathFactory, added: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("store")
    with ImageStore(root) as store:
        for url, number in added:
            store.add(str(url), image(number))
    with ImageStore(root) as store:
        for url, number in dict(added).items():
            assert known(store, str(url)) == image(number).sha256
        wanted = {image(number) for _, number in added}
        assert dict(store.iter_images(one.sha256 for one in wanted)) == {one.sha256: one.data for one in wanted}


# What a killed writer leaves ---------------------------------------------------------------------------------------


def test_the_files_are_listed_oldest_first_images_before_their_addresses(tmp_path: Path) -> None:
    for number in range(3):
        fill(tmp_path, range(number, number + 1))
    with ImageStore(tmp_path) as store:
        names = [file.name[:11] for file in store.files()]
        assert all(file.is_file() for file in store.files())
    assert names == [f"{kind}-{number:06d}" for number in range(3) for kind in ("part", "urls")]


def test_addresses_have_the_agreed_columns(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    (urls,) = (tmp_path / "images").glob("urls-*.parquet")
    table = pq.read_table(urls)
    assert table.schema.equals(IMAGE_URLS)
    digest = hashlib.sha256(b"/data/0.png").digest()
    assert table.to_pylist()[0] == {"url_digest": digest, "image_sha256": image(0).sha256}


@pytest.mark.usefixtures("small_parts")
def test_a_part_is_written_while_the_next_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    write_part = shards.write_part

    def slow(*arguments: Any) -> Any:
        assert may_end.wait(60)
        return write_part(*arguments)

    monkeypatch.setattr(shards, "write_part", slow)
    with ImageStore(tmp_path) as store:
        for number in range(7):
            store.add(f"/data/{number}.png", image(number))
        assert store.parts() == ()
        assert len(store.known([f"/data/{number}.png" for number in range(8)])) == 7
        may_end.set()
        assert len(dict(store.iter_images(image(number).sha256 for number in range(7)))) == 7
        assert [pq.read_metadata(part).num_rows for part in store.parts()] == [4, 3]


@pytest.mark.usefixtures("small_parts")
def test_a_lost_index_is_made_again_whole(tmp_path: Path) -> None:
    fill(tmp_path, range(6))
    (tmp_path / "images" / "index.sqlite").unlink()
    with ImageStore(tmp_path) as store:
        assert store.known([f"/data/{number}.png" for number in range(7)]) == {
            f"/data/{number}.png": image(number).sha256 for number in range(6)
        }


def test_files_of_another_machine_are_taken_in(tmp_path: Path) -> None:
    fill(tmp_path / "here", range(3))
    fill(tmp_path / "there", range(2, 5))
    with ImageStore(tmp_path / "there") as there:
        for file in there.files():
            shutil.copy(file, tmp_path / "here" / "images")
    with ImageStore(tmp_path / "here") as store:
        assert set(store.known([f"/data/{number}.png" for number in range(5)])) == {
            f"/data/{number}.png" for number in range(5)
        }
        assert len(dict(store.iter_images(image(number).sha256 for number in range(5)))) == 5


def test_a_newer_image_of_an_address_is_the_one_that_counts(tmp_path: Path) -> None:
    for number in (1, 2):
        with ImageStore(tmp_path) as store:
            store.add("/data/a.png", image(number))
    (tmp_path / "images" / "index.sqlite").unlink()
    with ImageStore(tmp_path) as store:
        assert known(store, "/data/a.png") == image(2).sha256


def test_addresses_that_are_gone_cost_a_fetch_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    for urls in (tmp_path / "images").glob("urls-*.parquet"):
        urls.unlink()
    with ImageStore(tmp_path) as store:
        assert known(store, "/data/1.png") is None
        parts = store.parts()
    fill(tmp_path, range(2))
    with ImageStore(tmp_path) as store:
        assert store.parts() == parts
        assert known(store, "/data/1.png") == image(1).sha256


def test_what_a_killed_writer_left_unfinished_is_swept_by_the_next(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    left = tmp_path / "images" / ".part-000001-0badcafe.parquet"
    left.write_bytes(b"half of it")
    with ImageStore(tmp_path):
        assert left.exists(), "a reader removes nothing: another process may be writing it"
    fill(tmp_path, range(1, 2))
    assert not left.exists()


def test_what_has_been_pending_for_long_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ImageStore(tmp_path) as store:
        store.add("/data/0.png", image(0))
        store.flush_if_old()
        assert store.files() == ()
        monkeypatch.setattr(image_store, "_PART_S", 0.0)
        store.flush_if_old()
        assert len(store.files()) == 2


def test_a_full_disk_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = ImageStore(tmp_path)
    store.add("/data/0.png", image(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*/images/part-000000-"):
            store.flush()
    assert store.files() == ()
    store.flush()
    assert len(store.files()) == 2
    store.close()


class _Killed(BaseException):
    """Nothing in the store may catch it, as nothing catches a SIGKILL."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """The store dies at its `step`-th step on the disk: before or after a write, a rename, an entry in the index."""
    taken = itertools.count()

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(taken) == step:
                raise _Killed
            result = original(*arguments, **options)
            if next(taken) == step:
                raise _Killed
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", dying(pq.ParquetWriter.write_table))
        patch.setattr(shards, "_to_disk", dying(shards._to_disk))
        patch.setattr(Path, "replace", dying(Path.replace))
        # A killed process unlinks nothing either.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        for name in ("_enter_part", "_enter_urls"):
            patch.setattr(ImageStore, name, dying(getattr(ImageStore, name)))
        yield


Added = list[tuple[int, int]]


@settings(max_examples=30, deadline=None)
@given(
    runs=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=9), st.integers(0, 30)
        ),
        min_size=1,
        max_size=4,
    ),
    lose_index=st.booleans(),
)
def test_wherever_it_is_killed_nothing_that_was_flushed_is_lost(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[Added, int]], lose_index: bool
) -> None:
    root = tmp_path_factory.mktemp("store")
    flushed: dict[str, str] = {}
    maybe: dict[str, set[str]] = {}
    for added, step in runs:
        store = ImageStore(root)
        try:
            with killed_at(step):
                for start in range(0, len(added), 3):
                    some = {str(url): image(number) for url, number in added[start : start + 3]}
                    for url, found in some.items():
                        maybe.setdefault(url, set()).add(found.sha256)
                        store.add(url, found)
                    store.flush()
                    flushed |= {url: found.sha256 for url, found in some.items()}
                    for url, found in some.items():
                        maybe[url] = {found.sha256}
        except _Killed:
            pass
        finally:
            store.close()  # without a flush: SQLite rolls back what was not committed
    if lose_index:
        (root / "images" / "index.sqlite").unlink()
    with ImageStore(root) as store:
        known = store.known([str(url) for url in range(10)])
        assert flushed.keys() <= known.keys()
        assert all(sha256 in maybe[url] for url, sha256 in known.items())
        stored = dict(store.iter_images(known.values()))
        assert stored == {sha256: image(int(sha256, 16)).data for sha256 in known.values()}
        held = [sha for part in store.parts() for sha in pq.read_table(part)["image_sha256"].to_pylist()]
        assert len(held) == len(set(held)), "no image is kept twice"


_WRITER = """
import sys
from pathlib import Path
from pipeline.images.check import VerifiedImage
from pipeline.images.store import ImageStore

store = ImageStore(Path(sys.argv[1]))
for number in range(10_000):
    data = number.to_bytes(4, "big") + bytes(20)
    store.add(f"/data/{number}.png", VerifiedImage(data=data, sha256=f"{number:064x}", width=2, height=3, format="PNG"))
    store.flush()
    print(number, flush=True)
"""


def test_a_writer_killed_for_real_loses_nothing_that_it_flushed(tmp_path: Path) -> None:
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(4 + 7 * kill)]
        process.kill()
        said += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        numbers = [int(line) for line in said if line.endswith("\n")]
        with ImageStore(tmp_path) as store:
            found = store.known([f"/data/{number}.png" for number in numbers])
            assert len(found) == len(numbers) >= 4
            assert len(dict(store.iter_images(found.values()))) == len(numbers)
