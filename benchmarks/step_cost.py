"""A step of FasTEN against a step of plain cross-entropy: same trunk, same noisy batch, same process, in turns.

    python -m benchmarks.step_cost --preset small --shares 1 0.5 0.25
    python -m benchmarks.step_cost --preset paper --device cuda --compile

A step is what training does with a batch: gather the images, augment and normalise them, forward, losses, T̂,
correction, backward, optimiser. FasTEN looks at B_clean more images than plain training, so its least cost is
1 + B_clean/B_noisy of plain training's (`bound`). `two passes` is plain cross-entropy on both batches, one after the
other: what it takes above the bound is the price of a second and smaller batch, what FasTEN takes above it is the
method's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import above_zero, finish, parser, positive, use_threads
from benchmarks.interleaved import Ratio, clock_name, ratio, times_in_turns
from benchmarks.machine import machine_line
from benchmarks.report import table
from fasten_model.device import resolve_device
from fasten_model.errors import DataError
from fasten_model.presets import PRESETS
from fasten_model.train import OURS, PAPER, TrainConfig, TrainingSet
from fasten_model.train.batch import Batch, Part, StepLosses, TrainingStep
from fasten_model.train.cross_entropy import CrossEntropyStep
from fasten_model.train.fasten_step import FastenStep
from fasten_model.train.loop import Loop

METHODS = {"paper": PAPER, "ours": OURS}
TWO_PASSES = "two passes"
_STEPS = 10**6
"""Of the training that the steps are said to be of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """One method with one clean batch."""

    method: str
    noisy_batch: int
    clean_batch: int
    bound: float
    """1 + B_clean/B_noisy."""
    ratio: Ratio
    """Seconds of its step ÷ those of plain cross-entropy."""
    plain_ms: float
    """Median milliseconds of the plain step."""

    @property
    def overhead(self) -> float:
        """What a step costs above the bound, as a share of it."""
        return self.ratio.median / self.bound - 1


def measure_step_costs(
    config: TrainConfig, *, shares: Sequence[float], num_classes: int, rounds: int, steps: int
) -> list[StepCost]:
    """Two plain passes and every method at every share B_clean/B_noisy; each round times `steps` steps of each in turn.

    `DataError` for a share that leaves a clean batch of less than two.
    """
    settings = config.settings()
    noisy_batch = settings.noisy_batch
    sizes = {share: round(share * noisy_batch) for share in shares}
    for share, size in sizes.items():
        if size < 2:
            raise DataError(f"a share of {share:g} of {noisy_batch} noisy samples is less than 2 clean ones; raise it")
    data = _random_set(max(noisy_batch * steps, num_classes), max(sizes.values()), num_classes, settings.image_size)
    device = resolve_device(config.device)
    found = []
    for clean_batch in sizes.values():
        sized = replace(config, clean_batch=clean_batch)
        work = {
            "ce": _block(sized, data, None, num_classes, steps, lambda loop: CrossEntropyStep(loop, data.noisy_labels)),
            TWO_PASSES: _block(sized, data, clean_batch, num_classes, steps, lambda loop: _TwoPasses(loop, data)),
        }
        for name, method in METHODS.items():
            work[name] = _block(replace(sized, method=method), data, clean_batch, num_classes, steps)
        times = times_in_turns(work, rounds=rounds, device=device)
        plain_ms = 1000 * sorted(times["ce"])[rounds // 2] / steps
        found += [
            StepCost(
                method=name, noisy_batch=noisy_batch, clean_batch=clean_batch, bound=1 + clean_batch / noisy_batch,
                ratio=ratio(times, name, "ce"), plain_ms=plain_ms,
            )
            for name in work if name != "ce"
        ]  # fmt: skip
    return found


def step_flops(config: TrainConfig, *, num_classes: int) -> int:
    """Floating-point operations of one step of `config`'s FasTEN, forward and backward, as torch counts them.

    Matrix products and convolutions alone, a multiplication with its addition as two: the rest is under one per cent.
    """
    settings = config.settings()
    data = _random_set(max(settings.noisy_batch, num_classes), settings.clean_batch, num_classes, settings.image_size)
    run = _block(replace(config, compile=False), data, settings.clean_batch, num_classes, steps=1)
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


class _TwoPasses(TrainingStep):
    """Plain cross-entropy of the noisy batch, and of the clean one."""

    def __init__(self, loop: Loop, data: TrainingSet) -> None:
        self._noisy, self._clean = CrossEntropyStep(loop, data.noisy_labels), CrossEntropyStep(loop, data.clean_labels)

    def __call__(self, batch: Batch) -> StepLosses:
        assert batch.clean is not None
        noisy, clean = self._noisy(batch), self._clean(replace(batch, noisy=batch.clean))
        return replace(noisy, total=noisy.total + clean.total)


def _block(
    config: TrainConfig,
    data: TrainingSet,
    clean_batch: int | None,
    num_classes: int,
    steps: int,
    make_step: Callable[[Loop], TrainingStep] | None = None,
) -> Callable[[], None]:
    """A function that trains for `steps` steps: of FasTEN by `config`, unless another step is made."""
    loop = Loop(config, num_classes)
    prepare = getattr(loop.network.trunk, "initialise_from", None)
    images, clean_images = _on(data.noisy_images, loop.device), _on(data.clean_images, loop.device)
    if callable(prepare):
        prepare(images[:512])
    step = FastenStep(loop, data, config) if make_step is None else make_step(loop)
    size = loop.settings.noisy_batch
    # The second half of training: labels are being corrected by then.
    number = _STEPS * 3 // 4
    index = [torch.arange(at * size, (at + 1) * size, device=loop.device) for at in range(steps)]
    clean_index = torch.arange(clean_batch or 0, device=loop.device)

    def run() -> None:
        nonlocal number
        for chosen in index:
            clean = None if clean_batch is None else _part(clean_images, clean_index)
            batch = Batch(step=number, steps=_STEPS, lr=1e-4, noisy=_part(images, chosen), clean=clean)
            number += 1
            loop.optimizer.zero_grad(set_to_none=True)
            step(batch).total.backward()  # type: ignore[no-untyped-call]
            loop.optimizer.step()

    return run


def _part(images: Tensor, index: Tensor) -> Part:
    return Part(index=index, images=images[index], positions=None, size=len(index))


def _on(images: object, device: torch.device) -> Tensor:
    assert isinstance(images, Tensor)
    return images.to(device)


def _random_set(count: int, clean: int, num_classes: int, size: int) -> TrainingSet:
    """Noise for images: what they show does not matter for what a step costs."""
    random = torch.Generator().manual_seed(0)
    clean_labels = torch.arange(clean) % num_classes
    # One sample is held out: then the noisy head of ours learns, as it does in use. Two would be asked, which is part
    # of an epoch and not of a step.
    return TrainingSet(
        noisy_images=torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=random),
        noisy_labels=torch.randint(num_classes, (count,), generator=random),
        clean_images=torch.randint(256, (clean, 3, size, size), dtype=torch.uint8, generator=random),
        clean_labels=clean_labels,
        clean_estimates=torch.ones(clean, dtype=torch.bool),
        num_classes=num_classes,
        clean_votes=clean_labels[:, None],
        held_out_images=torch.zeros(1, 3, size, size, dtype=torch.uint8),
        held_out_labels=torch.zeros(1, dtype=torch.int64),
    )


