"""Snapshots in a real S3 API (moto's server on loopback): whole or invisible, the same on every machine, checked."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset  # type: ignore[import-untyped]
from pyarrow.fs import FileSelector, FileType, SubTreeFileSystem
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.errors import DataError, ServiceError, ServiceUnavailable
from pipeline.images.check import VerifiedImage
from pipeline.images.store import ImageStore
from pipeline.s3 import S3Config
from pipeline.settings import load_settings
from pipeline.snapshot import Latest, Snapshot, open_snapshot, read_latest, write_latest
from pipeline.snapshot.writer import SnapshotWriter, exclusive_pull
from pipeline.snapshot_store import SnapshotStore, StoreConfig, fetch_shared, obtain, publish, share, source_of
from pipeline.snapshot_store.store import examine
from pipeline.stack import health
from pipeline.trail import keep_people
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tests.integration.conftest import MlflowServer

SAMPLES = {f"s{number}": "dark" if number % 2 else "bright" for number in range(12)}
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "nobody-may-read-this"
"""AWS secret and key id of these tests: neither may show up anywhere."""
KEY_ID = "AKIANOBODYREADSTHIS"
PROJECT = "team/fasten/project-7"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A bucket of its own, as any other client sees it."""

    name: str
    endpoint: str

    @property
    def s3(self) -> S3Config:
        return S3Config(endpoint=self.endpoint, region="us-east-1")

    @property
    def store(self) -> SnapshotStore:
        return SnapshotStore.open(StoreConfig(location=f"s3://{self.name}/team/fasten", s3=self.s3), "project-7")

    @property
    def files(self) -> SubTreeFileSystem:
        return SubTreeFileSystem(f"{self.name}/{PROJECT}", self.s3.filesystem())

    def url(self, name: str) -> str:
        return f"{self.endpoint}/{self.name}/{PROJECT}/{name}"

    def objects(self) -> dict[str, bytes]:
        """Name below the project → content."""
        found = self.files.get_file_info(FileSelector("", recursive=True, allow_not_found=True))
        names = [info.path for info in found if info.type == FileType.File]
        return {name: httpx.get(self.url(name)).raise_for_status().content for name in names}

    def put(self, name: str, content: bytes) -> None:
        with self.files.open_output_stream(name) as stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        self.files.delete_file(name)


@pytest.fixture(scope="module", autouse=True)
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith(("AWS_", "FASTEN_"))]:
            patch.delenv(variable)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto's server, a process of its own."""
    url = f"http://127.0.0.1:{(port := health.free_port())}"
    log = tmp_path_factory.mktemp("moto") / "log"

    def well() -> str | None:
        try:
            return None if httpx.get(f"{url}/moto-api/data.json", trust_env=False).is_success else "not well"
        except httpx.HTTPError as error:
            return type(error).__name__

    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        )
    try:
        complaint = health.wait_until(well, timeout_s=60, alive=lambda: process.poll() is None)
        assert complaint is None, f"{complaint}: {log.read_text()[-2000:]}"
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> Bucket:
    name = f"bucket-{hashlib.sha256(request.node.name.encode()).hexdigest()[:20]}"
    httpx.put(f"{endpoint}/{name}").raise_for_status()
    return Bucket(name=name, endpoint=endpoint)


def fill(root: Path, samples: dict[str, str]) -> Snapshot:
    """A snapshot of these samples below `root`, and their images in two parts."""
    hashes = {name: hashlib.sha256(f"image of {name}".encode()).hexdigest() for name in samples}
    for half in (list(samples)[::2], list(samples)[1::2]):
        with ImageStore(root) as images:
            for name in half:
                data = f"image of {name}".encode()
                images.add(
                    f"/{name}.png", VerifiedImage(data=data, sha256=hashes[name], width=8, height=8, format="PNG")
                )
    with exclusive_pull(root) as folder, SnapshotWriter(folder / "snapshot", ("bright", "dark")) as writer:
        for number, (name, label) in enumerate(sorted(samples.items())):
            answer = {"sample_id": name, "project_id": 7, "task_id": number, "annotation_id": number, "label": label}
            answer |= {"annotator": "user:1", "answer": "class", "ground_truth": False, "was_cancelled": False}
            answer |= {"lead_time_s": 2.5, "created_at": NOON, "updated_at": NOON, "origin": "labels"}
            writer.add("labels", answer | {"asked_as": None, "suggestion": None, "asked_by_run": None})
            votes = [{"annotator": "user:1", "label": label}]
            sample = {"sample_id": name, "image_sha256": hashes[name], "image_url": f"/{name}.png", "label": label}
            writer.add("noisy", sample | {"votes": votes})
        snapshot, _ = writer.finish(root, rejected={}, projects=[], states=[])
    write_latest(root, Latest(snapshot_id=snapshot.snapshot_id))
    return snapshot


def files_of(snapshot: Snapshot) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in snapshot.path.iterdir()}


def images_of(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (root / "images").glob("*.parquet")}


def expected(root: Path, snapshot: Snapshot) -> dict[str, bytes]:
    """What a store with this snapshot alone holds."""
    tables = {f"snapshots/{snapshot.snapshot_id}/{name}": content for name, content in files_of(snapshot).items()}
    latest = {"latest.json": (root / "latest.json").read_bytes()}
    return tables | latest | {f"images/{name}": content for name, content in images_of(root).items()}


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


