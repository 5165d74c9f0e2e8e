"""Whatever kills a writer of the image store, nothing that was flushed is lost, and nothing half is left."""

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images import ImageConfig, ImageError, Images, shards
from pipeline.images import store as image_store
from pipeline.images.store import ImageStore
from pipeline.records import ImageRef
from tests.pipeline.images.stored_images import fill, image


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


def test_what_a_killed_writer_left_unfinished_is_swept_by_the_next(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    left = tmp_path / "images" / ".part-000001-0badcafe.parquet"
    left.write_bytes(b"half of it")
    with ImageStore(tmp_path):
        assert left.exists(), "a reader removes nothing: another process may be writing it"
    fill(tmp_path, range(1, 2))
    assert not left.exists()


def test_the_one_writer_sweeps_without_writing_too(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    left = tmp_path / "images" / ".urls-000001-0badcafe.parquet"
    left.write_bytes(b"half of it")
    with Images(ImageConfig(), root=tmp_path, base_url="http://host", authorization=dict) as images:
        [(_, found)] = images.resolve([ImageRef(url="file:/etc/passwd", task_id=1)])
    assert isinstance(found, ImageError)
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