def as_table(costs: Sequence[StepCost]) -> str:
    """One line for each method and clean batch."""
    return table(
        ["method", "B noisy", "B clean", "bound", "÷ plain CE (quartiles)", "above bound", "plain CE, ms"],
        (
            [c.method, str(c.noisy_batch), str(c.clean_batch), f"{c.bound:.3f}", str(c.ratio),
             f"{100 * c.overhead:+.1f} %", f"{c.plain_ms:.2f}"]
            for c in costs
        ),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = parser("benchmarks.step_cost", __doc__)
    made.add_argument("--preset", choices=tuple(PRESETS), default="small")
    made.add_argument("--trunk", help="another trunk in the preset's place")
    made.add_argument("--noisy-batch", type=positive)
    made.add_argument("--shares", type=above_zero, nargs="+", default=[1.0, 0.5, 0.25], help="B_clean/B_noisy")
    made.add_argument("--classes", type=positive, default=10)
    made.add_argument("--rounds", type=positive, default=15)
    made.add_argument("--steps", type=positive, default=10, help="of each method in each round")
    made.add_argument("--compile", action="store_true", help="compile the network (torch.compile)")
    options = made.parse_args(arguments)
    use_threads(options.threads)
    config = TrainConfig(
        preset=options.preset, trunk=options.trunk, noisy_batch=options.noisy_batch, compile=options.compile,
        epochs=1, device=str(resolve_device(options.device)),
    )  # fmt: skip
    device = resolve_device(config.device)
    costs = measure_step_costs(
        config, shares=options.shares, num_classes=options.classes, rounds=options.rounds, steps=options.steps
    )
    compiled = ", compiled" if options.compile else ""
    print(f"{machine_line(device)}; preset {options.preset}, trunk {config.settings().trunk}{compiled}; "
          f"{clock_name(device)}, {options.rounds} rounds of {options.steps} steps in turns\n")  # fmt: skip
    print(as_table(costs))
    return 0


if __name__ == "__main__":
    finish(main)
