"""The loss against a slow float64 transcription of the paper, and by its properties."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fasten_model.loss import cross_entropy, fasten_loss, forward_loss
from fasten_model.transition import smooth_transition

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())


def slow_forward_loss(logits: Array, labels: Array, transition: Array) -> Array:
    """−log (Tᵀp)[ȳ], sample by sample, with the product written out."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        noisy = transition.T @ softmax(row)
        losses.append(-np.log(noisy[int(label)]))
    return np.array(losses)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """(logits [B,K], labels [B], transition [K,K]) in float64, from near-uniform to near-certain."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, num_classes = draw(st.integers(1, 9)), draw(st.integers(2, 12))
    spread, sharpness = draw(st.sampled_from([0.1, 3.0, 15.0])), draw(st.sampled_from([0.5, 4.0]))
    logits = spread * torch.randn(batch, num_classes, generator=generator)
    labels = torch.randint(num_classes, (batch,), generator=generator)
    raw = sharpness * torch.randn(num_classes, num_classes, generator=generator)
    return logits, labels, torch.softmax(raw, dim=1)


@given(cases())
def test_forward_loss_equals_the_float64_transcription(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    expected = slow_forward_loss(logits.double().numpy(), labels.numpy(), transition.double().numpy())
    np.testing.assert_allclose(forward_loss(logits, labels, transition).numpy(), expected, rtol=2e-4, atol=2e-5)


@given(cases())
def test_gradient_of_the_forward_loss_is_p_minus_posterior(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    logits.requires_grad_()
    forward_loss(logits, labels, transition).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    for row, label, gradient in zip(logits.detach().double().numpy(), labels, logits.grad, strict=True):
        p = softmax(row)
        joint = transition.double().numpy()[:, int(label)] * p
        np.testing.assert_allclose(gradient.numpy(), p - joint / joint.sum(), atol=2e-5)


@given(cases())
def test_identity_transition_is_cross_entropy(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, _ = case
    loss = forward_loss(logits, labels, torch.eye(logits.shape[1]))
    torch.testing.assert_close(loss, functional.cross_entropy(logits, labels, reduction="none"))
    torch.testing.assert_close(loss, cross_entropy(logits, labels))


@given(cases(), st.integers(0, 2**31))
def test_renaming_the_classes_does_not_change_the_loss(case: tuple[Tensor, Tensor, Tensor], seed: int) -> None:
    logits, labels, transition = case
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(seed))
    renamed = forward_loss(logits[:, order], order.argsort()[labels], transition[order][:, order])
    torch.testing.assert_close(renamed, forward_loss(logits, labels, transition), rtol=1e-4, atol=1e-5)


@given(cases())
def test_uniform_transition_says_nothing_of_the_image(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    num_classes = logits.shape[1]
    uniform = smooth_transition(transition, 1.0)
    logits.requires_grad_()
    loss = forward_loss(logits, labels, uniform)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, torch.full_like(loss, float(np.log(num_classes))))
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-5)


def test_forward_loss_is_finite_where_the_product_would_underflow() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]])
    transition = smooth_transition(torch.eye(3), 1e-3)
    expected = -np.log(1e-3 / 3)
    loss = forward_loss(logits, torch.tensor([1]), transition)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)


def test_forward_loss_is_computed_in_fp32_from_half_precision_logits() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([0, 1, 2, 0])
    loss = forward_loss(logits, labels, smooth_transition(torch.eye(3), 1e-3))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, forward_loss(logits.float(), labels, smooth_transition(torch.eye(3), 1e-3)))


def test_fasten_loss_weighs_noisy_and_clean_samples_alike_and_adds_lambda_times_the_noisy_head() -> None:
    forward, clean, noisy = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0]), torch.tensor([4.0, 6.0, 8.0])
    assert fasten_loss(forward, clean, noisy, 0.5).item() == (1 + 2 + 3 + 10) / 4 + 0.5 * 6
