"""What rows say of how their methods were configured."""

import json
from dataclasses import replace

from benchmarks.results import Row
from benchmarks.switches import switch_lines
from fasten_model.train import OURS, PAPER, TrainConfig


def row(method: str, config: TrainConfig, *, dataset: str = "digits", switches: bool = True) -> Row:
    said = {name: value for name, value in config.described().items() if switches or not name.startswith("method.")}
    return Row(noise="own", seed=config.seed, method=method, dataset=dataset, config=json.dumps(said))


def test_switches_are_told_by_the_nearer_method_and_what_differs_from_it() -> None:
    rows = [
        row("published", TrainConfig(method=PAPER)),
        row("folded", TrainConfig(method=replace(PAPER, folds=2, estimator="clean_decayed"))),
        row("ours", TrainConfig(method=OURS)),
        row("by count", TrainConfig(method=replace(OURS, clean_loss_weight=None))),
    ]
    assert switch_lines(rows) == [
        "- published: PAPER",
        "- folded: PAPER, but estimator clean_decayed, folds 2",
        "- ours: OURS",
        "- by count: OURS, but clean_loss_weight None",
    ]


def test_seed_epochs_and_device_are_no_configuration_and_a_method_without_switches_has_no_line() -> None:
    configs = [TrainConfig(seed=0, epochs=2, device="cpu"), TrainConfig(seed=1, epochs=3)]
    assert switch_lines([row("ce", config, switches=False) for config in configs]) == []


def test_another_batch_is_told_beside_the_other_rows_of_the_same_data() -> None:
    usual, quarter = TrainConfig(method=OURS), TrainConfig(method=OURS, clean_batch=16)
    rows = [row("ours", usual), row("ours", replace(usual, seed=1)), row("quarter", quarter)]
    assert switch_lines(rows) == ["- ours: OURS", "- quarter: OURS; preset.clean_batch 16"]
    elsewhere = [row("ours", TrainConfig(method=OURS, horizontal_flip=True), dataset="photographs")]
    assert switch_lines([*rows, *elsewhere]) == switch_lines(rows)


def test_rows_of_one_method_that_differ_have_a_line_each() -> None:
    rows = [row("ours", TrainConfig(method=method)) for method in (OURS, replace(OURS, rho=0.9), OURS)]
    assert switch_lines(rows) == ["- ours: OURS", "- ours: OURS, but rho 0.9"]


def test_a_switch_that_the_code_does_not_have_any_more_is_told() -> None:
    config = TrainConfig(method=OURS).described() | {"method.gone": 3}
    assert switch_lines([Row(noise="own", seed=0, method="old", config=json.dumps(config))]) == [
        "- old: OURS, but gone 3"
    ]
