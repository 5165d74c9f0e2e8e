"""Images a second on their way to the network: decoded, kept in the cache, read from it, fed to the device.

    python -m benchmarks.decode
    python -m benchmarks.decode --workers 1 2 8 --device cuda

Images are made here, as compressible as photographs: JPEG 500 × 375 for side 224, PNG 32 × 32 for side 32. “Cores” is
CPU time ÷ wall time: how many threads really ran at once. Reading is from the page cache, as it is from the second
epoch on where the set fits the machine's memory.
"""

import hashlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import encode_jpeg, encode_png  # type: ignore[import-untyped]

from benchmarks.command import finish, parser, positive, use_threads
from benchmarks.machine import machine_line
from benchmarks.report import table
from fasten_model.device import resolve_device
from fasten_model.images.cache import ImageCache
from fasten_model.images.decode import decode_images
from fasten_model.images.feed import Feed
from fasten_model.images.source import Images

_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Images of one sort."""

    name: str
    height: int
    width: int
    size: int
    """Side S that they are decoded to."""
    share: int
    """Of the images asked for, one in so many: large ones take longer."""

    def make(self, count: int) -> list[bytes]:
        """Waves of three colours and some grain, each image different."""
        random = torch.Generator().manual_seed(0)
        down = torch.linspace(0, 1, self.height)[:, None]
        across = torch.linspace(0, 1, self.width)[None, :]
        images = []
        for _ in range(max(2, count // self.share)):
            slope = 20 * torch.rand(3, 2, 1, 1, generator=random)
            waves = 127 + 100 * torch.sin(2 * math.pi * (slope[:, 0] * down + slope[:, 1] * across) / 5)
            grain = 8 * torch.randn(3, self.height, self.width, generator=random)
            pixels = (waves + grain).clamp(0, 255).to(torch.uint8)
            encoded = encode_jpeg(pixels, quality=90) if self.name == "JPEG" else encode_png(pixels)
            images.append(encoded.numpy().tobytes())
        return images


KINDS = (
    Kind(name="JPEG", height=375, width=500, size=224, share=10),
    Kind(name="PNG", height=32, width=32, size=32, share=1),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """One piece of work."""

    kind: str
    work: str
    rates: tuple[float, ...]
    """Images a second, in the order of the rounds."""
    cores: float
    """Median of CPU time ÷ wall time."""

    @property
    def spread(self) -> str:
        """Median and range."""
        return f"{statistics.median(self.rates):,.0f} ({min(self.rates):,.0f}–{max(self.rates):,.0f})"


def measure(
    kind: Kind, *, count: int, workers: Sequence[int], rounds: int, device: torch.device, folder: Path
) -> list[Rate]:
    """Every piece of work in every round, in turns."""
    encoded = kind.make(count)
    hashed = [(hashlib.sha256(data).hexdigest(), data) for data in encoded]
    order = torch.split(torch.randperm(len(encoded), generator=torch.Generator().manual_seed(1)), _BATCH)
    work: dict[str, Callable[[], object]] = {
        f"decode, {each} thread{'s' if each > 1 else ''}": partial(_decode, encoded, kind.size, each)
        for each in workers
    }
    with ImageCache(folder / "read", size=kind.size) as cache:
        images = cache.images([place for _, place in cache.add(hashed) if isinstance(place, int)])
        work["decode and keep in a new cache"] = _Filling(folder, hashed, kind.size)
        work["find in the cache"] = partial(cache.find, [sha for sha, _ in hashed])
        work[f"read from the cache, shuffled batches of {_BATCH}"] = partial(_read, images, order)
        work[f"read ahead to {device.type}, the same batches"] = partial(_feed, images, order, device)
        times = _in_turns(work, rounds, device)
    return [
        Rate(
            kind=f"{kind.name} {kind.width} × {kind.height} → {kind.size}",
            work=name,
            rates=tuple(len(encoded) / wall for wall, _ in taken),
            cores=statistics.median(cpu / wall for wall, cpu in taken),
        )
        for name, taken in times.items()
    ]


def _in_turns(
    work: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each piece in each round, after one that is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, piece in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            piece()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return taken


def _decode(encoded: Sequence[bytes], size: int, threads: int) -> None:
    for image in decode_images(encoded, size, threads=threads):
        assert isinstance(image, Tensor)


class _Filling:
    """Each call fills a cache of its own."""

    def __init__(self, folder: Path, hashed: Sequence[tuple[str, bytes]], size: int) -> None:
        self.folder, self.hashed, self.size, self.calls = folder, hashed, size, 0

    def __call__(self) -> None:
        self.calls += 1
        with ImageCache(self.folder / str(self.calls), size=self.size) as cache:
            for _ in cache.add(self.hashed):
                pass


def _read(images: Images, order: Sequence[Tensor]) -> None:
    for index in order:
        images.take(index)


def _feed(images: Images, order: Sequence[Tensor], device: torch.device) -> None:
    for _ in Feed(images, device, budget_bytes=0).batches(order):
        pass


def as_table(rates: Sequence[Rate]) -> str:
    """One line for each piece of work."""
    return table(
        ["images", "work", "images/s, median (range)", "cores"],
        ([rate.kind, rate.work, rate.spread, f"{rate.cores:.2f}"] for rate in rates),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser("benchmarks.decode", __doc__)
    made.add_argument("--count", type=positive, default=4000, help="small images; of the large ones a tenth")
    made.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="threads that decode")
    made.add_argument("--rounds", type=positive, default=5)
    options = made.parse_args(arguments)
    use_threads(options.threads)
    device = resolve_device(options.device)
    rates = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            rates += measure(
                kind, count=options.count, workers=options.workers, rounds=options.rounds, device=device,
                folder=Path(folder),
            )  # fmt: skip
    print(f"{machine_line(device)}; wall time, n {options.rounds} rounds in turns\n")
    print(as_table(rates))
    return 0


if __name__ == "__main__":
    finish(main)
