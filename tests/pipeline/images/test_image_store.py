"""The image store keeps each image once, in files that are only ever added, and finds it again whatever is lost."""

import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.images import shards
from pipeline.images import store as image_store
from pipeline.images.store import ImageStore
from pipeline.schema import IMAGE_URLS, IMAGES
from tests.pipeline.images.stored_images import fill, image, known


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(image_store, "_PART_ROWS", 4)
    monkeypatch.setattr(shards, "GROUP_ROWS", 2)
    return iter(())


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


def test_an_index_that_cannot_be_had_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one" / "images" / "index.sqlite").mkdir(parents=True)
    with pytest.raises(PermissionError, match=r"may this user write there\?"):
        ImageStore(tmp_path / "one")
    fill(tmp_path, range(1))
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **_: connect(path, timeout=0))
    with closing(connect(tmp_path / "images" / "index.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DataError, match=r"is in use by another process"):
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


def test_a_part_that_is_entered_while_another_process_opens_the_store_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, range(2))
    listed = shards.listed

    def listed_too_early(folder: Path) -> list[str]:
        found = listed(folder)
        monkeypatch.setattr(shards, "listed", listed)
        fill(tmp_path, range(2, 4))
        return found

    monkeypatch.setattr(shards, "listed", listed_too_early)
    with ImageStore(tmp_path) as store:
        assert set(store.known([f"/data/{number}.png" for number in range(4)])) == {
            f"/data/{number}.png" for number in range(4)
        }
    assert "are gone" not in caplog.text
