"""Training as a whole: every switch, determinism, bad luck, and that it learns."""

import logging
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.images.augment import normalize
from fasten_model.network import TwoHeadNetwork
from fasten_model.predict import predict_logits
from fasten_model.presets import PRESETS
from fasten_model.train import OURS, PAPER, EpochMetrics, Method, TrainConfig, TrainingSet, train, train_cross_entropy
from fasten_model.train.averaging import AveragedWeights
from fasten_model.train.optimizer import learning_rate
from fasten_model.train.plan import noisy_epoch
from fasten_model.transition import estimate_transition, identity_transition

CONFIG = TrainConfig(epochs=2, noisy_batch=16, clean_batch=6, image_size=8, device="cpu")
COLOURS = torch.tensor([[220, 40, 40], [40, 220, 40], [40, 40, 220]])


def squares(*, noisy: int = 48, clean: int = 12, **changes: Any) -> TrainingSet:
    """Red, green and blue squares, each its own shade; a quarter of the noisy labels name the next colour."""
    generator = torch.Generator().manual_seed(0)

    def images(labels: Tensor) -> Tensor:
        shades = torch.randint(-40, 36, (len(labels), 3, 8, 8), generator=generator)
        return (COLOURS[labels][:, :, None, None] + shades).clamp(0, 255).byte()

    truth, clean_labels = torch.arange(noisy) % 3, torch.arange(clean) % 3
    wrong = torch.rand(noisy, generator=generator) < 0.25
    values: dict[str, Any] = {
        "noisy_images": images(truth),
        "noisy_labels": torch.where(wrong, (truth + 1) % 3, truth),
        "clean_images": images(clean_labels),
        "clean_labels": clean_labels,
        "clean_estimates": torch.ones(clean, dtype=torch.bool),
        "num_classes": 3,
    }
    return TrainingSet(**{**values, **changes})


def with_annotators() -> TrainingSet:
    """The same with three answers a sample: one who is always right, one who guesses, one who often says nothing."""
    generator = torch.Generator().manual_seed(1)

    def answers(truth: Tensor) -> Tensor:
        guess, silent = (torch.randint(high, truth.shape, generator=generator) for high in (3, 2))
        return torch.stack([truth, guess, torch.where(silent == 0, -1, truth)], dim=1)

    return squares(votes=answers(torch.arange(48) % 3), clean_votes=answers(torch.arange(12) % 3))


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


NUMBERS: dict[str, tuple[float | None, ...]] = {
    "noisy_loss_weight": (None, 0.0, 1.0),
    "clean_loss_weight": (None, 0.0, 0.5, 1.0),
    "smoothing": (1e-6, 1.0),
    "memory": (0.1, 5.0),
    "prior_strength": (1e-3, 1e3),
    "folds": (2, 3),
    "pair_weight": (0.0, 5.0),
    "pooled_strength": (1.0,),
    "annotator_strength": (1.0,),
    "rho": (0.0, 0.5, 1.5),
    "correction_start": (0.0, 1.0),
    "average_momentum": (0.0, 1.0),
    "ema": (0.9,),
    "fresh_passes": (None, 0.5),
}
HINTS = get_type_hints(Method)
CHOICES = {name: (False, True) if hint is bool else get_args(hint) for name, hint in HINTS.items()}
SWITCHES = {field.name: NUMBERS.get(field.name, CHOICES[field.name]) for field in fields(Method)}
"""Values of every field: each of a choice's, some of a number's."""
BESIDE: dict[str, dict[str, Any]] = {
    "estimator": {"noisy_loss_weight": 0.5},
    "noisy_loss_weight": {"estimator": "bulk"},
    "folds": {"estimator": "clean_decayed", "noisy_loss_weight": 0.5},
    "evaluation_features": {"estimator": "clean_decayed", "noisy_loss_weight": 0.5},
    "correction": {"noisy_head_labels": "original"},
    "visits": {"noisy_head_labels": "original"},
    "discounted": {"fresh_passes": None},
    "fresh_passes": {"discounted": True},
}
"""What another switch has to be for all values of one to mean something."""


