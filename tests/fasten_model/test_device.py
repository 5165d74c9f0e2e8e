"""A device by name: what is not there is told, and each has one name however it was asked for."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fasten_model.device import enough_memory, resolve_device
from fasten_model.errors import DataError
from fasten_model.network import build_network
from fasten_model.predict import predict_logits
from fasten_model.train import TrainConfig, TrainingSet, train


class Empty:
    """`torch.empty` of a machine with two GPUs, of which the second is the current one."""

    def __call__(self, _: int, *, device: torch.device) -> SimpleNamespace:
        index = 1 if device.type == "cuda" and device.index is None else device.index
        return SimpleNamespace(device=torch.device(device.type, index))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("fasten_model.device.torch.empty", Empty())


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_without_a_number_is_the_current_one_by_its_number() -> None:
    """`cuda` is not equal to `cuda:1`, on which its tensors lie: they would be taken to lie elsewhere, and copied."""
    assert torch.device("cuda") != torch.device("cuda:1")
    assert resolve_device("cuda") == resolve_device("auto") == resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_says_how_many_are() -> None:
    with pytest.raises(DataError, match="'cuda:2' was asked for, but torch sees 2 GPUs; use auto or cpu"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_is_the_device_of_its_tensors(name: str) -> None:
    assert torch.empty(1, device=name).device == resolve_device(name)


@pytest.mark.parametrize("name", ["meta", "quantum", "hpu", "", None])
def test_what_holds_no_tensors_is_one_line(name: Any) -> None:
    with pytest.raises(DataError, match="use auto, cpu or cuda") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)


FULL = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 3.00 GiB is "
    "free. Including non-PyTorch memory, this process has 76.10 GiB memory in use. See documentation "
    "(https://docs.pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)
"""As torch words it."""


def test_a_gpu_that_is_full_is_told_in_one_line_with_what_to_do() -> None:
    with pytest.raises(DataError) as told, enough_memory(otherwise="take smaller batches"):
        raise torch.OutOfMemoryError(FULL)
    assert str(told.value) == (
        "the GPU's memory does not suffice: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total "
        "capacity of 79.10 GiB of which 3.00 GiB is free; take smaller batches"
    )


def test_training_and_scoring_tell_of_a_full_gpu() -> None:
    class Full(nn.Module):
        full = False

        def forward(self, images: Tensor) -> Tensor:
            if self.full and len(images) > 2:
                raise torch.OutOfMemoryError(FULL)
            return images.mean(dim=(2, 3))

    images, labels = torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.arange(8) % 2
    training_set = TrainingSet(
        noisy_images=images, noisy_labels=labels, clean_images=images, clean_labels=labels,
        clean_estimates=torch.ones(8, dtype=torch.bool), num_classes=2,
    )  # fmt: skip
    Full.full = True
    with pytest.raises(
        DataError, match=r"memory does not suffice: .*; take a preset with smaller batches \(noisy_batch, clean_batch\)"
    ):
        train(training_set, TrainConfig(preset="small", epochs=1, device="cpu"), trunk=Full())
    with pytest.raises(DataError, match=r"memory does not suffice: .*; free it of other programs, or score on the CPU"):
        predict_logits(build_network(Full(), 2), images)
