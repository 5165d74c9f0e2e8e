"""Scoring against the bare forward pass of the same network: images a second, measured in turns.

    python -m benchmarks.throughput --preset small
    python -m benchmarks.throughput --preset paper --device cuda --images 50000

The bare pass takes float batches that lie ready on the device, at whichever of some batch sizes and memory layouts is
fastest here, and leaves its logits there: nothing can be quicker with these layers. Scoring starts from uint8 images in
main memory (and ends with logits or probabilities there), or from JPEG bytes in a Parquet file, decoded at once or kept
in the cache of decoded images.
"""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torchvision.io import encode_jpeg  # type: ignore[import-untyped]

from benchmarks.command import finish, parser, positive, use_threads
from benchmarks.interleaved import Ratio, clock_name, ratio, times_in_turns
from benchmarks.machine import machine_line
from benchmarks.report import table
from fasten_model.device import resolve_device
from fasten_model.images.augment import normalize
from fasten_model.images.parquet import read_samples
from fasten_model.model import Model
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.predict import predict_logits
from fasten_model.presets import PRESETS
from fasten_model.train import TrainConfig
from fasten_model.transition import identity_transition

BARE_BATCHES = (64, 96, 192, 512, 2048)
BARE = "bare forward pass"


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """One way of scoring."""

    name: str
    images_per_second: float
    """Of the median round."""
    share: Ratio
    """Of the bare pass's rate, in the same round."""
    clock: str


def measure_throughput(config: TrainConfig, *, images: int, rounds: int, num_classes: int = 10) -> list[Throughput]:
    """The bare pass first, then scoring from memory and from Parquet."""
    settings, device = config.settings(), resolve_device(config.device)
    network = build_network(settings.trunk, num_classes, image_size=settings.image_size).to(device).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as a loaded model's is
    random = torch.Generator().manual_seed(0)
    size = settings.image_size
    pictures = torch.randint(256, (images, 3, size, size), dtype=torch.uint8, generator=random)
    model = Model(
        network=network,
        classes=tuple(str(label) for label in range(num_classes)),
        preset=settings.name,
        image_size=size,
        temperature=1.5,
        transition=identity_transition(num_classes),
        rho=0.95,
    )
    bare = _fastest_bare(network, pictures, device)
    memory: dict[str, Callable[[], object]] = {
        BARE: bare,
        "logits from uint8": lambda: predict_logits(network, pictures),
        "probabilities from uint8": lambda: model.predict_probabilities(pictures),
    }
    found = _rates(times_in_turns(memory, rounds=rounds, device=device), images, clock_name(device))
    with tempfile.TemporaryDirectory() as folder:
        path, cache = _parquet(Path(folder) / "images.parquet", pictures), Path(folder) / "cache"
        disk: dict[str, Callable[[], object]] = {
            BARE: bare,
            "from Parquet, decoding": lambda: predict_logits(network, read_samples(path, size=size).images),
            "from Parquet, decoded before": lambda: predict_logits(
                network, read_samples(path, size=size, cache=cache).images
            ),
        }
        times = times_in_turns(disk, rounds=rounds, device=device, wall=True)
        return found + _rates(times, images, "wall time")[1:]


@torch.inference_mode()
def _fastest_bare(network: TwoHeadNetwork, pictures: Tensor, device: torch.device) -> Callable[[], object]:
    """The bare pass at the batch size and in the layout that are fastest here."""
    channels_last = normalize(pictures.to(device))
    first = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    layouts = {"channels last": (network, channels_last), "channels first": (first, channels_last.contiguous())}

    def at(layout: str, batch: int) -> Callable[[], object]:
        module, ready = layouts[layout]

        @torch.inference_mode()
        def run() -> object:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                return [module(part) for part in torch.split(ready, batch)]

        return run

    sizes = [batch for batch in BARE_BATCHES if batch <= len(pictures)] or [len(pictures)]
    tried = {f"{layout}, {batch}": at(layout, batch) for layout in layouts for batch in sizes}
    times = times_in_turns(tried, rounds=3, device=device)
    return tried[min(times, key=lambda name: min(times[name]))]


def _rates(times: dict[str, list[float]], images: int, clock: str) -> list[Throughput]:
    return [
        Throughput(
            name=name,
            images_per_second=images / sorted(seconds)[len(seconds) // 2],
            share=ratio(times, BARE, name),  # of rates, so of times the other way round
            clock=clock,
        )
        for name, seconds in times.items()
    ]


def _parquet(path: Path, pictures: Tensor) -> Path:
    """The pictures as JPEG, in the layout that scoring reads."""
    rows = [
        {"sample_id": str(number), "image": {"bytes": encode_jpeg(picture).numpy().tobytes(), "path": ""}, "label": "0"}
        for number, picture in enumerate(pictures)
    ]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("sample_id", pa.string()), ("image", image), ("label", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def as_table(found: Sequence[Throughput]) -> str:
    """One line for each way."""
    return table(
        ["scoring", "images/s", "of the bare pass (quartiles)", "clock"],
        ([t.name, f"{t.images_per_second:,.0f}", str(t.share), t.clock] for t in found),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser("benchmarks.throughput", __doc__)
    made.add_argument("--preset", choices=tuple(PRESETS), default="small")
    made.add_argument("--trunk", help="another trunk in the preset's place")
    made.add_argument("--images", type=positive, default=2048)
    made.add_argument("--rounds", type=positive, default=11)
    options = made.parse_args(arguments)
    use_threads(options.threads)
    device = resolve_device(options.device)
    config = TrainConfig(preset=options.preset, trunk=options.trunk, device=str(device))
    found = measure_throughput(config, images=options.images, rounds=options.rounds)
    print(f"{machine_line(device)}; preset {options.preset}, trunk {config.settings().trunk}; "
          f"{options.images} images, {options.rounds} rounds in turns\n")  # fmt: skip
    print(as_table(found))
    return 0


if __name__ == "__main__":
    finish(main)
