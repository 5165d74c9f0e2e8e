"""Small images for the store, and a store filled with them."""

from pathlib import Path

from pipeline.images.check import VerifiedImage
from pipeline.images.store import ImageStore


def image(number: int, size: int = 20) -> VerifiedImage:
    data = number.to_bytes(4, "big") + bytes(size)
    return VerifiedImage(data=data, sha256=f"{number:064x}", width=2, height=3, format="PNG")


def known(store: ImageStore, url: str) -> str | None:
    return store.known([url]).get(url)


def fill(root: Path, numbers: range) -> None:
    with ImageStore(root) as store:
        for number in numbers:
            store.add(f"/data/{number}.png", image(number))
