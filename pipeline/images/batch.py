"""Images and addresses on their way into one pair of files."""

import time
from pathlib import Path

from pipeline.images import shards
from pipeline.images.check import VerifiedImage


class Batch:
    """What the next part, and the file of addresses that goes with it, will hold.

    Filled by one thread, then written by another: never both at once.
    """

    def __init__(self) -> None:
        self.images: dict[str, VerifiedImage] = {}
        """By hash; empty again once they are in `part`."""
        self.urls: dict[bytes, str] = {}
        """Digest of an address → hash of its image."""
        self.size = 0
        """Bytes of all images."""
        self.since = time.monotonic()
        self.part: tuple[str, list[tuple[str, int]]] | None = None
        """The part once it is written, and the row group of each hash in it."""
        self.urls_file = ""
        """The file of addresses once it is written."""

    def add(self, digest: bytes, image: VerifiedImage) -> None:
        """Take in what an address gave."""
        if not self.urls:
            self.since = time.monotonic()
        self.urls[digest] = image.sha256
        if image.sha256 not in self.images:
            self.images[image.sha256] = image
            self.size += len(image.data)

    def write(self, folder: Path) -> None:
        """Images first, then their addresses. After an error, what is not written yet can be written again."""
        if self.images:
            self.part = shards.write_part(folder, list(self.images.values()))
            self.images = {}
        self.urls_file = shards.write_urls(folder, self.urls.items())
