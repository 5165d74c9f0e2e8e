"""Snapshots in a real S3 API (moto's server on loopback): whole or invisible, the same on every machine, checked."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset  # type: ignore[import-untyped]

from pipeline.errors import DataError, ServiceError, ServiceUnavailable
from pipeline.images.store import ImageStore
from pipeline.s3 import S3Config
from pipeline.settings import load_settings
from pipeline.snapshot import Latest, open_snapshot, read_latest
from pipeline.snapshot_store import SnapshotStore, StoreConfig, fetch_shared, obtain, publish, share, source_of
from pipeline.snapshot_store.store import examine
from pipeline.stack import health
from pipeline.workspace import Workspace
from tests.integration.snapshot_store.shared import (
    KEY_ID,
    PROJECT,
    SAMPLES,
    SECRET,
    Bucket,
    expected,
    files_of,
    fill,
    images_of,
)


def test_what_is_published_is_what_was_pulled_and_is_sent_once(bucket: Bucket, tmp_path: Path) -> None:
    snapshot = fill(tmp_path, SAMPLES)
    published = publish(bucket.store, snapshot, tmp_path / "images")
    assert bucket.objects() == expected(tmp_path, snapshot)
    assert published.uri == f"s3://{bucket.name}/{PROJECT}/snapshots/{snapshot.snapshot_id}"
    assert published.objects == len(bucket.objects()) - 1
    assert publish(bucket.store, snapshot, tmp_path / "images").objects == 0
    second = fill(tmp_path, SAMPLES | {"one more": "dark"})
    # Tables and manifest, one more part, and two files of addresses.
    assert publish(bucket.store, second, tmp_path / "images").objects == 5 + 3
    assert bucket.store.latest() == second.snapshot_id
    assert bucket.objects().keys() == (expected(tmp_path, snapshot) | expected(tmp_path, second)).keys()


def test_a_machine_that_has_nothing_obtains_the_very_same(bucket: Bucket, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    snapshot = fill(here, SAMPLES)
    publish(bucket.store, snapshot, here / "images")
    obtained = obtain(bucket.store, snapshot.snapshot_id, there)
    assert obtained == open_snapshot(there / "snapshots" / snapshot.snapshot_id)
    assert files_of(obtained) == files_of(snapshot)
    assert images_of(there) == images_of(here)
    with ImageStore(there) as images:
        hashes = pq.read_table(obtained.noisy_path)["image_sha256"].to_pylist()
        assert {data for _, data in images.iter_images(hashes)} == {f"image of {name}".encode() for name in SAMPLES}
        assert len(images.known([f"/{name}.png" for name in SAMPLES])) == len(SAMPLES)  # none is fetched again
    assert not (there / ".obtaining").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.s3 import S3Config
from pipeline.snapshot import open_snapshot
from pipeline.snapshot_store import SnapshotStore, StoreConfig, publish
from pipeline.snapshot_store import store as module

location, endpoint, path, after, part = sys.argv[1:]
left = int(after)

def counted(kind):
    def call(self, *arguments):
        global left
        if left == 0 and part == "between":
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return kind(self, *arguments)
    return call

def cut(stream, told):
    write = whole(stream, told)
    def some(block):
        if left < 0:
            write(block[:10])
            os.kill(os.getpid(), signal.SIGKILL)
        write(block)
    return some

whole = module._writer
if part == "within":
    module._writer = cut
module.AT_ONCE = 1
SnapshotStore.send, SnapshotStore.put = counted(SnapshotStore.send), counted(SnapshotStore.put)
snapshot = open_snapshot(Path(path))
config = StoreConfig(location=location, s3=S3Config(endpoint=endpoint, region="us-east-1"))
publish(SnapshotStore.open(config, "project-7"), snapshot, Path(path).parents[1] / "images")
"""


@pytest.mark.parametrize("part", ["between", "within"])
def test_whoever_is_killed_publishes_nothing_or_all_and_the_next_one_goes_on(
    bucket: Bucket, tmp_path: Path, part: str
) -> None:
    """Images, their addresses, four tables, a manifest and a pointer: SIGKILL before each of them, and amid each."""
    snapshot = fill(tmp_path, SAMPLES)
    whole = expected(tmp_path, snapshot)
    seen = []
    for after in range(len(whole) + 1):
        where = Bucket(name=f"{bucket.name}-{after}", endpoint=bucket.endpoint)
        httpx.put(f"{bucket.endpoint}/{where.name}").raise_for_status()
        location = f"s3://{where.name}/team/fasten"
        arguments = [location, bucket.endpoint, str(snapshot.path), str(after), part]
        killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, capture_output=True, text=True)
        assert killed.returncode == (0 if after == len(whole) else -signal.SIGKILL), killed.stderr
        left = where.objects()
        assert left.items() <= whole.items()  # each object is whole
        seen.append(len(left))
        manifest = where.store.manifest(snapshot.snapshot_id)
        if manifest is None:
            with pytest.raises(DataError, match="never published whole"):
                obtain(where.store, snapshot.snapshot_id, tmp_path / f"reader-{after}")
            assert not list((tmp_path / f"reader-{after}").rglob("*.parquet"))
        else:
            assert files_of(obtain(where.store, snapshot.snapshot_id, tmp_path / f"reader-{after}")) == files_of(
                snapshot
            )
        publish(where.store, snapshot, tmp_path / "images")
        assert where.objects() == whole
    assert len(set(seen)) > len(whole) - 2


