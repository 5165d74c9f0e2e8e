"""Training as a whole: one step transcribed by hand, determinism, bad input, and that it learns."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from fasten_model.errors import DataError
from fasten_model.images.augment import normalize
from fasten_model.loss import forward_loss
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.predict import predict_logits
from fasten_model.presets import PRESETS
from fasten_model.train import EpochMetrics, TrainConfig, TrainingSet, train, train_cross_entropy
from fasten_model.train.fasten import _clean_batches
from fasten_model.train.loop import Loop, StepLosses, learning_rate

CONFIG = TrainConfig(epochs=2, noisy_batch=8, clean_batch=6, device="cpu")
NO_IMAGES = torch.empty(0, 3, 16, 16, dtype=torch.uint8)


def random_set(*, noisy: int = 20, clean: int = 9, num_classes: int = 3, **changes: Any) -> TrainingSet:
    generator = torch.Generator().manual_seed(0)
    fields: dict[str, Any] = {
        "noisy_images": torch.randint(256, (noisy, 3, 16, 16), dtype=torch.uint8, generator=generator),
        "noisy_labels": torch.arange(noisy) % num_classes,
        "clean_images": torch.randint(256, (clean, 3, 16, 16), dtype=torch.uint8, generator=generator),
        "clean_labels": torch.arange(clean) % num_classes,
        "clean_estimates": torch.ones(clean, dtype=torch.bool),
        "num_classes": num_classes,
    }
    return TrainingSet(**{**fields, **changes})


def weights(network: TwoHeadNetwork) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_one_step_equals_the_paper_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One full batch, no augmentation: losses and T̂ against numpy in float64 on the same initial network."""
    monkeypatch.setattr("fasten_model.train.loop.random_crop", lambda images, _padding, _generator: images)
    estimates = torch.tensor([True, True, True, True, False, True])
    data = random_set(noisy=8, clean=6, clean_estimates=estimates)
    config = replace(CONFIG, epochs=1, smoothing=1e-2, seed=5)
    metrics = train(data, config).history[0]

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = build_network("small", 3).double()
    with torch.no_grad():
        noisy_out = [logits.numpy() for logits in network(normalize(data.noisy_images).double())]
        clean_out = [logits.numpy() for logits in network(normalize(data.clean_images).double())]
    p, p_bar = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in noisy_out)
    p_d, p_bar_d = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in clean_out)
    y, y_bar = data.clean_labels.numpy(), data.noisy_labels.numpy()
    transition = np.stack([p_bar_d[(y == i) & estimates.numpy()].mean(axis=0) for i in range(3)])
    smooth = 0.99 * transition + 0.01 / 3
    forward = [-np.log((smooth.T @ p[b])[y_bar[b]]) for b in range(8)]
    clean = [-np.log(p_d[d, y[d]]) for d in range(6)]
    noisy = [-np.log(p_bar[b, y_bar[b]]) for b in range(8)]

    assert metrics.forward_loss == pytest.approx(np.mean(forward), rel=1e-4)
    assert metrics.clean_loss == pytest.approx(np.mean(clean), rel=1e-4)
    assert metrics.noisy_loss == pytest.approx(np.mean(noisy), rel=1e-4)
    assert metrics.loss == pytest.approx(np.mean(forward + clean) + 0.5 * np.mean(noisy), rel=1e-4)
    assert metrics.transition_diagonal == pytest.approx(np.diag(transition).mean(), rel=1e-4)


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    one, same, other = (train(random_set(), replace(CONFIG, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(weights(one.network), weights(same.network))
    assert torch.equal(one.transition, same.transition)
    assert not torch.equal(weights(one.network), weights(other.network))


def test_training_leaves_the_callers_random_state_and_tensors_alone() -> None:
    data = random_set()
    labels, before = data.noisy_labels.clone(), torch.random.get_rng_state()
    train(data, replace(CONFIG, rho=0.0))
    assert torch.equal(data.noisy_labels, labels)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rho_above_one_leaves_every_label_as_it_was() -> None:
    trained = train(random_set(), replace(CONFIG, rho=1.01))
    assert torch.equal(trained.corrected_labels, random_set().noisy_labels)
    assert all(metrics.corrected == 0 for metrics in trained.history)


def test_rho_zero_trains_on_what_the_model_says() -> None:
    trained = train(random_set(), replace(CONFIG, rho=0.0))
    assert trained.history[-1].corrected > 0
    share = (trained.corrected_labels != random_set().noisy_labels).float().mean().item()
    assert trained.history[-1].corrected == pytest.approx(share)


def test_reviewed_samples_train_but_do_not_estimate() -> None:
    """A row of T̂ that only reviewed samples could fill stays the identity's, yet their labels move the network."""
    data = random_set()
    estimates = data.clean_labels != 2
    reviewed = train(random_set(clean_estimates=estimates), CONFIG)
    assert reviewed.transition[2].tolist() == [0, 0, 1]
    assert 0 < reviewed.transition[0, 0] < 1
    torch.testing.assert_close(reviewed.transition.sum(dim=1), torch.ones(3))
    relabeled = torch.where(estimates, data.clean_labels, 0)
    other = train(random_set(clean_estimates=estimates, clean_labels=relabeled), CONFIG)
    assert not torch.equal(weights(reviewed.network), weights(other.network))


def test_each_visit_trains_on_the_last_correction_and_falls_back_to_the_original(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained_on: list[set[int]] = []
    fallbacks: list[set[int]] = []

    def spy_loss(logits: Tensor, labels: Tensor, transition: Tensor) -> Tensor:
        trained_on.append(set(labels.tolist()))
        return forward_loss(logits, labels, transition)

    def always_one(_probabilities: Tensor, original_labels: Tensor, _rho: float) -> Tensor:
        fallbacks.append(set(original_labels.tolist()))
        return torch.ones_like(original_labels)

    monkeypatch.setattr("fasten_model.train.fasten.forward_loss", spy_loss)
    monkeypatch.setattr("fasten_model.train.fasten.correct_labels", always_one)
    trained = train(random_set(noisy=8, noisy_labels=torch.zeros(8).long()), replace(CONFIG, epochs=3))
    assert trained_on == [{0}, {1}, {1}]
    assert fallbacks == [{0}, {0}, {0}]
    assert [metrics.corrected for metrics in trained.history] == [1.0, 1.0, 1.0]


def test_a_class_without_an_audited_sample_is_told_and_trained_through(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fasten_model"):
        train(random_set(clean=2), CONFIG)
    assert "1 of 3 classes have no sample audited at random (first: class 2)" in caplog.text


@pytest.mark.parametrize(("noisy", "clean"), [(2, 1), (3, 2), (9, 1), (17, 40)])
def test_sets_smaller_or_larger_than_a_batch_train(noisy: int, clean: int) -> None:
    trained = train(random_set(noisy=noisy, clean=clean), CONFIG)
    assert trained.corrected_labels.shape == (noisy,)
    assert torch.isfinite(weights(trained.network)).all()


def test_every_epoch_visits_every_sample_once_and_clean_batches_are_always_full() -> None:
    loop = Loop(CONFIG, 3)
    clean_batches = loop.cycle(4, 6)
    drawn = torch.cat([next(clean_batches) for _ in range(4)])
    assert torch.bincount(drawn).tolist() == [6, 6, 6, 6]
    visited: list[Tensor] = []
    zero = torch.zeros(())

    def step(index: Tensor) -> StepLosses:
        visited.append(index)
        return StepLosses(total=loop.network.clean_head.bias.sum(), forward=zero, clean=zero, noisy=zero)

    loop.run(20, step, lambda: (zero, zero), None)
    assert [len(index) for index in visited] == [7, 7, 6] * 2
    for epoch in (visited[:3], visited[3:]):
        assert torch.cat(epoch).sort().values.tolist() == list(range(20))


def test_progress_reaches_the_caller_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[EpochMetrics] = []
    with caplog.at_level(logging.INFO, logger="fasten_model"):
        trained = train(random_set(), CONFIG, on_epoch=heard.append)
    assert tuple(heard) == trained.history
    assert [(metrics.epoch, metrics.epochs) for metrics in heard] == [(1, 2), (2, 2)]
    assert "epoch 2/2: loss" in caplog.text


def test_divergence_is_one_clear_line() -> None:
    with pytest.raises(DataError, match=r"training diverged in epoch \d+ .*lower lr"):
        train(random_set(), replace(CONFIG, lr=1e30, epochs=5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"clean_images": torch.empty(0, 3, 16, 16, dtype=torch.uint8), "clean_labels": torch.empty(0).long()},
            "no clean",
        ),
        (
            {"noisy_images": torch.empty(0, 3, 16, 16, dtype=torch.uint8), "noisy_labels": torch.empty(0).long()},
            "no noisy",
        ),
        ({"num_classes": 1}, "at least two classes"),
        ({"clean_estimates": torch.zeros(9, dtype=torch.bool)}, "no clean sample was audited at random"),
        ({"clean_estimates": torch.ones(4, dtype=torch.bool)}, r"bool \[9\], got bool \[4\]"),
        ({"noisy_labels": torch.full((20,), 3)}, "from 0 to 2, found 3"),
        ({"clean_labels": torch.full((9,), -1)}, "from 0 to 2, found -1"),
        ({"noisy_labels": torch.zeros(19).long()}, r"int64 \[20\], got int64 \[19\]"),
        ({"noisy_images": torch.zeros(20, 3, 16, 16)}, "must be uint8"),
        ({"clean_images": torch.zeros(9, 3, 8, 8, dtype=torch.uint8)}, r"\[9, 3, 8, 8\], noisy ones"),
    ],
)
def test_an_unusable_training_set_is_one_line_of_data_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        random_set(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "tiny"},
        {"epochs": 0},
        {"noisy_batch": 1},
        {"clean_batch": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": -1.0},
        {"rho": -0.1},
        {"noisy_loss_weight": float("inf")},
        {"smoothing": 0.0},
    ],
    ids=str,
)
def test_a_senseless_setting_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(changes))):
        TrainConfig(**changes)


