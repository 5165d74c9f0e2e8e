"""The loss against a slow float64 transcription of the paper, and by its properties."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fasten_model.loss import cross_entropy, evidence_loss, forward_loss, resampling_weights, soft_cross_entropy
from fasten_model.transition import log_evidence, smooth_transition

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())


def slow_evidence_loss(logits: Array, evidence: Array) -> float:
    """−log Σ_i p_i·e_i of one sample: logits and evidence (not its logarithm) [K]."""
    return -float(np.log(sum(p * e for p, e in zip(softmax(logits), evidence, strict=True))))


def slow_forward_loss(logits: Array, labels: Array, transition: Array) -> Array:
    """−log (Tᵀp)[ȳ], sample by sample, with the product written out."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        noisy = transition.T @ softmax(row)
        losses.append(-np.log(noisy[int(label)]))
    return np.array(losses)


def gradient_of(loss: Tensor, logits: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return gradient


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """(logits [B,K], labels [B], transition [K,K]), from near-uniform to near-certain."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, num_classes = draw(st.integers(1, 9)), draw(st.integers(2, 12))
    spread, sharpness = draw(st.sampled_from([0.1, 3.0, 15.0])), draw(st.sampled_from([0.5, 4.0]))
    logits = spread * torch.randn(batch, num_classes, generator=generator)
    labels = torch.randint(num_classes, (batch,), generator=generator)
    raw = sharpness * torch.randn(num_classes, num_classes, generator=generator)
    return logits, labels, torch.softmax(raw, dim=1)


@st.composite
def opinions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """(logits [B,K], T of each annotator [R,K,K], votes [B,R] with −1 among them)."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, num_classes, annotators = draw(st.integers(1, 6)), draw(st.integers(2, 7)), draw(st.integers(1, 4))
    logits = draw(st.sampled_from([0.1, 3.0])) * torch.randn(batch, num_classes, generator=generator)
    transitions = torch.softmax(2 * torch.randn(annotators, num_classes, num_classes, generator=generator), dim=2)
    return logits, transitions, torch.randint(-1, num_classes, (batch, annotators), generator=generator)


@given(cases())
@settings(max_examples=50)
def test_forward_loss_equals_the_float64_transcription(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    expected = slow_forward_loss(logits.double().numpy(), labels.numpy(), transition.double().numpy())
    np.testing.assert_allclose(forward_loss(logits, labels, transition).numpy(), expected, rtol=2e-4, atol=2e-5)


@given(opinions())
@settings(max_examples=50)
def test_evidence_of_several_annotators_multiplies_and_silence_says_nothing(
    case: tuple[Tensor, Tensor, Tensor],
) -> None:
    logits, transitions, votes = case
    loss = evidence_loss(logits, log_evidence(transitions, votes))
    for row, said, found in zip(logits.double().numpy(), votes.tolist(), loss.tolist(), strict=True):
        evidence = np.ones(len(row))
        for annotator, label in enumerate(said):
            if label >= 0:
                evidence *= transitions[annotator, :, label].double().numpy()
        np.testing.assert_allclose(found, slow_evidence_loss(row, evidence), rtol=2e-4, atol=2e-5)


@given(cases())
@settings(max_examples=50)
def test_one_vote_is_the_same_as_one_label(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    loss = evidence_loss(logits, log_evidence(transition[None], labels[:, None]))
    assert torch.equal(loss, forward_loss(logits, labels, transition))


@given(cases())
@settings(max_examples=30)
def test_a_sample_without_a_vote_has_no_loss_and_no_gradient(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    logits.requires_grad_()
    nobody = torch.full((len(labels), 1), -1)
    loss = evidence_loss(logits, log_evidence(transition[None], nobody))
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient_of(loss, logits), torch.zeros_like(logits), rtol=0, atol=1e-5)


@given(cases())
@settings(max_examples=50)
def test_gradient_of_the_forward_loss_is_p_minus_posterior(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    logits.requires_grad_()
    gradients = gradient_of(forward_loss(logits, labels, transition), logits)
    for row, label, gradient in zip(logits.detach().double().numpy(), labels, gradients, strict=True):
        p = softmax(row)
        joint = transition.double().numpy()[:, int(label)] * p
        np.testing.assert_allclose(gradient.numpy(), p - joint / joint.sum(), atol=2e-5)


@given(opinions())
@settings(max_examples=25)
def test_gradient_of_the_evidence_loss_is_p_minus_q_and_what_central_differences_find(
    case: tuple[Tensor, Tensor, Tensor],
) -> None:
    logits, transitions, votes = case
    log_e = log_evidence(transitions, votes)
    logits.requires_grad_()
    gradients = gradient_of(evidence_loss(logits, log_e), logits).numpy()
    step = 1e-6
    for row, log_evidences, gradient in zip(logits.detach().double().numpy(), log_e, gradients, strict=True):
        p, evidence = softmax(row), np.exp(log_evidences.double().numpy())
        q = p * evidence / (p * evidence).sum()
        np.testing.assert_allclose(gradient, p - q, atol=2e-5)
        for label in range(len(row)):
            up, down = row.copy(), row.copy()
            up[label] += step
            down[label] -= step
            difference = (slow_evidence_loss(up, evidence) - slow_evidence_loss(down, evidence)) / (2 * step)
            np.testing.assert_allclose(gradient[label], difference, atol=2e-5)


@given(cases())
@settings(max_examples=50)
def test_identity_transition_is_cross_entropy(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, _ = case
    logits.requires_grad_()
    loss = forward_loss(logits, labels, torch.eye(logits.shape[1]))
    plain = functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(loss, cross_entropy(logits, labels))
    torch.testing.assert_close(gradient_of(loss, logits), gradient_of(plain, logits), rtol=1e-4, atol=1e-6)


@given(cases(), st.integers(0, 2**31))
@settings(max_examples=50)
def test_renaming_the_classes_does_not_change_the_losses(case: tuple[Tensor, Tensor, Tensor], seed: int) -> None:
    logits, labels, transition = case
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(seed))
    new_logits, new_labels, new_transition = logits[:, order], order.argsort()[labels], transition[order][:, order]
    renamed = forward_loss(new_logits, new_labels, new_transition)
    torch.testing.assert_close(renamed, forward_loss(logits, labels, transition), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cross_entropy(new_logits, new_labels), cross_entropy(logits, labels))
    weights = [
        resampling_weights(z, log_evidence(t[None], y[:, None]), y)
        for z, y, t in ((logits, labels, transition), (new_logits, new_labels, new_transition))
    ]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-6)


@given(cases())
@settings(max_examples=30)
def test_uniform_transition_says_nothing_of_the_image(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    uniform = smooth_transition(transition, 1.0)
    logits.requires_grad_()
    loss = forward_loss(logits, labels, uniform)
    torch.testing.assert_close(loss, torch.full_like(loss, float(np.log(logits.shape[1]))))
    torch.testing.assert_close(gradient_of(loss, logits), torch.zeros_like(logits), rtol=0, atol=1e-5)


@given(cases())
@settings(max_examples=50)
def test_soft_targets_are_cross_entropy_in_expectation_with_the_gradient_p_minus_target(
    case: tuple[Tensor, Tensor, Tensor],
) -> None:
    logits, labels, transition = case
    logits.requires_grad_()
    targets = transition[labels]  # any rows that sum to 1
    loss = soft_cross_entropy(logits, targets)
    each = torch.stack([cross_entropy(logits, torch.full_like(labels, k)) for k in range(logits.shape[1])], dim=1)
    torch.testing.assert_close(loss, (targets * each).sum(dim=1), rtol=1e-4, atol=1e-5)
    expected = torch.softmax(logits, dim=1) - targets
    torch.testing.assert_close(gradient_of(loss, logits), expected, rtol=1e-4, atol=1e-5)
    certain = functional.one_hot(labels, logits.shape[1])
    torch.testing.assert_close(soft_cross_entropy(logits, certain), cross_entropy(logits, labels))


@given(cases())
@settings(max_examples=50)
def test_resampling_weights_are_p_of_the_label_over_what_t_makes_of_p(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, transition = case
    logits.requires_grad_()
    weights = resampling_weights(logits, log_evidence(transition[None], labels[:, None]), labels)
    assert not weights.requires_grad
    for row, label, weight in zip(logits.detach().double().numpy(), labels.tolist(), weights.tolist(), strict=True):
        p = softmax(row)
        expected = p[label] / (transition.double().numpy().T @ p)[label]
        np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-6)


def test_forward_loss_is_finite_where_the_product_would_underflow() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]])
    transition = smooth_transition(torch.eye(3), 1e-3)
    expected = -np.log(1e-3 / 3)
    loss = forward_loss(logits, torch.tensor([1]), transition)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)