@pytest.mark.parametrize("table", ["labels", "noisy", "clean", "undecided"])
def test_a_table_that_was_changed_is_refused_and_published_again(bucket: Bucket, tmp_path: Path, table: str) -> None:
    snapshot = fill(tmp_path / "here", SAMPLES)
    publish(bucket.store, snapshot, tmp_path / "here" / "images")
    name = f"snapshots/{snapshot.snapshot_id}/{table}.parquet"
    content = bucket.objects()[name]
    bucket.put(name, content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    with pytest.raises(DataError, match=f"{table}.parquet is not the file that its manifest describes"):
        obtain(bucket.store, snapshot.snapshot_id, tmp_path / "there")
    bucket.delete(name)
    with pytest.raises(DataError, match=f"{table}.parquet is not there; `fasten pull` where it was pulled"):
        obtain(bucket.store, snapshot.snapshot_id, tmp_path / "there")
    assert not list((tmp_path / "there").rglob("*.parquet"))
    assert publish(bucket.store, snapshot, tmp_path / "here" / "images").objects == 1
    assert bucket.objects() == expected(tmp_path / "here", snapshot)


def test_an_image_that_was_changed_is_refused_and_one_that_is_missing_is_told(bucket: Bucket, tmp_path: Path) -> None:
    snapshot = fill(tmp_path / "here", SAMPLES)
    publish(bucket.store, snapshot, tmp_path / "here" / "images")
    name, content = next((n, c) for n, c in bucket.objects().items() if n.startswith("images/part-"))
    bucket.put(name, content.replace(b"image of s", b"image by s"))
    with pytest.raises(DataError, match="holds another image than"):
        obtain(bucket.store, snapshot.snapshot_id, tmp_path / "there")
    bucket.put(name, content[:100])
    with pytest.raises(DataError, match="is not a file of images"):
        obtain(bucket.store, snapshot.snapshot_id, tmp_path / "there")
    bucket.delete(name)
    with pytest.raises(DataError, match="lacks images of snapshot"):
        obtain(bucket.store, snapshot.snapshot_id, tmp_path / "there")
    bucket.put(name, content[:100])  # cut short: known by its size
    addresses = next(name for name in bucket.objects() if name.startswith("images/urls-"))
    bucket.put(addresses, content)
    assert publish(bucket.store, snapshot, tmp_path / "here" / "images").objects == 2
    bucket.put(addresses, b"PAR1")
    with pytest.raises(DataError, match="is not a file of addresses"):
        obtain(bucket.store, snapshot.snapshot_id, tmp_path / "elsewhere")
    assert publish(bucket.store, snapshot, tmp_path / "here" / "images").objects == 1
    assert files_of(obtain(bucket.store, snapshot.snapshot_id, tmp_path / "there")) == files_of(snapshot)
    assert images_of(tmp_path / "there") == images_of(tmp_path / "here")


def test_a_damaged_or_strange_manifest_is_one_line_and_published_again(bucket: Bucket, tmp_path: Path) -> None:
    snapshot, other = fill(tmp_path, SAMPLES), fill(tmp_path, SAMPLES | {"one more": "dark"})
    publish(bucket.store, snapshot, tmp_path / "images")
    name = f"snapshots/{snapshot.snapshot_id}/manifest.json"
    for text, problem in ((b"", "damaged"), (files_of(other)["manifest.json"], other.snapshot_id)):
        bucket.put(name, text)
        with pytest.raises(DataError, match=problem) as caught:
            obtain(bucket.store, snapshot.snapshot_id, tmp_path / "there")
        assert "\n" not in str(caught.value)
    publish(bucket.store, snapshot, tmp_path / "images")
    assert bucket.objects()[name] == files_of(snapshot)["manifest.json"]


def test_the_same_labels_from_another_machine_are_left_as_they_are(bucket: Bucket, tmp_path: Path) -> None:
    first, second = fill(tmp_path / "one", SAMPLES), fill(tmp_path / "two", SAMPLES)
    assert first.snapshot_id == second.snapshot_id
    publish(bucket.store, first, tmp_path / "one" / "images")
    publish(bucket.store, second, tmp_path / "two" / "images")
    name = f"snapshots/{first.snapshot_id}/manifest.json"
    assert bucket.objects()[name] == files_of(first)["manifest.json"] != files_of(second)["manifest.json"]
    bucket.delete(f"snapshots/{first.snapshot_id}/clean.parquet")
    publish(bucket.store, second, tmp_path / "two" / "images")
    assert bucket.objects()[name] == files_of(second)["manifest.json"]
    assert files_of(obtain(bucket.store, first.snapshot_id, tmp_path / "there")) == files_of(second)


def test_a_round_shares_and_a_new_machine_begins_there(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTEN_SNAPSHOT_STORE", f"s3://{bucket.name}/team/fasten/")
    monkeypatch.setenv("FASTEN_S3_ENDPOINT", bucket.endpoint)
    monkeypatch.setenv("FASTEN_S3_REGION", "us-east-1")
    settings = load_settings()
    here, there = (Workspace(folder=tmp_path / machine / "project-7") for machine in ("here", "there"))
    assert fetch_shared(settings, here) is None
    snapshot = fill(here.folder, SAMPLES)
    share(settings, here, snapshot)
    assert source_of(settings, here, snapshot) == f"s3://{bucket.name}/{PROJECT}/snapshots/{snapshot.snapshot_id}"
    obtained = fetch_shared(settings, there)
    assert obtained is not None
    assert read_latest(there.folder) == Latest(snapshot_id=snapshot.snapshot_id)
    assert images_of(there.folder) == images_of(here.folder)
    assert fetch_shared(settings, there) is None
    unset = load_settings(snapshot_store="")
    assert source_of(unset, here, snapshot) == str(snapshot.path)
    share(unset, here, snapshot)


def test_the_published_tables_open_where_they_are(bucket: Bucket, tmp_path: Path) -> None:
    snapshot = fill(tmp_path, SAMPLES)
    publish(bucket.store, snapshot, tmp_path / "images")
    rows = pq.read_table(snapshot.noisy_path).to_pylist()
    for table in ("noisy", "labels"):
        path = f"{bucket.name}/{PROJECT}/snapshots/{snapshot.snapshot_id}/{table}.parquet"
        assert pq.read_table(path, filesystem=bucket.s3.filesystem()).num_rows == len(rows)
    url = bucket.url(f"snapshots/{snapshot.snapshot_id}/noisy.parquet")
    loaded = load_dataset("parquet", data_files=url, split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["sample_id"] for row in loaded] == [row["sample_id"] for row in rows]
    images = [bucket.url(name) for name in bucket.objects() if name.startswith("images/part-")]
    loaded = load_dataset("parquet", data_files=images, split="train", cache_dir=str(tmp_path / "cache"))
    assert set(loaded["image_sha256"]) == {row["image_sha256"] for row in rows}


def test_what_a_store_refuses_is_one_line_without_a_secret(bucket: Bucket, tmp_path: Path) -> None:
    snapshot = fill(tmp_path, SAMPLES)
    nowhere = SnapshotStore.open(StoreConfig(location=f"s3://{bucket.name}-nowhere/x", s3=bucket.s3), "project-7")
    assert nowhere.latest() is None
    with pytest.raises(ServiceError, match=r"NO_SUCH_BUCKET.*set FASTEN_SNAPSHOT_STORE") as refused:
        publish(nowhere, snapshot, tmp_path / "images")
    dead = S3Config(endpoint=f"http://127.0.0.1:{health.free_port()}", region="us-east-1")
    silent = SnapshotStore.open(StoreConfig(location=f"s3://{bucket.name}/x", s3=dead), "project-7")
    with pytest.raises(ServiceUnavailable, match="is the store running, and is FASTEN_S3_ENDPOINT right") as unheard:
        publish(silent, snapshot, tmp_path / "images")
    for caught in (refused, unheard):
        assert not any(word in str(caught.value) for word in (SECRET, KEY_ID, "\n"))


def test_wrong_credentials_are_named_and_not_told(bucket: Bucket, tmp_path: Path) -> None:
    snapshot = fill(tmp_path, SAMPLES)
    # moto checks who asks from the next request on.
    httpx.post(f"{bucket.endpoint}/moto-api/reset-auth", content="0").raise_for_status()
    try:
        with pytest.raises(ServiceError, match="are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY those of") as caught:
            publish(bucket.store, snapshot, tmp_path / "images")
    finally:
        httpx.post(f"{bucket.endpoint}/moto-api/reset-auth", content="inf").raise_for_status()
    assert not any(word in str(caught.value) for word in (SECRET, KEY_ID, "\n"))


def test_doctor_finds_the_bucket_or_says_that_there_is_none(bucket: Bucket) -> None:
    config = StoreConfig(location=f"s3://{bucket.name}/team", s3=bucket.s3)
    assert examine(config) == config.location
    with pytest.raises(ServiceError, match=r"there is no bucket .*-nowhere: make it, or set FASTEN_SNAPSHOT_STORE"):
        examine(StoreConfig(location=f"s3://{bucket.name}-nowhere/team", s3=bucket.s3))
