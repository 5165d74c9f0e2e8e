"""Where the store is."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from pipeline.errors import ConfigError
from pipeline.s3 import S3Config

_EXPECTED = "FASTEN_SNAPSHOT_STORE must look like s3://bucket/prefix, or be an absolute path"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreConfig:
    """A store, and how to reach it."""

    location: str
    """`s3://bucket/prefix`; or an absolute path, or `file:///path`, of a folder that other machines see too."""
    s3: S3Config = field(default_factory=S3Config)
    """How to reach S3; of no meaning for a folder."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.location)
        if parts.scheme == "s3":
            if "@" in parts.netloc:  # not quoted: it may be a secret
                raise ConfigError(
                    "FASTEN_SNAPSHOT_STORE must hold no password; set AWS_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY"
                )
            if not parts.netloc or parts.query or parts.fragment or ".." in parts.path.split("/"):
                raise ConfigError(_EXPECTED)
        elif parts.scheme not in ("", "file") or parts.netloc or not self._folder.is_absolute():
            raise ConfigError(_EXPECTED)

    @property
    def is_s3(self) -> bool:
        return self.location.startswith("s3://")

    @property
    def _folder(self) -> Path:
        return Path(unquote(urlsplit(self.location).path) if self.location.startswith("file:") else self.location)

    def check(self) -> None:
        """Raise `ConfigError` where a folder is not there: one made below a mount point would be hidden later."""
        if not self.is_s3 and not self._folder.is_dir():
            raise ConfigError(f"FASTEN_SNAPSHOT_STORE is {self._folder}, which is no folder: make it, or mount it")

    def uri_of(self, project: str) -> str:
        """Where the files of a project (`project-7`) are: an `s3://` URL or a path."""
        return f"{self.location.rstrip('/')}/{project}" if self.is_s3 else str(self._folder / project)

    def filesystem(self, project: str) -> FileSystem:
        """That place, as a file system of its own; nothing is asked of it yet."""
        if self.is_s3:
            bucket, _, prefix = self.uri_of(project).removeprefix("s3://").partition("/")
            return SubTreeFileSystem(f"{bucket}/{prefix}", self.s3.filesystem())
        return SubTreeFileSystem(self.uri_of(project), LocalFileSystem())
