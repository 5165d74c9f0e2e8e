"""A pull after another one fetches and writes what is new, and a failed one writes no snapshot."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ServiceUnavailable
from pipeline.images import ImageConfig, Images
from pipeline.records import Chunk
from pipeline.snapshot import catch_up
from pipeline.snapshot.mirror import Mirror, mirror_path
from tests.pipeline.snapshot.pulling import (
    LABELS,
    PICTURES,
    REVIEW,
    Server,
    fill,
    pulled,
    rows,
    says,
)


def test_images_are_in_the_store_once(server: Server, tmp_path: Path) -> None:
    for number in range(4):
        server.add(LABELS, says("cat"), image=PICTURES[number % 2], sample=str(number))
    result = pulled(server, tmp_path)
    hashes = {row["image_sha256"] for row in rows(result, "noisy")}
    with Images(ImageConfig(), root=tmp_path, base_url="http://host", authorization=dict) as images:
        assert {sha for sha, _ in images.store.iter_images(hashes)} == hashes
        assert len(hashes) == 2


def test_nothing_new_gives_the_same_snapshot_and_writes_nothing(server: Server, tmp_path: Path) -> None:
    fill(server)
    first = pulled(server, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*") if file.name != ".pull.lock"}
    for tasks in server.tasks.values():
        tasks.reverse()  # the order of pages is nobody's promise
    second = pulled(server, tmp_path)
    assert first.is_new
    assert not second.is_new
    assert second.snapshot == first.snapshot
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*") if file.name != ".pull.lock"} == before


def test_a_new_annotation_gives_a_new_snapshot_with_its_parent(server: Server, tmp_path: Path) -> None:
    fill(server)
    first = pulled(server, tmp_path)
    server.add(REVIEW, says("eel", 8), sample="s3")
    second = pulled(server, tmp_path)
    assert second.is_new
    assert second.snapshot.manifest.parent == first.snapshot.snapshot_id
    assert first.snapshot.path.is_dir()


def test_labels_that_return_to_an_earlier_state_return_to_its_snapshot(server: Server, tmp_path: Path) -> None:
    fill(server)
    first = pulled(server, tmp_path)
    server.add(REVIEW, says("eel", 8), sample="s3")
    pulled(server, tmp_path)
    server.tasks[3].pop()
    third = pulled(server, tmp_path)
    assert third.is_new
    assert third.snapshot == first.snapshot


def test_an_outage_of_the_image_host_writes_no_snapshot(server: Server, tmp_path: Path) -> None:
    for number in range(12):
        server.add(LABELS, says("cat"), image=f"/data/{number}.png", sample=str(number))
    with pytest.raises(ServiceUnavailable, match="10 images in a row"):
        pulled(server, tmp_path)
    assert not (tmp_path / "snapshots").exists()
    assert not (tmp_path / "latest.json").exists()


def test_a_door_that_fails_midway_writes_no_snapshot(server: Server, tmp_path: Path) -> None:
    fill(server)

    class Broken(Server):
        def all_answered(self, *arguments: Any, **more: Any) -> Generator[Chunk, None, None]:
            yield from server.all_answered(*arguments, **more)
            raise ServiceUnavailable("Label Studio does not answer")

    with pytest.raises(ServiceUnavailable):
        pulled(Broken(), tmp_path)
    assert not (tmp_path / "snapshots").exists()


def test_images_that_a_killed_pull_held_in_memory_are_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(server)

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.images.store.ImageStore.flush", kill)
        patch.setattr("pipeline.images.store.ImageStore.flush_if_old", lambda _: None)
        with pytest.raises(Killed):
            pulled(server, tmp_path)
    result = pulled(server, tmp_path)
    hashes = {row["image_sha256"] for row in [*rows(result, "noisy"), *rows(result, "clean")]}
    with Images(ImageConfig(), root=tmp_path, base_url="http://host", authorization=dict) as images:
        assert {sha for sha, _ in images.store.iter_images(hashes)} == hashes


def test_images_whose_file_was_removed_are_fetched_again(server: Server, tmp_path: Path) -> None:
    fill(server)
    pulled(server, tmp_path)
    for part in (tmp_path / "images").glob("part-*"):
        part.unlink()
    server.add(LABELS, says("cat"), image=PICTURES[9], sample="s9")
    result = pulled(server, tmp_path)
    hashes = {row["image_sha256"] for row in [*rows(result, "noisy"), *rows(result, "clean")]}
    with Images(ImageConfig(), root=tmp_path, base_url="http://host", authorization=dict) as images:
        assert {sha for sha, _ in images.store.iter_images(hashes)} == hashes


def test_images_are_fetched_while_labels_are_read_and_an_outage_of_theirs_ends_no_reading(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catch_up, "_TASKS_APART", 10)
    for number in range(30):
        server.add(LABELS, says("cat"), image=f"/data/{number}.png", sample=str(number))
    with pytest.raises(ServiceUnavailable, match="10 images in a row"):
        pulled(server, tmp_path)
    assert sum(each.message.startswith("images are fetched later") for each in caplog.records) == 1
    with Mirror(mirror_path(tmp_path)) as mirror:
        standing = mirror.standing(LABELS.project_id)
        assert standing is not None
        assert standing.loaded, "every label was read all the same"
