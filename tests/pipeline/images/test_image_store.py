"""The image store keeps each image once, and what a killed writer leaves behind is made good."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.images import shards
from pipeline.images import store as image_store
from pipeline.images.check import VerifiedImage
from pipeline.images.store import ImageStore
from pipeline.schema import IMAGES


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