def test_an_unknown_device_says_what_to_use() -> None:
    with pytest.raises(DataError, match="use auto, cpu or cuda"):
        train(random_set(), replace(CONFIG, device="quantum"))


def test_resolved_fills_in_the_preset_and_keeps_what_was_chosen() -> None:
    resolved = TrainConfig(preset="resnet34", epochs=3).resolved()
    assert (resolved.epochs, resolved.noisy_batch, resolved.clean_batch, resolved.lr) == (3, 100, 100, 0.1)


def test_schedules_follow_their_description() -> None:
    step, one_cycle = PRESETS["resnet34"], PRESETS["small"]
    rates = [learning_rate(epoch, 70, step) for epoch in (0, 49, 50, 59, 60, 69)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    rates = [learning_rate(number, 100, one_cycle) for number in range(100)]
    assert max(rates) == pytest.approx(one_cycle.lr)
    assert rates.index(max(rates)) in (14, 15)
    assert 0 < rates[-1] < 0.02 * one_cycle.lr


def asymmetric_digits() -> tuple[TrainingSet, Tensor, Tensor]:
    """1,200 digits of which 30 % carry one particular wrong class, 200 clean; and 397 held out."""
    digits = load_digits()
    images = torch.from_numpy(digits.images * 255 / 16).byte()[:, None].expand(-1, 3, -1, -1)
    images = torch.nn.functional.interpolate(images, size=16, mode="bilinear")
    truth = torch.from_numpy(digits.target).long()
    generator = torch.Generator().manual_seed(0)
    clean, noisy, held_out = torch.split(torch.randperm(len(truth), generator=generator), [200, 1200, 397])
    wrong = torch.rand(len(noisy), generator=generator) < 0.3
    data = TrainingSet(
        noisy_images=images[noisy],
        noisy_labels=torch.where(wrong, (truth[noisy] + 1) % 10, truth[noisy]),
        clean_images=images[clean],
        clean_labels=truth[clean],
        clean_estimates=torch.ones(200, dtype=torch.bool),
        num_classes=10,
    )
    return data, images[held_out], truth[held_out]


def test_on_noisy_digits_fasten_is_well_ahead_of_cross_entropy() -> None:
    data, images, truth = asymmetric_digits()
    config = TrainConfig(epochs=8, device="cpu")
    fasten = train(data, config)
    baseline = train_cross_entropy(data.noisy_images, data.noisy_labels, 10, config)
    accuracy, plain = (
        (predict_logits(trained.network, images)[0].argmax(dim=1) == truth).float().mean().item()
        for trained in (fasten, baseline)
    )
    assert accuracy > 0.95
    assert accuracy > plain + 0.03
    assert fasten.history[-1].corrected == pytest.approx(0.3, abs=0.06)


def test_a_small_set_is_visited_more_often_unless_the_number_of_epochs_is_chosen() -> None:
    preset = replace(PRESETS["small"], epochs=2, least_steps=12)
    data = random_set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", preset)
        small = train(data, replace(CONFIG, epochs=None))
        chosen = train(data, replace(CONFIG, epochs=1))
    assert len(small.history) == 4, "20 samples in batches of 8 are 3 steps an epoch"
    assert len(chosen.history) == 1


def test_reviews_never_crowd_the_audited_samples_out_of_a_clean_batch() -> None:
    loop = Loop(replace(CONFIG, clean_batch=8), 3)
    estimates = torch.tensor([True] * 5 + [False] * 200)
    batches = [next(stream) for stream in [_clean_batches(loop, estimates)] for _ in range(20)]
    assert all(len(batch) == 8 and int(estimates[batch].sum()) == 4 for batch in batches)
    assert len(set(torch.cat(batches).tolist())) == 5 + 80, "every one of both is taken in turn"


def test_a_few_reviews_take_only_their_share_of_a_clean_batch() -> None:
    loop = Loop(replace(CONFIG, clean_batch=8), 3)
    estimates = torch.tensor([True] * 75 + [False] * 25)
    assert int(estimates[next(_clean_batches(loop, estimates))].sum()) == 6