def test_every_number_has_values_to_be_tried_with() -> None:
    assert NUMBERS.keys() == {name for name, hint in HINTS.items() if {int, float} & {hint, *get_args(hint)}}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_value_of_a_switch_trains_both_from_ours_and_from_the_references(name: str) -> None:
    data = with_annotators()
    for base in (OURS, PAPER):
        for value in SWITCHES[name]:
            change: dict[str, Any] = {**BESIDE.get(name, {}), name: value}
            trained = train(data, replace(CONFIG, method=replace(base, **change)))
            losses = [(m.loss, m.forward_loss, m.clean_loss, m.noisy_loss) for m in trained.history]
            assert torch.tensor(losses).isfinite().all()
            assert weights(trained.network).isfinite().all()
            torch.testing.assert_close(trained.transition.sum(dim=1), torch.ones(3))
            torch.testing.assert_close(trained.transitions.sum(dim=2), torch.ones(trained.transitions.shape[:2]))
            assert set(trained.corrected_labels.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("method", [OURS, PAPER, replace(OURS, loss="resample")], ids=["ours", "paper", "resample"])
def test_the_same_seed_gives_the_same_model_and_another_seed_another(method: Method) -> None:
    one, same, other = (train(squares(), replace(CONFIG, method=method, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(weights(one.network), weights(same.network))
    assert torch.equal(one.transition, same.transition)
    assert torch.equal(one.corrected_labels, same.corrected_labels)
    assert not torch.equal(weights(one.network), weights(other.network))


def test_training_leaves_the_callers_random_state_tensors_and_trunk_alone() -> None:
    data, trunk = squares(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    labels, before, trunk_before = data.noisy_labels.clone(), torch.random.get_rng_state(), weights(trunk)
    method = replace(PAPER, rho=0.0, loss="resample")
    trained = train(data, replace(CONFIG, method=method), trunk=trunk)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(data.noisy_labels, labels)
    assert not torch.equal(trained.corrected_labels, labels)
    assert torch.equal(weights(trunk), trunk_before)
    assert not torch.equal(weights(trained.network.trunk), trunk_before)


def test_rho_above_one_leaves_every_label_and_rho_zero_trains_on_what_the_model_says() -> None:
    data = squares()
    for method in (PAPER, replace(PAPER, correction="posterior", noisy_head_labels="original")):
        never, always = (train(data, replace(CONFIG, method=replace(method, rho=rho))) for rho in (1.01, 0.0))
        assert torch.equal(never.corrected_labels, data.noisy_labels)
        assert all(metrics.corrected == 0 for metrics in never.history)
        share = (always.corrected_labels != data.noisy_labels).float().mean().item()
        assert always.history[-1].corrected == pytest.approx(share)
        assert share > 0


def test_the_references_t_is_of_corrected_labels_from_the_audited_samples_of_the_trained_network() -> None:
    data = squares(clean_estimates=torch.arange(12) % 4 != 0)
    trained = train(data, replace(CONFIG, method=PAPER))
    _, logits = predict_logits(trained.network, data.clean_images)
    expected = estimate_transition(identity_transition(3), logits, data.clean_labels, data.clean_estimates)
    torch.testing.assert_close(trained.transition, expected)


def test_reviewed_samples_train_but_do_not_estimate() -> None:
    """A row of T̂ that only reviewed samples could fill stays the identity's, yet their labels move the network."""
    data, config = squares(), replace(CONFIG, method=PAPER)
    estimates = data.clean_labels != 2
    reviewed = train(replace(data, clean_estimates=estimates), config)
    assert reviewed.transition[2].tolist() == [0, 0, 1]
    assert 0 < reviewed.transition[0, 0] < 1
    relabeled = torch.where(estimates, data.clean_labels, 0)
    other = train(replace(data, clean_estimates=estimates, clean_labels=relabeled), config)
    assert not torch.equal(weights(reviewed.network), weights(other.network))


def test_annotators_who_are_told_apart_have_a_t_each() -> None:
    data = with_annotators()
    method = replace(OURS, estimator="bulk", annotators=True, pairs=True, annotator_strength=5.0)
    right, guesses, _ = train(data, replace(CONFIG, epochs=6, method=method)).transitions
    assert right.diagonal().mean() > guesses.diagonal().mean() + 0.2
    together = train(data, replace(CONFIG, method=replace(method, annotators=False)))
    assert together.transitions.shape == (1, 3, 3)


def test_an_average_of_the_weights_is_what_predicts() -> None:
    shown: list[Tensor] = []
    config = replace(CONFIG, method=replace(PAPER, ema=0.9))
    averaged = train(squares(), config, observer=lambda _, network: shown.append(weights(network)))
    last = train(squares(), replace(CONFIG, method=PAPER))
    assert [metrics.loss for metrics in averaged.history] == [metrics.loss for metrics in last.history]
    assert not torch.allclose(weights(averaged.network), weights(last.network), atol=1e-4)
    assert torch.equal(shown[-1], weights(averaged.network))
    assert not averaged.network.training


def test_averaged_weights_forget_the_first_steps_faster_than_their_decay() -> None:
    network = TwoHeadNetwork(nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.BatchNorm1d(2)), 2, 2)
    average = AveragedWeights(network, 0.5)
    expected = {name: value.double() for name, value in network.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(step - 3.0)
        network(torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(step)))  # moves BatchNorm's statistics
        average.update(network, step)
        kept = min(0.5, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            new = value.double()
            expected[name] = kept * expected[name] + (1 - kept) * new if value.is_floating_point() else new
    for name, value in average.network.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("sampling", ["shuffled", "balanced"])
def test_prior_correction_keeps_an_imbalanced_clean_set_from_teaching_its_class_frequencies(sampling: Any) -> None:
    """Images that tell nothing, so that all that can be learnt is how frequent the classes are."""
    labels = torch.tensor([0] * 18 + [1] * 6)
    data = TrainingSet(
        noisy_images=torch.full((96, 3, 8, 8), 128, dtype=torch.uint8),
        noisy_labels=torch.arange(96) % 2,
        clean_images=torch.full((24, 3, 8, 8), 128, dtype=torch.uint8),
        clean_labels=labels,
        clean_estimates=torch.ones(24, dtype=torch.bool),
        num_classes=2,
    )
    method = replace(
        PAPER, estimator="bulk", clean_loss_weight=1.0, noisy_loss_weight=0.0, clean_sampling=sampling
    )  # fmt: skip

    def learnt(*, prior_correction: bool) -> float:
        config = replace(
            CONFIG, epochs=15, lr=0.03, clean_batch=12, method=replace(method, prior_correction=prior_correction)
        )
        trained = train(data, config, trunk=nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)))
        return torch.softmax(predict_logits(trained.network, data.noisy_images[:1])[0], dim=1)[0, 0].item()

    frequency = 0.75 if sampling == "shuffled" else 0.5
    assert learnt(prior_correction=False) == pytest.approx(frequency, abs=0.06)
    assert learnt(prior_correction=True) == pytest.approx(0.5, abs=0.06)


def test_a_class_without_an_audited_sample_is_told_and_trained_through(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fasten_model"):
        train(squares(clean=2), CONFIG)
    assert "1 of 3 classes have no sample audited at random (first: class 2)" in caplog.text


@pytest.mark.parametrize("method", [OURS, PAPER], ids=["ours", "paper"])
@pytest.mark.parametrize(("noisy", "clean"), [(2, 1), (3, 2), (17, 1), (40, 60)])
def test_sets_smaller_or_larger_than_a_batch_train(noisy: int, clean: int, method: Method) -> None:
    trained = train(squares(noisy=noisy, clean=clean), replace(CONFIG, method=method))
    assert trained.corrected_labels.shape == (noisy,)
    assert weights(trained.network).isfinite().all()


@pytest.mark.parametrize("method", [OURS, PAPER], ids=["ours", "paper"])
def test_the_smallest_batch_leaves_no_sample_alone(method: Method) -> None:
    trained = train(squares(noisy=5, clean=3), replace(CONFIG, noisy_batch=2, clean_batch=2, method=method))
    assert weights(trained.network).isfinite().all()


def test_progress_reaches_the_caller_the_observer_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[EpochMetrics] = []
    seen: list[int] = []
    with caplog.at_level(logging.INFO, logger="fasten_model"):
        trained = train(squares(), CONFIG, on_epoch=heard.append, observer=lambda epoch, _: seen.append(epoch))
    assert tuple(heard) == trained.history
    assert [(metrics.epoch, metrics.epochs) for metrics in heard] == [(1, 2), (2, 2)]
    assert seen == [1, 2]
    assert "epoch 2/2: loss" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"loss": "resample"},
        {"correction": "average", "noisy_head_labels": "original"},
        {"estimator": "bulk_posterior"},
        {"ema": 0.9},
    ],
    ids=str,
)
def test_divergence_is_one_clear_line(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"training diverged in epoch \d+ .*lower lr") as caught:
        train(squares(), replace(CONFIG, lr=1e30, epochs=5, method=replace(PAPER, **change)))
    assert "\n" not in str(caught.value)


def test_a_trunk_that_never_said_a_number_is_not_blamed_on_the_learning_rate() -> None:
    class Lost(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3)) / (images.std() < 1e-3)  # it is tried with images of zeros

    sets = squares()
    held_out = replace(sets, held_out_images=sets.clean_images, held_out_labels=sets.clean_labels)
    with pytest.raises(
        DataError, match=r"^the network says nothing finite before it has learnt .*: look at its trunk$"
    ):
        train(held_out, replace(CONFIG, method=OURS), trunk=Lost())


