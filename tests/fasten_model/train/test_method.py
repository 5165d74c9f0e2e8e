"""The choices a training is made with: what is refused, what the preset fills in, and that the reference's are its."""

from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest

from fasten_model.errors import DataError
from fasten_model.train import OURS, PAPER, Method, TrainConfig

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        *({name: "other"} for name in ("forwards", "clean_sampling", "estimator", "loss", "correction")),
        {"noisy_head_labels": "given"},
        *({name: value} for name in ("rho", "noisy_loss_weight", "pair_weight") for value in (-0.1, NAN, INFINITY)),
        *(
            {name: value}
            for name in ("memory", "prior_strength", "pooled_strength", "annotator_strength")
            for value in (0.0, -1.0, NAN, INFINITY)
        ),
        *(
            {name: value}
            for name in ("correction_start", "average_momentum", "ema", "clean_loss_weight")
            for value in (-0.1, 1.1, NAN)
        ),
        *({"smoothing": value} for value in (0.0, -1e-3, 1.1, NAN)),
        *({"folds": value} for value in (0, -1, 1.5)),
        *({name: "0.5"} for name in ("rho", "memory", "ema", "smoothing")),
        *({name: None} for name in ("rho", "memory", "ema", "smoothing")),
        {"visits": "no"},
    ],
    ids=str,
)
def test_a_senseless_switch_is_refused_in_one_line_by_name(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(DataError, match=rf"^{name} must be .*, got ") as caught:
        Method(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "changes", "way_out"),
    [
        (OURS, {"folds": 2}, "leave folds at 1, or set estimator to clean_decayed"),
        (OURS, {"evaluation_features": True}, "leave evaluation_features at False, or set estimator to clean_decayed"),
        (
            OURS,
            {"estimator": "bulk", "folds": 3},
            "folds 3 is about clean batches that estimate T̂, and ",
        ),
        (OURS, {"discounted": False}, "^fresh_passes 60.0 is .*: set fresh_passes to None, or discounted to True"),
        (PAPER, {"fresh_passes": 7.0}, "^fresh_passes 7.0 is .*: set fresh_passes to None, or discounted to True"),
        (PAPER, {"noisy_loss_weight": 0.0}, "set noisy_loss_weight to 0.5, or estimator to bulk_posterior"),
        (OURS, {"loss": "resample", "correction": "average"}, "choose loss forward, or correction posterior, "),
        (OURS, {"loss": "resample", "correction": "ensemble"}, "choose loss forward, or correction posterior, "),
        *(
            (PAPER, {"correction": correction}, "set noisy_head_labels to original, or estimator to bulk_posterior")
            for correction in ("posterior", "average", "ensemble")
        ),
    ],
    ids=str,
)
def test_a_switch_that_would_do_nothing_beside_another_is_refused_with_what_to_change(
    base: Method, changes: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(DataError, match=way_out) as caught:
        replace(base, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"rho": 0.0}, {"rho": 2.0}, {"noisy_loss_weight": 0.0}, {"pair_weight": 0.0}, {"smoothing": 1.0},
     {"clean_loss_weight": 0.0}, {"clean_loss_weight": 1.0}, {"correction_start": 1.0}, {"ema": 1.0}],
    ids=str,
)  # fmt: skip
def test_the_ends_of_a_range_belong_to_it(changes: dict[str, Any]) -> None:
    Method(**changes)


def test_every_number_of_a_method_is_checked() -> None:
    """A field that is added without a check shows here."""
    hints = get_type_hints(Method)
    for field in fields(Method):
        if float in (hints[field.name], *get_args(hints[field.name])):
            senseless: dict[str, Any] = {field.name: NAN}
            with pytest.raises(DataError, match=field.name):
                Method(**senseless)


def test_a_choice_that_is_refused_lists_those_there_are() -> None:
    with pytest.raises(DataError, match=r"correction must be one of confidence, posterior, .*none, got 'argmax'"):
        Method(correction="argmax")  # type: ignore[arg-type]


def test_the_references_switches_are_those_of_its_paper_and_code() -> None:
    """method.md, section 2: nothing that is ours is on."""
    reference = {
        "forwards": "separate", "noisy_loss_weight": 0.5, "clean_loss_weight": None, "discounted": False,
        "fresh_passes": None,
        "clean_sampling": "balanced",
        "prior_correction": False, "estimator": "clean_batch", "evaluation_features": False, "folds": 1, "pairs": False,
        "annotators": False, "loss": "forward", "noisy_head_labels": "corrected", "correction": "confidence",
        "rho": 0.8, "correction_start": 0.0, "ema": 0.0,
    }  # fmt: skip
    assert {name: getattr(PAPER, name) for name in reference} == reference
    assert PAPER.smoothing <= 1e-5, "only so that log T is finite"
    settings = TrainConfig(preset="paper").settings()
    assert (settings.trunk, settings.epochs, settings.noisy_batch, settings.clean_batch) == ("resnet34", 70, 100, 100)
    assert (settings.optimizer, settings.lr, settings.momentum, settings.weight_decay) == ("sgd", 0.1, 0.9, 5e-4)
    assert (settings.nesterov, settings.schedule) == (False, "step")
    assert (settings.crop_padding, settings.crop_fill, settings.horizontal_flip) == (4, "zero", True)


def test_the_preset_decides_the_method_unless_one_is_chosen() -> None:
    assert TrainConfig(preset="paper").switches() == PAPER
    assert TrainConfig(preset="small").switches() == OURS
    chosen = replace(PAPER, rho=0.5)
    assert TrainConfig(preset="small", method=chosen).switches() == chosen
    assert TrainConfig(preset="paper", method=OURS).switches() == OURS


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "tiny"}, {"epochs": 0}, {"epochs": 1.5}, {"noisy_batch": 1}, {"clean_batch": 0}, {"image_size": 0},
        {"lr": 0.0}, {"lr": -1.0}, {"lr": NAN}, {"lr": INFINITY}, {"weight_decay": -1.0}, {"weight_decay": NAN},
        {"lr": "1e-3"}, {"weight_decay": "0"}, {"epochs": True}, {"seed": None}, {"seed": 1.5}, {"method": "paper"},
        {"horizontal_flip": "no"}, {"compile": "no"}, {"cuda_graphs": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_senseless_setting_is_refused_in_one_line_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(changes))) as caught:
        TrainConfig(**changes)
    assert "\n" not in str(caught.value)


def test_settings_are_the_presets_with_what_was_chosen_put_in() -> None:
    chosen = TrainConfig(preset="resnet34", epochs=3, lr=0.2, horizontal_flip=True).settings()
    preset = TrainConfig(preset="resnet34").settings()
    assert chosen == replace(preset, epochs=3, lr=0.2, horizontal_flip=True, least_steps=0)
    assert TrainConfig(preset="paper", horizontal_flip=False).settings().horizontal_flip is False


def test_every_choice_is_described_with_nothing_left_to_a_default() -> None:
    described = TrainConfig(preset="paper", epochs=3, method=replace(PAPER, rho=0.7), seed=9).described()
    assert (described["preset.epochs"], described["preset.lr"], described["method.rho"]) == (3, 0.1, 0.7)
    assert (described["preset"], described["seed"]) == ("paper", 9)
    assert {f"method.{field.name}" for field in fields(Method)} <= described.keys()
    put_in = set(described) | {name.removeprefix("preset.") for name in described}
    assert {field.name for field in fields(TrainConfig)} - {"method"} <= put_in
