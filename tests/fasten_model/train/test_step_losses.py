"""FastenStep's losses: what each is a mean over, and which weights it moves."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fasten_model.loss import cross_entropy
from fasten_model.train import Method
from fasten_model.train.batch import Batch
from tests.fasten_model.train.one_step import PLAIN, Run, pixels, random_set


def test_the_total_is_the_mean_over_both_batches_and_lambda_times_the_noisy_heads() -> None:
    data = random_set()
    noisy, clean = list(range(6)), [1, 2, 3, 9]
    for weight, share in ((None, 4 / 10), (0.25, 0.25), (0.0, 0.0), (1.0, 1.0)):
        method = replace(PLAIN, noisy_loss_weight=0.7, clean_loss_weight=weight)
        losses = Run.of(data, method).once(noisy, clean)
        expected = (1 - share) * losses.forward + share * losses.clean + 0.7 * losses.noisy
        torch.testing.assert_close(losses.total.detach(), expected)


def test_each_loss_moves_the_head_it_belongs_to() -> None:
    data = random_set()
    noisy, clean = list(range(6)), [1, 2, 3, 9]
    plain = replace(PLAIN, estimator="bulk")
    run = Run.of(data, replace(plain, noisy_loss_weight=0.0))
    found = run.gradients(run.once(noisy, clean))
    assert found["noisy_head.weight"].abs().max() == 0
    assert found["clean_head.weight"].abs().max() > 0
    both, half = (
        run.gradients(run.once(noisy, clean))
        for run in (Run.of(data, replace(plain, noisy_loss_weight=weight)) for weight in (1.0, 0.5))
    )
    assert both["noisy_head.weight"].abs().max() > 0
    expected = both["noisy_head.weight"] / 2
    torch.testing.assert_close(half["noisy_head.weight"], expected, msg="T̂ is a constant: nothing is heard through it")
    torch.testing.assert_close(both["clean_head.weight"], found["clean_head.weight"])
    assert not torch.allclose(both["trunk.1.weight"], found["trunk.1.weight"]), "the noisy head's loss moves the trunk"


def test_one_pass_over_both_batches_differs_from_two_by_batch_norm_alone() -> None:
    data = random_set()
    for batch_norm in (False, True):
        totals = [
            Run.of(data, replace(PLAIN, forwards=forwards), batch_norm=batch_norm).once([0, 1, 2], [4, 5]).total.item()
            for forwards in ("separate", "joint")
        ]
        assert (totals[0] == pytest.approx(totals[1], rel=1e-5)) is not batch_norm


def test_resampling_is_cross_entropy_over_a_batch_drawn_by_the_weights() -> None:
    data = random_set(votes=None, clean_votes=None)
    run = Run.of(data, replace(PLAIN, loss="resample"))
    index = list(range(6))
    each = cross_entropy(run.logits(run.noisy[index])[0], data.noisy_labels[index])
    seen = {round(run.once(index, [1, 2, 3], step=step).forward.item(), 5) for step in range(6)}
    assert len(seen) > 1, "another draw in each step"
    assert all(each.min() - 1e-4 <= loss <= each.max() + 1e-4 for loss in seen)
    again = Run.of(data, replace(PLAIN, loss="resample"))
    first = again.once(index, [1, 2, 3]).forward
    assert torch.equal(first, Run.of(data, replace(PLAIN, loss="resample")).once(index, [1, 2, 3]).forward)


def test_resampling_leaves_labels_that_p_rules_out_undrawn() -> None:
    data = random_set(votes=None, clean_votes=None, noisy_labels=torch.tensor([0, 1] * 9))
    run = Run.of(data, replace(PLAIN, loss="resample"))
    with torch.no_grad():
        run.loop.network.clean_head.weight.zero_()
        run.loop.network.clean_head.bias.copy_(torch.tensor([30.0, 0.0, 0.0]))
    assert run.once(list(range(6)), [1, 2, 3]).forward.item() == pytest.approx(0, abs=1e-4)


def test_resampling_draws_a_corrected_sample_as_often_as_an_average_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """E over ȳ of p[ȳ]/(T̂ᵀp)[ȳ] is 1: a label that is taken to be right weighs that, whatever it was corrected from."""
    data = random_set(votes=None, clean_votes=None, noisy_labels=torch.tensor([0, 1, 2] * 6))
    run = Run.of(data, Method(loss="resample", rho=0.999, correction_start=0.0))
    drawn_by: list[Tensor] = []

    def noted(weights: Tensor, _: Batch) -> Tensor:
        drawn_by.append(weights)
        return torch.ones_like(weights)

    monkeypatch.setattr(run.step, "_draws", noted)
    index = list(range(6))
    for bias in (30.0, 0.0, 0.0):  # sure of class 1; then of nothing, on labels as the last visit left them
        with torch.no_grad():
            run.loop.network.clean_head.weight.zero_()
            run.loop.network.clean_head.bias.copy_(torch.tensor([0.0, bias, 0.0]))
        transition = run.step.estimate.each()[0]
        run.once(index, [1, 2, 3])
    assert drawn_by[1].tolist() == [1.0] * 6, "corrected at the visit before"
    p = torch.full((3,), 1 / 3)
    original = data.noisy_labels[index]
    expected = p[original] / (transition.t() @ p)[original]
    torch.testing.assert_close(drawn_by[2], expected)


def test_a_noisy_head_of_which_nothing_is_asked_is_left_as_it_was() -> None:
    run = Run.of(random_set(), Method(noisy_loss_weight=0.0))
    before = run.loop.network.noisy_head.weight.clone()
    history = run.whole()
    assert torch.equal(run.loop.network.noisy_head.weight, before), "neither moved nor decayed"
    assert [metrics.noisy_loss for metrics in history] == [0.0] * len(history)


def test_weights_follow_the_share_of_held_out_samples_that_is_predicted_rightly() -> None:
    """30 held out, all of them of one class: before each epoch but the first, a is half what it was and half what is
    seen, with ten samples that count as right."""
    data = random_set(held_out_images=pixels(30, torch.Generator()), held_out_labels=torch.zeros(30).long())
    run = Run.of(data, replace(PLAIN, noisy_loss_weight=None))
    a = 1.0
    for epoch, (predicted, seen) in enumerate([(1, None), (1, 10 / 40), (0, 1.0), (2, 10 / 40)]):
        with torch.no_grad():
            run.loop.network.clean_head.weight.zero_()
            run.loop.network.clean_head.bias.copy_(30 * torch.eye(3)[predicted])
        a = a if seen is None else (a + seen) / 2
        for step in (3 * epoch, 3 * epoch + 1):  # an epoch's first, which asks, and one that does not
            losses = run.once(list(range(6)), [1, 2, 3, 9], step=step)
            share = 0.5 * (1 + a) / 2
            expected = (1 - share) * losses.forward + share * losses.clean + 2 * (1 - a) * losses.noisy
            torch.testing.assert_close(losses.total.detach(), expected / (1 + 2 * (1 - a)))


@pytest.mark.parametrize(("fresh", "left"), [(None, 1.0), (100.0, 1.0), (4 / 3, 1.0), (1 / 6, 1 / 8)])
def test_what_cannot_be_told_of_others_weighs_less_where_clean_samples_are_seen_often(
    fresh: float | None, left: float
) -> None:
    """A batch has three of nine audited samples and one of three reviewed: four steps pass over them 4/3 times, eight
    times a sixth. a is about ½."""
    data = random_set(held_out_images=pixels(30, torch.Generator()), held_out_labels=torch.zeros(30).long())
    run = Run.of(data, replace(PLAIN, estimator="bulk", noisy_loss_weight=0.0, fresh_passes=fresh))
    with torch.no_grad():
        run.loop.network.clean_head.weight.zero_()
        run.loop.network.clean_head.bias.copy_(30 * torch.eye(3)[1])
    losses = run.once(list(range(6)), [1, 2, 3, 9], step=3)
    a = (1 + 10 / 40) / 2
    share = 0.5 * (1 + a) / 2 * left ** (2 * (1 - a))
    torch.testing.assert_close(losses.total.detach(), (1 - share) * losses.forward + share * losses.clean)


def test_weights_are_the_methods_own_where_it_does_not_ask_or_nothing_is_held_out() -> None:
    held_out: dict[str, Any] = {
        "held_out_images": pixels(30, torch.Generator()),
        "held_out_labels": torch.zeros(30).long(),
    }
    fixed = replace(PLAIN, noisy_loss_weight=0.3, discounted=False, fresh_passes=None)
    for data, method, noisy_weight in (
        (random_set(**held_out), fixed, 0.3),
        (random_set(), replace(PLAIN, noisy_loss_weight=0.3), 0.3),
        (random_set(), PLAIN, 0.0),
    ):
        losses = Run.of(data, method).once(list(range(6)), [1, 2, 3, 9], step=3)
        expected = 0.5 * losses.forward + 0.5 * losses.clean + noisy_weight * losses.noisy
        torch.testing.assert_close(losses.total.detach(), expected)
    assert Run.of(random_set(**held_out), fixed).step.state()["accuracy"] == 1
