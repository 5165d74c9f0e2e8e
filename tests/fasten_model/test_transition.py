"""T̂ and the sums it comes from, against loops in float64, and by their properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasten_model.transition import (
    batch_transition,
    bulk_counts,
    clean_counts,
    dirichlet_transition,
    estimate_transition,
    identity_transition,
    log_evidence,
    smooth_transition,
    symmetric_transition,
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy logits [C,K], clean labels [C], estimates [C]); classes may be absent, estimates may be all False."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, num_classes = draw(st.integers(1, 30)), draw(st.integers(2, 8))
    logits = 4 * torch.randn(count, num_classes, generator=generator)
    labels = torch.randint(num_classes, (count,), generator=generator)
    return logits, labels, torch.rand(count, generator=generator) < draw(st.sampled_from([0.0, 0.6, 1.0]))


@st.composite
def bulks(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """(p [B,K], votes [B,R] with −1 among them)."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, num_classes, annotators = draw(st.integers(1, 20)), draw(st.integers(2, 7)), draw(st.integers(1, 4))
    p = torch.softmax(3 * torch.randn(count, num_classes, generator=generator), dim=1)
    return p, torch.randint(-1, num_classes, (count, annotators), generator=generator)


@st.composite
def some_counts(draw: st.DrawFn) -> Tensor:
    """[K,K] from nothing to a million samples, with empty rows among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    num_classes, size = draw(st.integers(2, 9)), draw(st.sampled_from([0.0, 1.0, 1e6]))
    filled = torch.rand(num_classes, 1, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    return size * torch.rand(num_classes, num_classes, generator=generator) * filled


def random_transition(num_classes: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(num_classes, num_classes, generator=generator), dim=1)


def assert_rows_are_distributions(transition: Tensor) -> None:
    torch.testing.assert_close(transition.sum(dim=-1), torch.ones(transition.shape[:-1]))
    assert (transition >= 0).all()


# --- the reference's estimate, from one clean batch


@given(batches())
@settings(max_examples=50)
def test_each_row_is_the_mean_over_the_clean_samples_of_its_class(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, estimates = batch
    previous = random_transition(logits.shape[1])
    found = estimate_transition(previous, logits, labels, estimates).numpy()
    exponentials = np.exp(logits.double().numpy())
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    for label in range(logits.shape[1]):
        members = probabilities[(labels.numpy() == label) & estimates.numpy()]
        expected = members.mean(axis=0) if len(members) else previous[label].numpy()
        np.testing.assert_allclose(found[label], expected, atol=1e-6)


@given(batches(), st.floats(1e-6, 1.0))
@settings(max_examples=50)
def test_rows_sum_to_one_before_and_after_smoothing(batch: tuple[Tensor, Tensor, Tensor], smoothing: float) -> None:
    logits, labels, estimates = batch
    transition = estimate_transition(identity_transition(logits.shape[1]), logits, labels, estimates)
    assert_rows_are_distributions(transition)
    smooth = smooth_transition(transition, smoothing)
    assert_rows_are_distributions(smooth)
    assert (smooth > 0).all()


@given(batches())
@settings(max_examples=50)
def test_the_order_of_the_batch_does_not_matter(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, estimates = batch
    previous = random_transition(logits.shape[1])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    shuffled = estimate_transition(previous, logits[order], labels[order], estimates[order])
    torch.testing.assert_close(shuffled, estimate_transition(previous, logits, labels, estimates))


@given(batches())
@settings(max_examples=50)
def test_renaming_the_classes_renames_rows_and_columns(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, estimates = batch
    previous = random_transition(logits.shape[1])
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(3))
    renamed = estimate_transition(previous[order][:, order], logits[:, order], order.argsort()[labels], estimates)
    torch.testing.assert_close(renamed, estimate_transition(previous, logits, labels, estimates)[order][:, order])


def test_a_class_absent_from_the_batch_keeps_its_previous_row() -> None:
    previous = random_transition(3)
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


# --- sums that can be added up


@given(batches(), st.integers(0, 30))
@settings(max_examples=50)
def test_the_counts_of_two_halves_add_up_to_those_of_the_whole(batch: tuple[Tensor, Tensor, Tensor], cut: int) -> None:
    logits, labels, weights = batch
    parts = [clean_counts(logits[half], labels[half], weights[half]) for half in (slice(cut), slice(cut, None))]
    whole = clean_counts(logits, labels, weights)
    torch.testing.assert_close(parts[0] + parts[1], whole)
    members = torch.bincount(labels[weights], minlength=logits.shape[1])
    torch.testing.assert_close(whole.sum(dim=1), members.float(), msg="a row's sum counts its samples")


@given(bulks())
@settings(max_examples=50)
def test_bulk_counts_are_soft_counts_of_what_each_annotator_said(bulk: tuple[Tensor, Tensor]) -> None:
    p, votes = bulk
    expected = np.zeros((votes.shape[1], p.shape[1], p.shape[1]))
    for row, said in zip(p.double().numpy(), votes.tolist(), strict=True):
        for annotator, label in enumerate(said):
            if label >= 0:
                expected[annotator, :, label] += row
    np.testing.assert_allclose(bulk_counts(p, votes).numpy(), expected, atol=1e-5)


@given(bulks())
@settings(max_examples=30)
def test_renaming_the_classes_renames_the_bulk_counts(bulk: tuple[Tensor, Tensor]) -> None:
    p, votes = bulk
    order = torch.randperm(p.shape[1], generator=torch.Generator().manual_seed(4))
    renamed = torch.where(votes >= 0, order.argsort()[votes.clamp(min=0)], votes)
    torch.testing.assert_close(bulk_counts(p[:, order], renamed), bulk_counts(p, votes)[:, order][:, :, order])


@given(some_counts(), st.sampled_from([1e-3, 1.0, 1e4]))
@settings(max_examples=50)
def test_every_prior_and_posterior_row_is_a_distribution(counts: Tensor, strength: float) -> None:
    symmetric = symmetric_transition(counts)
    assert_rows_are_distributions(symmetric)
    assert (symmetric > 0).all()
    assert_rows_are_distributions(dirichlet_transition(counts, symmetric, strength))
    assert_rows_are_distributions(batch_transition(random_transition(len(counts)), counts))


@given(some_counts(), st.sampled_from([1e-3, 1.0, 1e4]))
@settings(max_examples=50)
def test_the_dirichlet_mean_weighs_prior_and_frequencies_by_their_samples(counts: Tensor, strength: float) -> None:
    prior = random_transition(len(counts))
    found = dirichlet_transition(counts, prior, strength)
    for row, expected_prior, total_row in zip(counts.double(), prior.double(), found, strict=True):
        weight = strength / (strength + row.sum())
        frequencies = row / row.sum() if row.sum() > 0 else torch.zeros_like(row)
        expected = weight * expected_prior + (1 - weight) * frequencies
        torch.testing.assert_close(total_row.double(), expected, rtol=1e-4, atol=1e-6)


def test_the_symmetric_prior_has_the_pooled_rate_of_agreement_everywhere() -> None:
    counts = torch.tensor([[6.0, 2, 0], [0, 0, 0], [1, 0, 1]])
    agreement = (7 + 1) / (10 + 2)
    expected = torch.full((3, 3), (1 - agreement) / 2).fill_diagonal_(agreement)
    torch.testing.assert_close(symmetric_transition(counts), expected)
    torch.testing.assert_close(symmetric_transition(torch.zeros(2, 2)), torch.full((2, 2), 0.5))


# --- what labels say of the true class


@given(bulks())
@settings(max_examples=50)
def test_log_evidence_adds_up_what_each_annotator_who_spoke_has_said(bulk: tuple[Tensor, Tensor]) -> None:
    p, votes = bulk
    transitions = torch.stack([random_transition(p.shape[1], seed) for seed in range(votes.shape[1])])
    found = log_evidence(transitions, votes)
    for said, row in zip(votes.tolist(), found, strict=True):
        expected = np.zeros(p.shape[1])
        for annotator, label in enumerate(said):
            if label >= 0:
                expected += np.log(transitions[annotator, :, label].double().numpy())
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_one_label_is_a_column_of_log_t_and_no_label_is_no_evidence() -> None:
    transition = random_transition(4)
    found = log_evidence(transition[None], torch.tensor([[2], [-1]]))
    torch.testing.assert_close(found, torch.stack([transition[:, 2].log(), torch.zeros(4)]))


@pytest.mark.parametrize("num_classes", [2, 1000])
def test_all_of_it_works_from_two_classes_to_a_thousand(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 1e4 * torch.sign(torch.randn(64, num_classes, generator=generator)).bfloat16()
    labels = torch.randint(num_classes, (64,), generator=generator)
    drawn = clean_counts(logits, labels, torch.ones(64))
    assert drawn.dtype == torch.float32, "half-precision logits are counted in fp32"
    spoken = bulk_counts(torch.softmax(logits.float(), dim=1), labels[:, None])[0]
    torch.testing.assert_close(spoken.sum(), torch.tensor(64.0))
    for counts in (drawn, spoken):
        for transition in (
            batch_transition(identity_transition(num_classes), counts),
            dirichlet_transition(counts, symmetric_transition(counts), 10.0),
        ):
            assert_rows_are_distributions(transition)
            smooth = smooth_transition(transition, 1e-6)
            assert torch.isfinite(log_evidence(smooth[None], labels[:, None])).all()
