"""T̂ against a per-class loop in float64, and by its properties."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fasten_model.transition import estimate_transition, identity_transition, smooth_transition


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy logits [C,K], clean labels [C], estimates [C]); classes may be absent, estimates may be all False."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, num_classes = draw(st.integers(1, 30)), draw(st.integers(2, 8))
    logits = 4 * torch.randn(count, num_classes, generator=generator)
    labels = torch.randint(num_classes, (count,), generator=generator)
    return logits, labels, torch.rand(count, generator=generator) < draw(st.sampled_from([0.0, 0.6, 1.0]))


def previous_transition(num_classes: int) -> Tensor:
    return torch.softmax(torch.randn(num_classes, num_classes, generator=torch.Generator().manual_seed(1)), dim=1)


@given(batches())
def test_each_row_is_the_mean_over_the_clean_samples_of_its_class(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, estimates = batch
    previous = previous_transition(logits.shape[1])
    found = estimate_transition(previous, logits, labels, estimates).numpy()
    exponentials = np.exp(logits.double().numpy())
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    for label in range(logits.shape[1]):
        members = probabilities[(labels.numpy() == label) & estimates.numpy()]
        expected = members.mean(axis=0) if len(members) else previous[label].numpy()
        np.testing.assert_allclose(found[label], expected, atol=1e-6)


@given(batches(), st.floats(1e-6, 1.0))
def test_rows_sum_to_one_before_and_after_smoothing(batch: tuple[Tensor, Tensor, Tensor], smoothing: float) -> None:
    logits, labels, estimates = batch
    transition = estimate_transition(identity_transition(logits.shape[1]), logits, labels, estimates)
    smooth = smooth_transition(transition, smoothing)
    ones = torch.ones(logits.shape[1])
    torch.testing.assert_close(transition.sum(dim=1), ones)
    torch.testing.assert_close(smooth.sum(dim=1), ones)
    assert (smooth > 0).all()


@given(batches())
def test_the_order_of_the_batch_does_not_matter(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, estimates = batch
    previous = previous_transition(logits.shape[1])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    shuffled = estimate_transition(previous, logits[order], labels[order], estimates[order])
    torch.testing.assert_close(shuffled, estimate_transition(previous, logits, labels, estimates))


@given(batches())
def test_renaming_the_classes_renames_rows_and_columns(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, estimates = batch
    previous = previous_transition(logits.shape[1])
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(3))
    renamed = estimate_transition(previous[order][:, order], logits[:, order], order.argsort()[labels], estimates)
    torch.testing.assert_close(renamed, estimate_transition(previous, logits, labels, estimates)[order][:, order])


def test_a_class_absent_from_the_batch_keeps_its_previous_row() -> None:
    previous = previous_transition(3)
    found = estimate_transition(previous, torch.zeros(2, 3), torch.tensor([0, 0]), torch.tensor([True, True]))
    torch.testing.assert_close(found[0], torch.full((3,), 1 / 3))
    assert torch.equal(found[1:], previous[1:])


def test_samples_not_drawn_at_random_do_not_estimate() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    labels = torch.tensor([0, 0])
    only_first = estimate_transition(identity_transition(2), logits, labels, torch.tensor([True, False]))
    torch.testing.assert_close(only_first[0], torch.softmax(logits[0], dim=0))


def test_the_estimate_carries_no_gradient() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    found = estimate_transition(identity_transition(2), logits, torch.tensor([0, 1]), torch.tensor([True, True]))
    assert not found.requires_grad