def test_an_unknown_device_says_what_to_use() -> None:
    with pytest.raises(DataError, match="use auto, cpu or cuda"):
        train(squares(), replace(CONFIG, device="quantum"))


def test_a_small_set_is_visited_more_often_unless_the_number_of_epochs_is_chosen() -> None:
    preset = replace(PRESETS["small"], epochs=2, least_steps=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", preset)
        small = train(squares(), replace(CONFIG, epochs=None))
        chosen = train(squares(), replace(CONFIG, epochs=1))
    assert len(small.history) == 4, "48 samples in batches of 16 are 3 steps an epoch"
    assert len(chosen.history) == 1


# --- cross-entropy, the baseline


def test_cross_entropy_of_one_sample_is_refused() -> None:
    with pytest.raises(DataError, match="only one noisy sample to train on"):
        train_cross_entropy(squares().noisy_images[:1], torch.tensor([0]), 3, CONFIG)  # type: ignore[arg-type]


def test_cross_entropy_takes_labels_as_they_are() -> None:
    data = squares()
    images = data.noisy_images
    assert isinstance(images, Tensor)
    trained = train_cross_entropy(images, data.noisy_labels, 3, replace(CONFIG, epochs=4))
    assert torch.equal(trained.corrected_labels, data.noisy_labels)
    assert torch.equal(trained.transition, torch.eye(3))
    assert trained.history[-1].loss < trained.history[0].loss
    with torch.no_grad():
        assert trained.network(normalize(images))[0].isfinite().all()
    with pytest.raises(DataError, match="training labels must be from 0 to 1, found 2"):
        train_cross_entropy(images, data.noisy_labels, 2, CONFIG)


# --- which samples make up a step


def test_every_epoch_visits_every_sample_once_in_batches_of_one_size() -> None:
    for epoch in range(3):
        batches = noisy_epoch(20, 8, seed=0, epoch=epoch)
        assert [len(batch) for batch in batches] == [7, 7, 6]
        assert torch.cat(batches).sort().values.tolist() == list(range(20))
    assert not torch.equal(noisy_epoch(20, 8, seed=0, epoch=0)[0], noisy_epoch(20, 8, seed=0, epoch=1)[0])


def test_schedules_follow_their_description() -> None:
    step, one_cycle = PRESETS["resnet34"], PRESETS["small"]
    rates = [learning_rate(epoch, 70, step) for epoch in (0, 49, 50, 59, 60, 69)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    rates = [learning_rate(number, 100, one_cycle) for number in range(100)]
    assert max(rates) == pytest.approx(one_cycle.lr)
    assert rates.index(max(rates)) in (14, 15)
    assert 0 < rates[-1] < 0.02 * one_cycle.lr


# --- that it learns


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
    fasten, reference = train(data, config), train(data, replace(config, method=PAPER))
    assert isinstance(data.noisy_images, Tensor)
    baseline = train_cross_entropy(data.noisy_images, data.noisy_labels, 10, config)
    accuracy, published, plain = (
        (predict_logits(trained.network, images)[0].argmax(dim=1) == truth).float().mean().item()
        for trained in (fasten, reference, baseline)
    )
    assert accuracy > 0.95
    assert min(accuracy, published) > plain + 0.03
    assert reference.history[-1].corrected == pytest.approx(0.3, abs=0.06)
