"""The command that measures the way of an image to the network runs, and measures what it says."""

import hashlib
from pathlib import Path

import pytest
import torch

from benchmarks import decode
from fasten_model.images.decode import decode_image


def test_the_command_prints_the_machine_and_a_rate_for_every_piece_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert decode.main(["--count", "40", "--rounds", "2", "--workers", "1", "2", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "n 2 rounds" in printed
    assert "torch" in printed.splitlines()[0]
    for work in ("decode, 1 thread ", "decode, 2 threads", "new cache", "shuffled batches of 64", "read ahead to cpu"):
        assert printed.count(work) == len(decode.KINDS)


def test_the_images_differ_and_decode_to_the_side_they_are_meant_for() -> None:
    for kind in decode.KINDS:
        images = kind.make(30)
        assert len({hashlib.sha256(image).hexdigest() for image in images}) == len(images)
        assert decode_image(images[0], kind.size).shape == (3, kind.size, kind.size)


def test_every_round_counts_but_the_first(tmp_path: Path) -> None:
    rates = decode.measure(
        decode.KINDS[1], count=20, workers=[1], rounds=3, device=torch.device("cpu"), folder=tmp_path
    )
    assert {len(rate.rates) for rate in rates} == {3}
    assert all(rate.cores > 0 for rate in rates)
