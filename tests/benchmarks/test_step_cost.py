"""The two benchmarks of speed count and compare rightly; how fast anything is, no test says."""

from types import ModuleType

import pytest
import torch

from benchmarks import decode, demo_data, step_cost, throughput
from benchmarks.command import finish
from benchmarks.interleaved import Ratio, ratio, times_in_turns
from benchmarks.step_cost import StepCost, measure_step_costs, step_flops
from benchmarks.throughput import BARE, measure_throughput
from fasten_model.errors import DataError
from fasten_model.train import PAPER, TrainConfig

TINY = TrainConfig(preset="small", noisy_batch=8, device="cpu", epochs=1)


def test_every_round_has_every_piece_of_work_and_the_order_turns() -> None:
    order: list[str] = []
    work = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = times_in_turns(work, rounds=4, device=torch.device("cpu"))
    assert "".join(order) == "abc" + "abc" + "acb" + "cab" + "cba"  # once unmeasured, then four rounds
    assert {name: len(taken) for name, taken in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_ratios_are_of_the_same_round() -> None:
    times = {"slow": [2.0, 20.0, 300.0, 4.0, 2.5], "base": [1.0, 10.0, 100.0, 1.0, 1.0]}
    assert ratio(times, "slow", "base") == Ratio(median=2.5, low=2.0, high=3.0, count=5)
    assert ratio({"a": [3.0], "b": [2.0]}, "a", "b") == Ratio(median=1.5, low=1.5, high=1.5, count=1)


def test_bound_and_overhead() -> None:
    costs = measure_step_costs(TINY, shares=[1.0, 0.25], num_classes=4, rounds=2, steps=1)
    assert [(cost.method, cost.clean_batch, cost.bound) for cost in costs] == [
        ("two passes", 8, 2.0),
        ("paper", 8, 2.0),
        ("ours", 8, 2.0),
        ("two passes", 2, 1.25),
        ("paper", 2, 1.25),
        ("ours", 2, 1.25),
    ]
    found = StepCost(
        method="x", noisy_batch=8, clean_batch=2, bound=1.25, plain_ms=1.0,
        ratio=Ratio(median=1.5, low=1.4, high=1.6, count=3),
    )  # fmt: skip
    assert found.overhead == pytest.approx(0.2)


def test_a_clean_batch_as_large_as_the_noisy_one_doubles_the_arithmetic() -> None:
    """Paper and ours need the same: heads, T̂ and correction are nothing beside the trunk."""
    config = TrainConfig(preset="small", noisy_batch=16, clean_batch=16, device="cpu", method=PAPER)
    both = step_flops(config, num_classes=4)
    quarter = step_flops(TrainConfig(preset="small", noisy_batch=16, clean_batch=4, device="cpu"), num_classes=4)
    assert quarter / both == pytest.approx(1.25 / 2, rel=1e-3)


def test_flops_of_the_small_trunk_by_hand() -> None:
    """3×3 convolutions at 16², 16², 8², 8², 4² and 4²; backward twice the forward, but for the first layer's images."""
    shapes = [(3, 16, 16), (16, 16, 16), (16, 32, 8), (32, 32, 8), (32, 64, 4), (64, 64, 4)]
    convolutions = [2 * 9 * inputs * outputs * side**2 for inputs, outputs, side in shapes]
    heads = 2 * 2 * 64 * 4
    an_image = 3 * (sum(convolutions) + heads) - convolutions[0]
    config = TrainConfig(preset="small", noisy_batch=16, clean_batch=4, device="cpu", method=PAPER)
    assert step_flops(config, num_classes=4) == pytest.approx(20 * an_image, rel=1e-3)


def test_a_clean_batch_of_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="less than 2 clean ones"):
        measure_step_costs(TINY, shares=[0.1], num_classes=4, rounds=1, steps=1)
    with pytest.raises(SystemExit) as stop:
        finish(step_cost.main, ["--shares", "0.001", "--device", "cpu"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (step_cost, ("--shares", "nan")),
        (step_cost, ("--shares", "inf")),
        (step_cost, ("--shares", "-1")),
        (step_cost, ("--preset", "tiny")),
        (step_cost, ("--trunk", "vgg")),
        (step_cost, ("--noisy-batch", "1")),
        (step_cost, ("--device", "tpu")),
        (step_cost, ("--threads", "0")),
        (step_cost, ("--out", "a")),  # it prints
        (throughput, ("--preset", "tiny")),
        (throughput, ("--trunk", "vgg")),
        (throughput, ("--images", "0")),
        (throughput, ("--device", "tpu")),
        (throughput, ("--threads", "0")),
        (throughput, ("--out", "a")),
        (decode, ("--device", "tpu")),
        (decode, ("--workers", "0")),
        (demo_data, ("--seeds", "0")),
        (demo_data, ("--seeds", "some")),
    ],
)
def test_bad_arguments_of_what_prints_are_one_line(
    command: ModuleType, wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        finish(command.main, wrong)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert wrong[-1] in printed.err
    assert printed.out == ""


def test_the_step_costs_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--device cpu --noisy-batch 8 --shares 0.5 --classes 4 --rounds 2 --steps 1"
    assert step_cost.main(arguments.split()) == 0
    printed = capsys.readouterr().out
    assert "CPU time, 2 rounds of 1 steps" in printed
    assert "| paper" in printed
    assert "1.500" in printed


def test_scoring_is_held_against_the_bare_pass(capsys: pytest.CaptureFixture[str]) -> None:
    found = measure_throughput(TINY, images=20, rounds=2)
    assert found[0].name == BARE
    assert found[0].share.median == 1.0
    assert len({each.name for each in found}) == len(found) == 5
    assert throughput.main(["--device", "cpu", "--images", "8", "--rounds", "1"]) == 0
    assert "from Parquet, decoding" in capsys.readouterr().out