def test_neither_certainty_nor_many_annotators_underflow() -> None:
    """p and the evidence are each beyond what fp32 holds; their logarithms are not."""
    certain = 1e4 * torch.tensor([[1.0, -1.0, -1.0]]).requires_grad_()
    wrong = torch.tensor([1])
    loss = forward_loss(certain, wrong, torch.eye(3))
    torch.testing.assert_close(loss, cross_entropy(certain, wrong))
    assert loss.item() == pytest.approx(2e4)
    assert gradient_of(loss, certain).tolist() == [[1.0, -1.0, 0.0]]
    crowd = smooth_transition(torch.eye(3), 1e-6).expand(30, 3, 3)
    against = evidence_loss(certain, log_evidence(crowd, torch.ones(1, 30, dtype=torch.int64)))
    assert against.item() == pytest.approx(-30 * np.log(1e-6 / 3), rel=1e-4)
    assert torch.isfinite(gradient_of(against, certain)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [1e-6, 1e-3])
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_extreme_logits_leave_every_loss_and_gradient_finite(
    dtype: torch.dtype, smoothing: float, num_classes: int
) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = 1e4 * torch.sign(torch.randn(64, num_classes, generator=generator))
    logits[0], logits[1] = -1e4, 1e4
    logits[2], logits[2, 0] = -1e4, 1e4
    logits = logits.to(dtype).requires_grad_()
    labels = torch.randint(num_classes, (64,), generator=generator)
    transition = smooth_transition(torch.eye(num_classes), smoothing)
    evidence = log_evidence(transition[None], labels[:, None])
    targets = torch.softmax(torch.randn(64, num_classes, generator=generator), dim=1)
    for loss in (
        forward_loss(logits, labels, transition),
        evidence_loss(logits, evidence),
        cross_entropy(logits, labels),
        soft_cross_entropy(logits, targets),
    ):
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss).all()
        gradient = gradient_of(loss, logits)
        assert torch.isfinite(gradient).all()
        assert (gradient.abs() <= 1).all(), "p − q lies between −1 and 1"
    weights = resampling_weights(logits, evidence, labels)
    assert (torch.isfinite(weights) & (weights >= 0)).all()


def test_the_losses_are_computed_in_fp32_from_half_precision_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator).bfloat16()
    labels, targets = torch.tensor([0, 1, 2, 0]), torch.softmax(torch.randn(4, 3, generator=generator), dim=1)
    transition = smooth_transition(torch.eye(3), 1e-3)
    for loss, exact in (
        (forward_loss(logits, labels, transition), forward_loss(logits.float(), labels, transition)),
        (cross_entropy(logits, labels), cross_entropy(logits.float(), labels)),
        (soft_cross_entropy(logits, targets), soft_cross_entropy(logits.float(), targets)),
    ):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Elements of the largest tensor that any operation has returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_a_thousand_classes_take_no_tensor_of_the_size_of_the_batch_times_t() -> None:
    batch, num_classes = 512, 1000
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, num_classes, generator=generator).requires_grad_()
    labels = torch.randint(num_classes, (batch,), generator=generator)
    transition = torch.softmax(torch.randn(num_classes, num_classes, generator=generator), dim=1)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        loss = forward_loss(logits, labels, transition)
        gradient = gradient_of(loss, logits)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()
    assert largest.elements == num_classes**2, "log T itself; B·K is smaller, B·K² 512 times that"
