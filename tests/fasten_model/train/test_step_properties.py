"""FastenStep by property: what may and what may not change what it leaves, under any switches."""

from dataclasses import replace
from typing import Any, Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasten_model.train import Method
from fasten_model.train.method import Correction, Estimator
from tests.fasten_model.train.one_step import Run, gradients_move, random_set


@st.composite
def methods(draw: st.DrawFn) -> Method:
    estimator: Estimator = draw(st.sampled_from(get_args(Estimator)))
    from_bulk = estimator in ("bulk", "bulk_posterior")
    noisy_head_labels: Literal["original", "corrected"] = draw(st.sampled_from(["original", "corrected"]))
    knows_originals = from_bulk or noisy_head_labels == "original"
    visits = knows_originals and draw(st.booleans())
    return Method(
        forwards=draw(st.sampled_from(["separate", "joint"])),
        noisy_loss_weight=draw(st.sampled_from([0.0, 0.5] if from_bulk else [0.2, 0.5])),
        clean_loss_weight=draw(st.sampled_from([None, 0.3])),
        prior_correction=draw(st.booleans()),
        clean_sampling=draw(st.sampled_from(["shuffled", "balanced"])),
        estimator=estimator,
        evaluation_features=not from_bulk and draw(st.booleans()),
        folds=1 if from_bulk else draw(st.sampled_from([1, 2])),
        pairs=draw(st.booleans()),
        annotators=draw(st.booleans()),
        noisy_head_labels=noisy_head_labels,
        correction=draw(st.sampled_from(get_args(Correction) if knows_originals else ["confidence", "none"])),
        visits=visits,
        rho=draw(st.sampled_from([0.0, 0.5, 2.0])),
        correction_start=draw(st.sampled_from([0.0, 0.5])),
    )


@given(methods(), st.sampled_from([2, 4]), st.integers(0, 2**31))
@settings(max_examples=25)
def test_renaming_the_classes_renames_everything_that_training_leaves(method: Method, count: int, seed: int) -> None:
    data = random_set(seed, num_classes=count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    new = order.argsort()

    def renamed(labels: Tensor | None) -> Tensor:
        assert labels is not None
        return torch.where(labels >= 0, new[labels.clamp(min=0)], labels)

    names = ("noisy_labels", "clean_labels", "votes", "clean_votes")
    labels: dict[str, Any] = {name: renamed(getattr(data, name)) for name in names}
    changed = replace(data, **labels)
    one, other = Run.of(data, method), Run.of(changed, method)
    with torch.no_grad():
        for head in (other.loop.network.clean_head, other.loop.network.noisy_head):
            head.weight.copy_(head.weight[order].clone())
            head.bias.copy_(head.bias[order].clone())
    history, other_history = one.whole(), other.whole()
    for epoch, other_epoch in zip(history, other_history, strict=True):
        assert other_epoch.loss == pytest.approx(epoch.loss, rel=1e-3, abs=1e-4)
    assert torch.equal(other.step.corrected_labels(), new[one.step.corrected_labels()])
    transitions = one.step.estimate.each()[:, order][:, :, order]
    torch.testing.assert_close(other.step.estimate.each(), transitions, rtol=1e-2, atol=1e-4)
    for logits, other_logits in zip(one.logits(one.noisy), other.logits(one.noisy), strict=True):
        torch.testing.assert_close(other_logits, logits[:, order], rtol=1e-2, atol=1e-3)


@given(methods(), st.integers(0, 2**31))
@settings(max_examples=25)
def test_shuffling_the_clean_batch_changes_nothing(method: Method, seed: int) -> None:
    data = random_set(seed)
    one, other = Run.of(data, method), Run.of(data, method)
    noisy, clean = list(range(6)), [0, 5, 6, 2, 11, 7]
    shuffled = [clean[place] for place in torch.randperm(6, generator=torch.Generator().manual_seed(seed)).tolist()]
    losses, other_losses = one.once(noisy, clean), other.once(noisy, shuffled)
    for name in ("total", "forward", "clean", "noisy"):
        torch.testing.assert_close(getattr(other_losses, name), getattr(losses, name))
    torch.testing.assert_close(other.step.estimate.each(), one.step.estimate.each())
    assert not gradients_move(one.gradients(losses), other.gradients(other_losses))


@given(methods(), st.sampled_from([2, 5, 40, 1000]), st.integers(0, 2**31))
@settings(max_examples=25)
def test_every_t_in_training_is_a_positive_distribution_and_every_loss_is_finite(
    method: Method, count: int, seed: int
) -> None:
    data = random_set(seed, num_classes=count, clean=6)
    run = Run.of(data, method)
    history = run.whole()
    assert all(torch.tensor([m.loss, m.forward_loss, m.clean_loss, m.noisy_loss]).isfinite().all() for m in history)
    each = run.step.estimate.each()
    assert each.shape == (3 if method.annotators and method.counts_bulk else 1, count, count)
    torch.testing.assert_close(each.sum(dim=-1), torch.ones(each.shape[:2]))
    assert (each > 0).all()