@pytest.fixture
def shared(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose store is the bucket, and which nobody has pulled into."""
    for name, value in {
        "SNAPSHOT_STORE": f"s3://{bucket.name}/team/fasten",
        "S3_ENDPOINT": bucket.endpoint,
        "S3_REGION": "us-east-1",
        "DATA_DIR": str(tmp_path / "data"),
        "LABELS_PROJECT": "7",
    }.items():
        monkeypatch.setenv(f"FASTEN_{name}", value)
    monkeypatch.chdir(tmp_path)
    return Workspace(folder=tmp_path / "data" / "project-7")


def fasten(*arguments: str) -> list[str]:
    """What the command prints; its error where it ends in one."""
    result = CliRunner().invoke(app, arguments)
    return (result.stdout if result.exit_code == 0 else result.stderr).splitlines()


GC = ("gc", "--keep", "0", "--days", "0")


def test_what_mlflow_refers_to_is_never_collected_unless_told(
    bucket: Bucket, shared: Workspace, mlflow_server: "MlflowServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    names = ("input", "tag", "champion", "deleted run", "under way", "no run", "latest")
    for number, name in enumerate(names):
        made[name] = fill(shared.folder, {f"{name} {number}": "dark"})
        share(load_settings(), shared, made[name])
    keep_people(shared, NOON)
    ids = {name: snapshot.snapshot_id for name, snapshot in made.items()}
    tracking, elsewhere = mlflow_server.door("collected"), mlflow_server.door("another experiment")
    client = mlflow_server.client

    with elsewhere.start("input", tags={}) as run:
        run.log_dataset(bucket.store.snapshot_uri(ids["input"]), ids["input"], {})
    with tracking.start("tag", tags={"fasten.snapshot_id": ids["tag"]}):
        pass
    for name in ("champion", "deleted run"):
        with tracking.start(name.replace(" ", "-"), tags={}) as run:
            run.log_dataset(made[name].path, ids[name], {})
        if name == "champion":
            client.create_registered_model("collected")
            client.create_model_version("collected", source=f"runs:/{run.run_id}/model", run_id=run.run_id)
            client.set_registered_model_alias("collected", "champion", "1")
        client.delete_run(run.run_id)  # of the champion's the version still tells
    tracking.start("under-way", tags={"fasten.snapshot_id": ids["under way"]})

    def left() -> set[str]:
        here = {path.name for path in (shared.folder / "snapshots").iterdir()}
        assert here == bucket.store.snapshots().keys()
        return {name for name in names if ids[name] in here}

    monkeypatch.setenv("FASTEN_MLFLOW_MODEL_NAME", "collected")
    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", f"http://127.0.0.1:{health.free_port()}")
    [refusal] = fasten(*GC, "--referenced")
    assert "could not look up what refers to snapshots" in refusal
    assert left() == set(names)

    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", mlflow_server.uri)
    rows = {row.split()[0]: row for row in fasten("snapshots")}
    assert "1 run in MLflow" in rows[ids["input"]]
    assert "champion, 1 run in MLflow" in rows[ids["champion"]]
    assert rows[ids["deleted run"]].split()[-1] == "–"
    dry = fasten(*GC, "--dry-run")
    assert dry[0] == "would remove 2 of 7 snapshots"
    assert left() == set(names)
    assert fasten(*GC)[0] == "removing 2 of 7 snapshots"
    assert left() == {"input", "tag", "champion", "under way", "latest"}
    told = fasten(*GC, "--referenced", "--images")
    assert told[0] == "removing 2 of 5 snapshots"
    assert all("; MLflow runs refer to it: " in line for line in told[1:3])
    assert left() == {"champion", "under way", "latest"}
    assert {name for name in bucket.objects() if name.startswith("images/part-")} == {
        f"images/{part.name}" for part in (shared.folder / "images").glob("part-*.parquet")
    }
    for name in left():
        obtained = obtain(bucket.store, ids[name], shared.folder.parent / f"reader of {name}")
        assert files_of(obtained) == files_of(made[name])
    assert len(list((shared.folder / "images").glob("part-*.parquet"))) == 3


def test_a_difference_is_told_of_snapshots_that_only_the_store_has(shared: Workspace) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTEN_DATA_DIR", str(shared.folder.parents[1] / "elsewhere"))
        there = Workspace(folder=shared.folder.parents[1] / "elsewhere" / "project-7")
        for samples in ({"a": "dark", "b": "dark"}, {"a": "bright", "b": "dark"}):
            share(load_settings(), there, fill(there.folder, samples))
    lines = fasten("diff")
    assert lines[1] == "samples: 1 with another label, 0 moved with the same, 0 added, 0 removed"
    assert lines[-1].split() == [
        "a",
        "noisy",
        "“dark”",
        "noisy",
        "“bright”",
        "user:1",
        "(labels,",
        "2026-03-01",
        "12:00)",
    ]
    assert not (shared.folder / "images").exists()
    assert len(list((shared.folder / "snapshots").iterdir())) == 2
