"""FastenStep's clean batch: which samples train and which estimate T̂, and how."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fasten_model.images.augment import normalize
from fasten_model.train import Method, TrainingSet
from fasten_model.transition import estimate_transition, identity_transition
from tests.fasten_model.train.one_step import (
    PLAIN,
    Run,
    gradients_move,
    in_memory,
    random_set,
)


def test_a_class_missing_from_the_clean_batch_keeps_its_row() -> None:
    data = random_set(clean_labels=torch.arange(12) % 3, clean_estimates=torch.ones(12, dtype=torch.bool))
    run = Run.of(data, PLAIN)
    run.once([0, 1], [0, 1, 3, 4])  # classes 0 and 1
    first = run.step.estimate.shared()
    assert first[2].tolist() == [0, 0, 1]
    assert first[0, 0] < 1
    with torch.no_grad():
        run.loop.network.noisy_head.bias.add_(torch.tensor([1.0, 0.0, -1.0]))
    run.once([0, 1], [2, 5])  # class 2 alone
    second = run.step.estimate.shared()
    assert torch.equal(second[:2], first[:2])
    assert second[2, 2] < 1


def test_a_review_trains_but_never_estimates() -> None:
    _every_clean_sample(
        replace(PLAIN, clean_loss_weight=0.5),
        step=0,
        expected=lambda data, sample: (True, bool(data.clean_estimates[sample])),
    )


def test_with_folds_a_sample_either_estimates_or_trains_in_an_epoch_and_each_gets_its_turn() -> None:
    turns: dict[int, list[bool]] = {}
    for epoch in range(3):
        for step in (3 * epoch, 3 * epoch + 2):  # 18 samples in batches of 6: three steps in an epoch
            roles = _every_clean_sample(replace(PLAIN, folds=3), step=step, expected=None)
            assert sum(estimates for _, estimates in roles.values()) == 4, "a third of twelve"
            for sample, (trains, estimates) in roles.items():
                assert trains is not estimates
                turns.setdefault(sample, []).append(estimates)
    assert all(turn[::2] == turn[1::2] for turn in turns.values()), "the same throughout an epoch"
    assert [sum(turn[::2]) for turn in turns.values()] == [1] * 12, "one epoch of three"


def test_the_folds_that_train_weigh_what_the_whole_clean_batch_does() -> None:
    data = random_set(clean_labels=torch.arange(12) % 3, clean_estimates=torch.ones(12, dtype=torch.bool))
    for folds in (1, 2, 3):
        run = Run.of(data, replace(PLAIN, folds=folds))
        torch.nn.init.zeros_(run.loop.network.clean_head.weight)
        torch.nn.init.zeros_(run.loop.network.clean_head.bias)
        assert run.once(list(range(6)), list(range(12))).clean.item() == pytest.approx(math.log(3))


def _every_clean_sample(
    method: Method, *, step: int, expected: Callable[[TrainingSet, int], tuple[bool, bool]] | None
) -> dict[int, tuple[bool, bool]]:
    """By clean sample: whether another image in its place changes (the gradient, T̂)."""
    clean_estimates = torch.ones(12, dtype=torch.bool) if expected is None else torch.arange(12) % 4 != 0
    # Labels under a uniform T̂ say nothing, so that T̂ reaches the gradient through nothing but the clean batch.
    data = random_set(clean_estimates=clean_estimates, clean_labels=torch.arange(12) % 3)
    method = replace(method, smoothing=1.0)

    def outcome(data: TrainingSet) -> tuple[dict[str, Tensor], Tensor]:
        run = Run.of(data, method)
        losses = run.once(list(range(6)), list(range(12)), step=step)
        return run.gradients(losses), run.step.estimate.shared()

    gradients, transition = outcome(data)
    roles = {}
    for sample in range(12):
        images = in_memory(data.clean_images).clone()
        images[sample] = 255 - images[sample]
        new_gradients, new_transition = outcome(replace(data, clean_images=images))
        moved = not torch.allclose(new_transition, transition, rtol=0, atol=1e-6)
        roles[sample] = (gradients_move(gradients, new_gradients), moved)
        assert expected is None or roles[sample] == expected(data, sample)
    return roles


def test_clean_features_in_evaluation_mode_estimate_and_leave_training_mode_on() -> None:
    data = random_set(clean_estimates=torch.ones(12, dtype=torch.bool))
    clean = list(range(12))
    run = Run.of(data, replace(PLAIN, evaluation_features=True), batch_norm=True)
    before = {name: value.clone() for name, value in run.loop.network.state_dict().items()}
    run.once([0, 1, 2], clean)
    assert run.loop.network.training
    after_training_forwards = run.loop.network.eval()
    with torch.no_grad():
        logits = after_training_forwards(normalize(run.clean))[1]
    expected = estimate_transition(identity_transition(3), logits, data.clean_labels, data.clean_estimates)
    torch.testing.assert_close(run.step.estimate.shared(), expected)
    plain = Run.of(data, PLAIN, batch_norm=True)
    plain.once([0, 1, 2], clean)
    assert not torch.allclose(plain.step.estimate.shared(), expected)
    counted = run.loop.network.state_dict()["trunk.2.num_batches_tracked"] - before["trunk.2.num_batches_tracked"]
    assert counted == 2, "the forward in evaluation mode leaves the running statistics alone"
