"""Posterior and transition of the original labels, against loops in float64."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fasten_model.posterior import posterior, soft_count_transition


@st.composite
def bulks(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """(probabilities [N,K], given labels [N] with −1 among them)."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, num_classes = draw(st.integers(0, 25)), draw(st.integers(2, 7))
    probabilities = torch.softmax(3 * torch.randn(count, num_classes, generator=generator), dim=1)
    return probabilities, torch.randint(-1, num_classes, (count,), generator=generator)


def some_transition(num_classes: int) -> Tensor:
    return torch.softmax(2 * torch.randn(num_classes, num_classes, generator=torch.Generator().manual_seed(5)), dim=1)


@given(bulks())
def test_posterior_is_bayes_rule(bulk: tuple[Tensor, Tensor]) -> None:
    probabilities, given_labels = bulk
    transition = some_transition(probabilities.shape[1])
    found = posterior(probabilities, transition, given_labels)
    for p, label, q in zip(probabilities.double().numpy(), given_labels.tolist(), found.numpy(), strict=True):
        joint = p * transition.double().numpy()[:, label] if label >= 0 else p
        np.testing.assert_allclose(q, joint / joint.sum(), atol=1e-6)


@given(bulks(), st.floats(0, 2))
def test_the_given_label_counts_as_often_as_it_is_told_to(bulk: tuple[Tensor, Tensor], evidence: float) -> None:
    probabilities, given_labels = bulk
    transition = some_transition(probabilities.shape[1])
    found = posterior(probabilities.double(), transition, given_labels, evidence)
    known = given_labels >= 0
    joint = probabilities.double().log() + evidence * transition.double().log().t()[given_labels.clamp(min=0)]
    torch.testing.assert_close(found[known], torch.softmax(joint, dim=1)[known], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found[~known], probabilities.double()[~known])


@given(bulks())
def test_identity_transition_makes_the_given_label_certain_and_uniform_ignores_it(bulk: tuple[Tensor, Tensor]) -> None:
    probabilities, given_labels = bulk
    num_classes = probabilities.shape[1]
    known = given_labels >= 0
    certain = posterior(probabilities, torch.eye(num_classes), given_labels)
    assert torch.equal(certain[known].argmax(dim=1), given_labels[known])
    uniform = torch.full((num_classes, num_classes), 1 / num_classes)
    torch.testing.assert_close(posterior(probabilities, uniform, given_labels), probabilities)


def test_posterior_falls_back_to_p_where_the_label_is_impossible() -> None:
    p = torch.tensor([[1.0, 0.0]])
    assert torch.equal(posterior(p, torch.eye(2), torch.tensor([1])), p)


@given(bulks(), st.floats(0.5, 500), st.booleans(), st.integers(0, 2))
def test_soft_counts_joined_with_pairs_equal_the_dirichlet_posterior_mean(
    bulk: tuple[Tensor, Tensor], strength: float, with_pairs: bool, rounds: int
) -> None:
    probabilities, given_labels = bulk
    num_classes = probabilities.shape[1]
    pairs = torch.tensor([[0, 1], [0, 0], [1, 1], [1, -1]]) if with_pairs else None
    found = soft_count_transition(probabilities, given_labels, num_classes, strength, pairs, rounds).double().numpy()
    if rounds:  # each counts the posterior under the T of the round before
        before = soft_count_transition(probabilities.double(), given_labels, num_classes, strength, pairs, rounds - 1)
        probabilities = posterior(probabilities.double(), before, given_labels)

    counts = np.zeros((num_classes, num_classes))
    for p, label in zip(probabilities.double().numpy(), given_labels.tolist(), strict=True):
        for true in range(num_classes):
            if label >= 0:
                counts[true, label] += p[true]
    agreement = (np.trace(counts) + 1) / (counts.sum() + 2)
    for true in range(num_classes):
        row = counts[true] + [
            agreement if label == true else (1 - agreement) / (num_classes - 1) for label in range(num_classes)
        ]
        row /= row.sum()
        if with_pairs:
            direct = np.zeros(num_classes)
            for pair_true, label in [(0, 1), (0, 0), (1, 1)]:
                direct[label] += pair_true == true
            row = (strength * row + direct) / (strength + direct.sum())
        np.testing.assert_allclose(found[true], row, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found > 0).all()


def test_transition_of_known_noise_is_recovered_from_a_good_model() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(4, (20_000,), generator=generator)
    transition = 0.6 * torch.eye(4) + 0.4 * torch.eye(4).roll(1, dims=1)
    given_labels = torch.multinomial(transition[truth], 1, generator=generator).squeeze(1)
    found = soft_count_transition(torch.eye(4)[truth], given_labels, 4)
    torch.testing.assert_close(found, transition, rtol=0, atol=0.02)


def test_an_unsure_model_does_not_smear_the_transition_once_q_is_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(4, (20_000,), generator=generator)
    logits = 2 * torch.eye(4)[truth] + torch.randn(20_000, 4, generator=generator)
    probabilities = torch.softmax(2 * logits, dim=1)  # calibrated: 2·z is log p(z | class) up to a constant
    transition = 0.6 * torch.eye(4) + 0.4 * torch.eye(4).roll(1, dims=1)
    given_labels = torch.multinomial(transition[truth], 1, generator=generator).squeeze(1)
    error = [
        float((soft_count_transition(probabilities, given_labels, 4, rounds=rounds) - transition).abs().mean())
        for rounds in (0, 1, 2, 30)
    ]
    assert error == sorted(error, reverse=True)
    assert error[1] < 0.7 * error[0]
    assert error[-1] < 0.02


def test_pairs_outweigh_a_wrong_model_as_they_grow_in_number() -> None:
    wrong_model = torch.full((1000, 2), 0.5)
    given_labels = torch.arange(1000) % 2
    pairs = torch.tensor([[0, 0], [1, 1]]).repeat(500, 1)
    found = soft_count_transition(wrong_model, given_labels, 2, 10.0, pairs)
    assert found.diagonal().min() > 0.98
