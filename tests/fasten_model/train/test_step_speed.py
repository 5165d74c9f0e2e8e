"""What makes a step fast on a GPU and can be seen without one: it waits for no value, and runs in half precision."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fasten_model.train import OURS, PAPER, Method
from fasten_model.train.loop import Loop
from tests.fasten_model.train.one_step import Run, pixels, random_set

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
"""Operators whose result, or its size, the host must know."""

METHODS: Mapping[str, Method] = {
    "ours": OURS,
    "paper": PAPER,
    "joint": replace(OURS, forwards="joint"),
    "folds": replace(PAPER, estimator="clean_decayed", folds=2, evaluation_features=True),
    "average": replace(OURS, correction="average"),
    "ensemble": replace(OURS, correction="ensemble"),
    "resample": replace(OURS, loss="resample"),
    "priors": replace(OURS, prior_correction=True),
    "λ": replace(OURS, noisy_loss_weight=0.5),
}
LATER = 10
"""A step late enough for corrections, and not an epoch's first: before that the temperature is fitted, on the host."""


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses every operator that waits for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING or (name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def part_of_training(run: Run, step: int) -> Tensor:
    """A step, backward and the optimiser; what it leaves is ready for the next."""
    losses = run.once([5, 3, 0, 1, 2, 4], [1, 2, 3, 9], step=step)
    losses.total.backward()  # type: ignore[no-untyped-call]
    run.loop.optimizer.step()
    run.loop.optimizer.zero_grad(set_to_none=True)
    return losses.total.detach()


@pytest.mark.parametrize("held_out", [0, 5])
@pytest.mark.parametrize("name", METHODS)
def test_no_step_waits_for_the_device(name: str, held_out: int) -> None:
    """With samples held out the weights of the losses follow what is known of them."""
    labels = torch.arange(held_out) % 3
    told: dict[str, Any] = (
        {"held_out_images": pixels(held_out, torch.Generator()), "held_out_labels": labels} if held_out else {}
    )
    run = Run.of(random_set(**told), METHODS[name], batch_norm=True)
    part_of_training(run, LATER)
    with NoWaiting():  # type: ignore[no-untyped-call]
        part_of_training(run, LATER)


def test_what_waits_is_noticed() -> None:
    mask = torch.tensor([True, False])
    for wait in (lambda: float(torch.ones(())), lambda: torch.ones(2)[mask], lambda: mask.nonzero()):
        with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():  # type: ignore[no-untyped-call]
            wait()


@pytest.mark.parametrize("name", METHODS)
def test_in_half_precision_a_step_has_the_same_losses_and_full_precision_where_it_counts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the network under bfloat16 autocast, everything after its logits in float32."""
    halves: list[torch.dtype] = []

    def in_half(_: Loop, module: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits: tuple[Tensor, Tensor] = module(images.contiguous(memory_format=torch.channels_last))
        halves.append(logits[0].dtype)
        return logits

    def losses() -> list[Tensor]:
        run = Run.of(random_set(), METHODS[name], batch_norm=True)
        found = [part_of_training(run, step) for step in (LATER, LATER + 1, LATER + 2)]
        assert run.step.estimate.counts.dtype == torch.float32
        assert {p.dtype for p in run.loop.network.parameters()} == {torch.float32}
        return found

    expected = losses()
    monkeypatch.setattr(Loop, "_through", in_half)
    found = losses()
    assert set(halves) == {torch.bfloat16}
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)


def test_the_network_is_channels_last_and_its_optimiser_is_one_kernel() -> None:
    run = Run.of(random_set(), OURS)
    assert all(group["fused"] for group in run.loop.optimizer.param_groups)
    loop = Loop(replace(run.loop.config, preset="small", image_size=8), 3)
    weights = [p for p in loop.network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
