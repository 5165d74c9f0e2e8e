"""Images at `s3://bucket/key`, read from the object store itself where the operator says that a bucket is theirs."""

import re
import threading
from functools import cached_property

from pyarrow.fs import FileType, S3FileSystem

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.images.check import ImageConfig, ImageError
from pipeline.images.patience import Patience

_S3 = "s3://"
_PROBLEM = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during \w+ operation")
_PASSING = frozenset({"NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE"})
_GIVE_UP_AFTER = 10


class Buckets:
    """The buckets that `config.allowed_buckets` names. Serves many threads; asks nothing before the first read.

    Credentials come from the standard AWS places and are never seen here.
    """

    def __init__(self, config: ImageConfig) -> None:
        self._config = config
        self._allowed = tuple(bucket.split("/") for bucket in config.allowed_buckets)
        # The AWS SDK bounds silence, not a trickle, and cannot be interrupted.
        self._patience = Patience()
        self._lock = threading.Lock()
        self._readable: set[str] = set()
        self._looked_at: set[str] = set()
        self._denied: dict[str, int] = {}

    def close(self) -> None:
        self._patience.close()

    def covers(self, url: str) -> bool:
        """Whether `url` lies in an allowed bucket, below the allowed prefix."""
        if not self._allowed or url[: len(_S3)].lower() != _S3:
            return False
        parts = url[len(_S3) :].split("/")
        return any(len(parts) > len(allowed) and parts[: len(allowed)] == allowed for allowed in self._allowed)

    def read(self, url: str) -> bytes:
        """The object's bytes, in one attempt.

        Raises `ImageError` where it is at fault, `ServiceUnavailable` where the store does not answer in time, and
        what a person must mend first, before every image is counted as bad: `ConfigError` for a bucket that does not
        exist, `ServiceError` for credentials that open none of the first objects.
        """
        path = url[len(_S3) :]
        parts = path.split("/")
        # libcurl would take `..` for the way up: out of the prefix, even into another bucket.
        if {"", ".", ".."} & set(parts) or not path.isprintable():
            raise ImageError("image URL is malformed", _shown(url))
        try:
            data = self._patience.call(lambda: self._read(path), self._config.timeout_s)
        except TimeoutError:
            raise ServiceUnavailable(
                f"object store is too slow: {self._config.timeout_s:g} s for {_shown(url)}"
            ) from None
        except FileNotFoundError:
            self._check_bucket(parts[0])
            raise ImageError("image is not in its bucket", _shown(url)) from None
        except OSError as error:
            raise self._told(url, parts[0], error) from error
        except (ValueError, UnicodeError) as error:  # pyarrow's word on a path that it cannot take
            raise ImageError("image URL is malformed", _shown(url)) from error
        self._readable.add(parts[0])
        return data

    @cached_property
    def _store(self) -> S3FileSystem:
        # One attempt each: what may pass is tried again, with a wait, by the fetcher.
        return self._config.s3.filesystem(attempts=1)

    def _read(self, path: str) -> bytes:
        limit = self._config.max_bytes
        with self._store.open_input_file(path) as file:
            if (size := file.size()) > limit:
                raise ImageError("image has too many bytes", f"{size}, limit {limit}")
            return bytes(file.read(size))

    def _told(self, url: str, bucket: str, error: OSError) -> Exception:
        found = _PROBLEM.findall(str(error))
        name, status = found[-1] if found else ("", "")
        what = f"HTTP {status}" if status else name
        if not found or name in _PASSING or status[:1] == "5" or status in ("408", "429"):
            return ServiceUnavailable(f"object store does not answer for {_shown(url)} ({what or 'no reason given'})")
        self._check_bucket(bucket)
        with self._lock:
            self._denied[bucket] = self._denied.get(bucket, 0) + 1
            give_up = bucket not in self._readable and self._denied[bucket] >= _GIVE_UP_AFTER
        if give_up:
            return ServiceError(
                f"the object store lets nobody read bucket {bucket!r} ({what}); set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or FASTEN_S3_REGION, or take it out of FASTEN_ALLOWED_IMAGE_BUCKETS"
            )
        return ImageError("image may not be read from its bucket", f"{_shown(url)} ({what})")

    def _check_bucket(self, bucket: str) -> None:
        """Raise `ConfigError` where there is no such bucket; asked once, and what nobody may know passes."""
        if bucket in self._readable or bucket in self._looked_at:
            return
        try:
            found = self._patience.call(lambda: self._store.get_file_info(bucket).type, self._config.timeout_s)
        except OSError:  # a time-out is one, too
            found = FileType.Unknown
        if found == FileType.NotFound:
            raise ConfigError(
                f"there is no bucket {bucket!r} at {self._config.s3.endpoint or 'AWS'}; correct "
                "FASTEN_ALLOWED_IMAGE_BUCKETS or FASTEN_S3_ENDPOINT"
            )
        self._looked_at.add(bucket)


def _shown(url: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in url[:120])
