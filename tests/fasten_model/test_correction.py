"""Correction with ρ and the way back to the original label."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasten_model.correction import correct_labels


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """(probabilities [B,K], original labels [B])."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, num_classes = draw(st.integers(1, 20)), draw(st.integers(2, 8))
    probabilities = torch.softmax(3 * torch.randn(count, num_classes, generator=generator), dim=1)
    return probabilities, torch.randint(num_classes, (count,), generator=generator)


@given(predictions(), st.floats(0, 1.2))
@settings(max_examples=50)
def test_each_label_is_the_confident_prediction_or_the_original(case: tuple[Tensor, Tensor], rho: float) -> None:
    probabilities, original = case
    for row, given_label, found in zip(probabilities.tolist(), original, correct_labels(*case, rho), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        threshold = torch.tensor(rho, dtype=probabilities.dtype).item()
        assert found == (best if row[best] >= threshold else given_label)


@given(predictions(), st.floats(1.001, 10))
@settings(max_examples=50)
def test_rho_above_one_never_corrects(case: tuple[Tensor, Tensor], rho: float) -> None:
    assert torch.equal(correct_labels(*case, rho), case[1])


@given(predictions())
@settings(max_examples=50)
def test_rho_zero_always_follows_the_model(case: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(correct_labels(*case, 0.0), case[0].argmax(dim=1))


@given(predictions(), st.floats(0, 1.2), st.integers(0, 2**31))
@settings(max_examples=50)
def test_renaming_the_classes_renames_the_labels(case: tuple[Tensor, Tensor], rho: float, seed: int) -> None:
    probabilities, original = case
    order = torch.randperm(probabilities.shape[1], generator=torch.Generator().manual_seed(seed))
    new_name = order.argsort()
    renamed = correct_labels(probabilities[:, order], new_name[original], rho)
    assert torch.equal(renamed, new_name[correct_labels(probabilities, original, rho)])


@given(predictions(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50)
def test_a_higher_rho_corrects_a_subset(case: tuple[Tensor, Tensor], one: float, other: float) -> None:
    low, high = sorted((one, other))
    bold, careful = (correct_labels(*case, rho) != case[1] for rho in (low, high))
    assert not (careful & ~bold).any()


def test_a_miscorrection_is_undone_as_soon_as_confidence_falls() -> None:
    original = torch.tensor([2])
    sure, unsure = torch.tensor([[0.9, 0.05, 0.05]]), torch.tensor([[0.7, 0.2, 0.1]])
    assert correct_labels(sure, original, 0.8).item() == 0
    assert correct_labels(unsure, original, 0.8).item() == 2


def test_a_confidence_of_exactly_rho_corrects() -> None:
    assert correct_labels(torch.tensor([[0.25, 0.75]]), torch.tensor([0]), 0.75).item() == 1


@pytest.mark.parametrize("num_classes", [2, 1000])
def test_the_original_labels_are_not_written_to(num_classes: int) -> None:
    original = torch.arange(8) % num_classes
    before = original.clone()
    certain = torch.zeros(8, num_classes)
    certain[:, 1] = 1.0
    assert correct_labels(certain, original, 0.5).tolist() == [1] * 8
    assert torch.equal(original, before)
