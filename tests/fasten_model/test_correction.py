"""Correction with ρ and the way back to the original label."""

import torch
from hypothesis import given
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
def test_each_label_is_the_confident_prediction_or_the_original(case: tuple[Tensor, Tensor], rho: float) -> None:
    probabilities, original = case
    for row, given_label, found in zip(probabilities.tolist(), original, correct_labels(*case, rho), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        threshold = torch.tensor(rho, dtype=probabilities.dtype).item()
        assert found == (best if row[best] >= threshold else given_label)


@given(predictions(), st.floats(1.001, 10))
def test_rho_above_one_never_corrects(case: tuple[Tensor, Tensor], rho: float) -> None:
    assert torch.equal(correct_labels(*case, rho), case[1])


@given(predictions())
def test_rho_zero_always_follows_the_model(case: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(correct_labels(*case, 0.0), case[0].argmax(dim=1))


def test_a_miscorrection_is_undone_as_soon_as_confidence_falls() -> None:
    original = torch.tensor([2])
    sure, unsure = torch.tensor([[0.9, 0.05, 0.05]]), torch.tensor([[0.7, 0.2, 0.1]])
    assert correct_labels(sure, original, 0.8).item() == 0
    assert correct_labels(unsure, original, 0.8).item() == 2


def test_a_confidence_of_exactly_rho_corrects() -> None:
    assert correct_labels(torch.tensor([[0.25, 0.75]]), torch.tensor([0]), 0.75).item() == 1
