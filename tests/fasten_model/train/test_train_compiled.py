"""Training with a compiled network: how often it is compiled, and that nothing else changes.

The backend runs the graphs as they are and counts them: how many there are does not depend on what they become.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from fasten_model.errors import DataError
from fasten_model.train import OURS, PAPER, Method, TrainConfig, TrainingSet, train

SIDE = 8
CONFIG = TrainConfig(
    epochs=3, noisy_batch=8, clean_batch=5, image_size=SIDE, device="cpu", horizontal_flip=True, compile=True
)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    counter = CompileCounter()
    monkeypatch.setattr("fasten_model.train.loop.torch.compile", partial(torch.compile, backend=counter))
    torch.compiler.reset()
    yield counter
    torch.compiler.reset()


def trunk() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


def samples() -> TrainingSet:
    """Noisy batches of 8 and of 7, clean ones of 5, 6 held-out samples at once."""
    random = torch.Generator().manual_seed(0)

    def images(count: int) -> torch.Tensor:
        return torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=random)

    return TrainingSet(
        noisy_images=images(30),
        noisy_labels=torch.arange(30) % 3,
        clean_images=images(9),
        clean_labels=torch.arange(9) % 3,
        clean_estimates=torch.ones(9, dtype=torch.bool),
        num_classes=3,
        held_out_images=images(6),
        held_out_labels=torch.arange(6) % 3,
    )


@pytest.mark.parametrize(
    ("method", "graphs"),
    [
        (OURS, 2),
        (replace(OURS, calibrated=False), 2),
        (
            replace(OURS, calibrated=False, noisy_loss_weight=0.0, discounted=False, fresh_passes=None, visits=False),
            1,
        ),
        (replace(OURS, forwards="joint"), 2),
        (PAPER, 1),
        (replace(PAPER, evaluation_features=True), 2),
    ],
    ids=["ours", "accuracy alone", "nothing held out", "joint", "paper", "evaluation"],
)
def test_batches_of_every_size_share_a_graph(counter: CompileCounter, method: Method, graphs: int) -> None:
    """One to train with; one more, without gradients, for held-out samples or for features in evaluation mode."""
    config = replace(CONFIG, method=method)
    compiled = train(samples(), config, trunk=trunk())
    assert counter.frame_count == graphs
    plain = train(samples(), replace(config, compile=False), trunk=trunk())
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(compiled.network.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_cuda_graphs_are_of_one_size_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever plays them: compiled with torch's own mode for them, and no batch marked as one of many sizes."""
    modes: list[str | None] = []
    marked: list[int] = []

    def compiled(module: nn.Module, mode: str | None = None) -> nn.Module:
        modes.append(mode)
        return module

    monkeypatch.setattr("fasten_model.train.loop.torch.compile", compiled)
    monkeypatch.setattr("torch._dynamo.maybe_mark_dynamic", lambda _, dimension: marked.append(dimension))
    train(samples(), replace(CONFIG, epochs=1), trunk=trunk())
    assert set(marked) == {0}
    marked.clear()
    train(samples(), replace(CONFIG, epochs=1, cuda_graphs=True), trunk=trunk())
    assert modes == [None, "reduce-overhead"]
    assert not marked
    with pytest.raises(DataError, match="set compile, too"):
        TrainConfig(cuda_graphs=True)
