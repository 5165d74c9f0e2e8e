"""A device by name: what is not there is told, and each has one name however it was asked for."""

from types import SimpleNamespace

import pytest
import torch

from fasten_model.device import resolve_device
from fasten_model.errors import DataError


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


@pytest.mark.parametrize("name", ["meta", "quantum", "hpu", ""])
def test_what_holds_no_tensors_is_one_line(name: str) -> None:
    with pytest.raises(DataError, match="use auto, cpu or cuda") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)
