"""What an image must be before anything else looks at it: bounded, of a known format, and whole."""

import hashlib
import re
import threading
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from fasten_model.images.effort import check_effort
from pipeline.errors import ConfigError, DataError
from pipeline.images.addresses import kind_of, literal
from pipeline.s3 import S3Config

FORMATS = ("PNG", "JPEG", "WEBP")
"""What `fasten_model.images.parquet` can decode; every other parser of Pillow stays out of reach of untrusted bytes."""

_SEVERAL_JPEGS = "MPO"
_PILLOW_LIMIT = 89_478_485  # Image.MAX_IMAGE_PIXELS: beyond it Pillow itself objects
_LARGE = 4_000_000
_HOST = re.compile(r"(?P<name>[^\[\]:/@*? ]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[^/]+)*")
_one_large_image = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """From where images are taken, and how large they may be."""

    allowed_hosts: tuple[str, ...] = ()
    """Hosts besides Label Studio's that images may come from: `host` for the scheme's own port, or `host:port`."""
    allowed_buckets: tuple[str, ...] = ()
    """Buckets that are read by this machine itself, as `bucket` or `bucket/prefix`; `s3://` elsewhere is asked of Label
    Studio."""
    s3: S3Config = field(default_factory=S3Config)
    """Where those buckets are."""
    max_bytes: int = 20_000_000
    max_pixels: int = 40_000_000
    """Width × height."""
    timeout_s: float = 30.0
    """For one attempt at one image, from first to last byte."""
    concurrency: int = 8
    retries: int = 3
    """Further attempts after one that may pass: no answer, a time-out, 429, 5xx."""
    retry_wait_s: float = 0.5
    """Upper bound of the first wait; doubled each time, drawn at random below that."""
    local_files_root: Path | None = None
    """The server's local-files root, where this machine sees it: `/data/local-files/` is then read from disk."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "timeout_s", "concurrency"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"images: {name} is {getattr(self, name)}; it must be above 0")
        if self.retries < 0 or self.retry_wait_s < 0:
            raise ConfigError("images: retries and retry_wait_s must not be negative")
        if self.max_pixels > _PILLOW_LIMIT:
            raise ConfigError(f"images: max_pixels is {self.max_pixels}; the decoder's own limit is {_PILLOW_LIMIT}")
        for host in self.allowed_hosts:
            match = _HOST.fullmatch(host)
            address = literal(match["name"]) if match else None
            if match is None or (match["name"].startswith("[") and address is None):
                raise ConfigError(f"images: allowed host {host!r} must be a bare `host` or `host:port`")
            if address is not None and (kind := kind_of(address)) not in (None, "loopback"):
                raise ConfigError(f"images: allowed host {host!r} is {kind}: no image comes from there; leave it out")
        for bucket in self.allowed_buckets:
            if not _BUCKET.fullmatch(bucket) or {".", ".."} & set(bucket.split("/")):
                raise ConfigError(f"images: allowed bucket {bucket!r} must be `bucket` or `bucket/prefix`")


class ImageError(DataError):
    """One image that cannot be used. `reason` is one of a few, to be counted by; the text has the particulars.

    `passing` where a later attempt may succeed with nothing changed: nobody answered, or a server failed. Otherwise the
    image, its address or a permission is at fault.
    """

    def __init__(self, reason: str, particulars: str, *, passing: bool = False) -> None:
        super().__init__(f"{reason}: {particulars}")
        self.reason = reason
        self.particulars = particulars
        self.passing = passing


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedImage:
    """Bytes known to decode, with what was learned of them."""

    data: bytes
    sha256: str
    width: int
    height: int
    format: str


def verify_image(data: bytes, config: ImageConfig) -> VerifiedImage:
    """Decode `data` once and describe it; raises `ImageError` on anything but a whole, bounded image.

    The header's size, and how much work it makes besides its pixels, are checked before a pixel is decoded, so that a
    decompression bomb costs nothing. Of a JPEG with further pictures in it (MPF: a camera's preview, the other eye) the
    first is the image, as it is for every browser.
    """
    if not data:
        raise ImageError("image is empty", "0 bytes")
    if len(data) > config.max_bytes:
        raise ImageError("image has too many bytes", f"{len(data)}, limit {config.max_bytes}")
    try:
        check_effort(data)
    except DataError as error:
        raise ImageError("image takes too long to decode", str(error)) from error
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            kind = "JPEG" if image.format == _SEVERAL_JPEGS else str(image.format)
            if kind != "JPEG" and getattr(image, "is_animated", False):
                raise ImageError("image is animated", "one still picture is wanted")
            if width * height > config.max_pixels:
                raise ImageError("image has too many pixels", f"{width}×{height}, limit {config.max_pixels} in all")
            if width * height > _LARGE:
                # Each may take hundreds of megabytes decoded: one at a time, however many threads there are.
                with _one_large_image:
                    image.load()
            else:
                image.load()
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("image has too many pixels", f"limit {config.max_pixels}") from error
    except Exception as error:  # hostile bytes make Pillow's parsers raise almost anything
        what = "not PNG, JPEG or WebP" if isinstance(error, UnidentifiedImageError) else _one_line(error)
        raise ImageError("image does not decode", what) from error
    return VerifiedImage(data=data, sha256=hashlib.sha256(data).hexdigest(), width=width, height=height, format=kind)


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:120] or type(error).__name__
