"""`SnapshotStore`: one project's objects in a store, by name; each of them appears whole or not at all."""

import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq
from pyarrow import NativeFile
from pyarrow.fs import FileSelector, FileSystem, FileType, SubTreeFileSystem

from pipeline.errors import DataError, ServiceError, ServiceUnavailable
from pipeline.snapshot.folder import Latest, Manifest, is_snapshot_id, latest_json, parse_latest, parse_manifest
from pipeline.snapshot_store.config import StoreConfig

AT_ONCE = 4
"""Transfers at a time."""
_BLOCK = 2**20
_IN_FLIGHT = 16 * 2**20
"""Bytes of one file that may be on their way: pyarrow sends behind our back and would keep a whole part in memory."""
_LARGEST_JSON = 16 * 2**20
_IMAGE_FILE = re.compile(r"(part|urls)-[A-Za-z0-9_-]{1,100}\.parquet")
_CODE = re.compile(r"AWS Error ([A-Z_]{1,60})")
_REFUSED = {"ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN", "INVALID_SIGNATURE"}
_GONE = {"NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND"}

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """One object."""

    name: str
    """Below the project, as `images/part-….parquet`."""
    size: int
    changed: datetime | None


class SnapshotStore:
    """One labels project's part of a store.

    Raises `ServiceUnavailable` where it does not answer, `ServiceError` where it refuses, `DataError` where what lies
    there is damaged. Errors quote the store's error code and none of its text. Serves many threads.
    """

    def __init__(self, files: FileSystem, *, uri: str) -> None:
        self.uri = uri
        """An `s3://` URL or a path; holds no credentials."""
        self.files = files
        self._local = isinstance(files, SubTreeFileSystem) and files.base_fs.type_name == "local"

    @classmethod
    def open(cls, config: StoreConfig, project: str) -> "SnapshotStore":
        """The part of the project whose workspace folder is called `project` (`project-7`)."""
        config.check()
        return cls(config.filesystem(project), uri=config.uri_of(project))

    def snapshot_uri(self, snapshot_id: str) -> str:
        """Where a snapshot is, whether it exists or not."""
        return f"{self.uri}/snapshots/{snapshot_id}"

    # What is there -------------------------------------------------------------------------------------------------

    def images(self) -> dict[str, StoredFile]:
        """File name → image file, in order; anything else in that folder is none of ours."""
        found = {Path(file.name).name: file for file in self._list("images")}
        return {name: found[name] for name in sorted(found) if _IMAGE_FILE.fullmatch(name)}

    def snapshots(self) -> dict[str, dict[str, StoredFile]]:
        """Snapshot id → its files by name; without `manifest.json` among them it is none yet, or none any more."""
        found: dict[str, dict[str, StoredFile]] = {}
        for file in self._list("snapshots", recursive=True):
            parts = file.name.split("/")
            if len(parts) == 3 and is_snapshot_id(parts[1]):
                found.setdefault(parts[1], {})[parts[2]] = file
        return found

    def manifest_text(self, snapshot_id: str) -> bytes | None:
        """The manifest, byte by byte; None where there is no such snapshot."""
        return self._read(f"snapshots/{snapshot_id}/manifest.json")

    def manifest(self, snapshot_id: str) -> Manifest | None:
        """What the manifest says; None where there is no such snapshot. Raises `DataError` where it is damaged."""
        text = self.manifest_text(snapshot_id)
        if text is None:
            return None
        where = f"{self.snapshot_uri(snapshot_id)}/manifest.json"
        manifest = parse_manifest(text, where)
        if manifest.snapshot_id != snapshot_id:
            raise DataError(f"{where} is that of snapshot {manifest.snapshot_id}; pull again")
        return manifest

    def latest(self) -> str | None:
        """Id of the snapshot that was published last; None before the first."""
        text = self._read("latest.json")
        return None if text is None else parse_latest(text, f"{self.uri}/latest.json").snapshot_id

    def size(self, name: str) -> int | None:
        """Bytes of an object; None where it is not there."""
        with self._translated("look at", name):
            info = self.files.get_file_info(name)
        return info.size if info.type == FileType.File else None

    # To and fro ----------------------------------------------------------------------------------------------------

    def point_latest(self, snapshot_id: str) -> None:
        """Say which snapshot was published last; writes nothing where it says so already."""
        text = latest_json(Latest(snapshot_id=snapshot_id))
        if self._read("latest.json") != text:
            self.put("latest.json", text)

    def put(self, name: str, content: bytes) -> None:
        """Write an object, replacing what is there."""
        with self._writing(name, expected=len(content)) as write:
            write(content)

    def send(self, source: Path, name: str) -> int:
        """Copy a local file; → its size. Memory holds no more than some blocks of it."""
        size = source.stat().st_size
        with source.open("rb") as opened, self._writing(name, expected=size) as write:
            while block := opened.read(_BLOCK):
                write(block)
        return size

    def receive(self, name: str, target: Path) -> str:
        """Copy an object into a local file; → SHA-256 of its bytes. Raises `DataError` where it is not there."""
        digest = hashlib.sha256()
        with target.open("wb") as opened:
            for block in self._blocks(name):
                digest.update(block)
                opened.write(block)
        return digest.hexdigest()

    def sha256(self, name: str) -> str:
        """SHA-256 of an object's bytes, read in blocks."""
        digest = hashlib.sha256()
        for block in self._blocks(name):
            digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """An object as a Parquet file, of which only what is asked for is read. Raises `DataError` where it is none."""
        with self._translated("read", name), self.files.open_input_file(name) as opened, pq.ParquetFile(opened) as file:
            yield file

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; what is not there is passed over."""
        for name in names:
            with self._translated("remove", name), suppress(FileNotFoundError):
                self.files.delete_file(name)

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot, its manifest first: without it, what is left is no snapshot."""
        folder = f"snapshots/{snapshot_id}"
        self.remove([f"{folder}/manifest.json"])
        with self._translated("remove", folder), suppress(FileNotFoundError):
            self.files.delete_dir(folder)

    def _list(self, folder: str, *, recursive: bool = False) -> list[StoredFile]:
        with self._translated("list", folder):
            infos = self.files.get_file_info(FileSelector(folder, allow_not_found=True, recursive=recursive))
        return [
            StoredFile(name=info.path, size=info.size, changed=info.mtime)
            for info in infos
            if info.type == FileType.File
        ]

    def _read(self, name: str) -> bytes | None:
        with self._translated("read", name):
            try:
                with self.files.open_input_stream(name) as opened:
                    text = bytes(opened.read(_LARGEST_JSON + 1))
            except FileNotFoundError:
                return None
        if len(text) > _LARGEST_JSON:
            raise DataError(f"{self.uri}/{name} is larger than {_LARGEST_JSON:,} bytes: it is none that we wrote")
        return text

    def _blocks(self, name: str) -> Iterator[bytes]:
        with self._translated("read", name):
            opened = self.files.open_input_stream(name)
        with opened:
            while True:
                with self._translated("read", name):
                    block = bytes(opened.read(_BLOCK))
                if not block:
                    return
                yield block

    @contextmanager
    def _writing(self, name: str, *, expected: int) -> Iterator[Callable[[bytes], None]]:
        """Takes an object's bytes, block by block; it gets its name when the block of code ends well, and only then."""
        # An object appears when its stream is closed. A file would grow under its name, so it is given that last.
        told = self._translated("write", name)
        folder, _, base = name.rpartition("/")
        path = f"{folder}/.{base}.{uuid.uuid4().hex[:8]}".lstrip("/") if self._local else name
        try:
            with told:
                if self._local and folder:
                    self.files.create_dir(folder, recursive=True)
                stream = self.files.open_output_stream(path)
            try:
                yield _writer(stream, told)
            finally:
                with told:
                    stream.close()
            with told:
                found = self.files.get_file_info(path)
                if found.type != FileType.File or found.size != expected:
                    raise ServiceUnavailable(
                        f"{self.uri}/{name} has {found.size} bytes after {expected} were sent; run it again"
                    )
                if self._local:
                    self.files.move(path, name)
        except BaseException:
            # pyarrow completes an object even where an error cut its stream short.
            with suppress(OSError):
                self.files.delete_file(path)
            raise

    def _translated(self, verb: str, name: str) -> "_Translated":
        return _Translated(verb, f"{self.uri}/{name}".rstrip("/"), local=self._local)


class _Translated:
    """Turns what a file system raises into one line of ours, made of the store's code for it alone: the text of an
    answer may quote a key.
    """

    def __init__(self, verb: str, where: str, *, local: bool) -> None:
        self._verb = verb
        self._where = where
        self._local = local

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        del kind, trace
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{self._where} is not there; `fasten pull` where it was pulled sends it again") from None
        if isinstance(error, OSError):
            raise self._of(error) from None
        if isinstance(error, ValueError) and type(error).__module__.startswith("pyarrow"):
            raise DataError(f"{self._where} is damaged; remove it, and `fasten pull` sends it again") from None

    def _of(self, error: OSError) -> ServiceError:
        if self._local or (error.errno is not None and error.strerror):
            return ServiceError(f"cannot {self._verb} {self._where}: {error.strerror or 'the folder refuses'}")
        code = found[1] if (found := _CODE.search(str(error))) else ""
        if code in _REFUSED or "HTTP 403" in str(error) or "HTTP 401" in str(error):
            return ServiceError(
                f"the store refuses to {self._verb} {self._where} ({code or 'access denied'}); are AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY those of somebody who may?"
            )
        if code in _GONE:
            return ServiceError(f"cannot {self._verb} {self._where} ({code}); set FASTEN_SNAPSHOT_STORE")
        return ServiceUnavailable(
            f"cannot {self._verb} {self._where} ({code or 'no answer'}); is the store running, and is "
            "FASTEN_S3_ENDPOINT right?"
        )


def examine(config: StoreConfig) -> str:
    """Where the store is, once it has answered; nothing is written. Raises as `SnapshotStore` does."""
    config.check()
    if config.is_s3:
        bucket = config.location.removeprefix("s3://").partition("/")[0]
        with _Translated("look at", f"s3://{bucket}", local=False):
            found = config.s3.filesystem().get_file_info(bucket)
        if found.type == FileType.NotFound:
            raise ServiceError(f"there is no bucket {bucket}: make it, or set FASTEN_SNAPSHOT_STORE")
    return config.location


def _writer(stream: NativeFile, told: _Translated) -> Callable[[bytes], None]:
    under_way = 0

    def write(block: bytes) -> None:
        nonlocal under_way
        with told:
            stream.write(block)
            under_way += len(block)
            if under_way >= _IN_FLIGHT:
                stream.flush()  # waits
                under_way = 0

    return write


def at_once(work: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
    """`work` of each item, some at a time, in their order. What has not begun when one fails never does."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        under_way = [pool.submit(work, item) for item in items]
        try:
            return [one.result() for one in under_way]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
