"""Each annotator's own transition matrix, on simulated annotators whose matrices are known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fasten_model.annotators import AnnotatorTransitions, annotator_transitions, pooled_counts
from fasten_model.errors import DataError
from fasten_model.posterior import votes_posterior
from fasten_model.transition import dirichlet_transition, symmetric_transition

NAMES = ("ann", "bob", "cyd")
CLASSES = 4


def confusions() -> Tensor:
    """[3,4,4]: ann takes 0 for 1, bob 2 for 3, cyd is right nine times in ten."""
    careful = torch.eye(CLASSES, dtype=torch.float64) * 0.9 + 0.1 * (1 - torch.eye(CLASSES)) / (CLASSES - 1)
    each = careful.repeat(3, 1, 1)
    each[0, 0] = torch.tensor([0.5, 0.44, 0.03, 0.03])
    each[1, 2] = torch.tensor([0.03, 0.03, 0.4, 0.54])
    return each


def simulated(count: int, shares: tuple[float, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """(true labels [count], votes [count,3]); annotator r answers a share of the samples."""
    chance = torch.Generator().manual_seed(seed)
    truth = torch.randint(CLASSES, (count,), generator=chance)
    votes = torch.stack([torch.multinomial(t[truth], 1, generator=chance).flatten() for t in confusions()], dim=1)
    votes[torch.rand(count, 3, generator=chance) >= torch.tensor(shares)] = -1
    return truth, votes


def known(truth: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(truth, CLASSES).double()


def test_matrices_are_recovered_where_the_truth_is_known() -> None:
    truth, votes = simulated(20_000, (0.9, 0.6, 0.6))
    found = annotator_transitions(known(truth), votes, confusions().mean(dim=0), NAMES)
    torch.testing.assert_close(found.matrices, confusions(), rtol=0, atol=0.02)
    torch.testing.assert_close(found.matrices.sum(dim=2), torch.ones(3, CLASSES, dtype=torch.float64))
    assert found.votes.tolist() == (votes >= 0).sum(dim=0).tolist()
    assert found.audited.tolist() == [0, 0, 0]


def test_matrices_are_recovered_from_beliefs_and_the_intervals_hold_them() -> None:
    chance = torch.Generator().manual_seed(3)
    p = torch.softmax(3 * torch.randn(8_000, CLASSES, generator=chance), dim=1).double()
    truth = torch.multinomial(p, 1, generator=chance).flatten()
    votes = torch.stack([torch.multinomial(t[truth], 1, generator=chance).flatten() for t in confusions()], dim=1)
    q = votes_posterior(p, confusions(), votes)
    found = annotator_transitions(q, votes, confusions().mean(dim=0), NAMES)
    torch.testing.assert_close(found.matrices, confusions(), rtol=0, atol=0.03)
    low, high = found.intervals()
    inside = (low <= confusions()) & (confusions() <= high)
    assert inside.double().mean() > 0.85
    assert (low <= found.matrices).all()
    assert (found.matrices <= high).all()


def test_unsure_beliefs_leave_more_open_than_certain_ones() -> None:
    truth, votes = simulated(2_000, (1.0, 1.0, 1.0))
    shared = confusions().mean(dim=0)
    certain = annotator_transitions(known(truth), votes, shared, NAMES, strength=20.0)
    unsure = annotator_transitions(0.7 * known(truth) + 0.3 / CLASSES, votes, shared, NAMES, strength=20.0)
    assert (unsure.sizes < certain.sizes).all()


def test_someone_with_few_votes_is_like_the_others() -> None:
    truth, votes = simulated(10_000, (0.9, 0.9, 0.0))
    votes[0] = torch.tensor([-1, -1, (truth[0] + 1) % CLASSES])  # cyd's only answer is wrong
    shared = pooled_counts(known(truth), votes)
    shared = shared / shared.sum(dim=1, keepdim=True)
    found = annotator_transitions(known(truth), votes, shared, NAMES)
    assert (found.matrices[2] - shared).abs().max() < 0.15
    assert (found.matrices[0] - shared).abs().max() > 0.15
    rate, low, high = found.error_rates()
    assert high[2] - low[2] > 4 * (high[0] - low[0])
    assert (low <= rate).all()
    assert (rate <= high).all()


def test_someone_without_a_vote_is_the_shared_matrix() -> None:
    truth, votes = simulated(500, (0.9, 0.9, 0.0))
    shared = confusions().mean(dim=0)
    found = annotator_transitions(known(truth), votes, shared, NAMES)
    torch.testing.assert_close(found.matrices[2], shared, rtol=0, atol=1e-6)


def test_annotators_who_are_alike_are_shrunk_harder_than_those_who_are_not() -> None:
    truth, votes = simulated(6_000, (0.9, 0.9, 0.9))
    shared = confusions().mean(dim=0)
    apart = annotator_transitions(known(truth), votes, shared, NAMES)
    chance = torch.Generator().manual_seed(5)
    same = torch.stack([torch.multinomial(shared[truth], 1, generator=chance).flatten() for _ in range(3)], dim=1)
    assert apart.strength < annotator_transitions(known(truth), same, shared, NAMES).strength


def test_audited_samples_count_as_what_they_are() -> None:
    truth, votes = simulated(400, (0.9, 0.9, 0.9))
    half = torch.arange(400) < 200
    joined = annotator_transitions(
        known(truth)[half], votes[half], confusions().mean(dim=0), NAMES,
        true_labels=truth[~half], true_votes=votes[~half],
    )  # fmt: skip
    whole = annotator_transitions(known(truth), votes, confusions().mean(dim=0), NAMES)
    torch.testing.assert_close(joined.matrices, whole.matrices)
    torch.testing.assert_close(joined.votes, whole.votes)
    assert joined.audited.tolist() == (votes[~half] >= 0).sum(dim=0).tolist()


def test_the_rate_of_error_is_that_of_what_they_labelled() -> None:
    truth, votes = simulated(30_000, (0.8, 0.8, 0.8))
    votes[:, 0][truth != 0] = -1  # ann has only ever seen class 0, of which she is wrong half the time
    found = annotator_transitions(known(truth), votes, confusions().mean(dim=0), NAMES)
    wrong = [float((votes[:, r] != truth)[votes[:, r] >= 0].double().mean()) for r in range(3)]
    rate, low, high = found.error_rates()
    torch.testing.assert_close(rate, torch.tensor(wrong, dtype=torch.float64), rtol=0, atol=0.01)
    assert all(a < w < b for a, w, b in zip(low.tolist(), wrong, high.tolist(), strict=True))


@pytest.mark.parametrize("annotators", [1, 3])
def test_the_interval_holds_the_rate_as_often_as_it_says(annotators: int) -> None:
    """Of people who are all alike, and of one alone: what they all share is known by their own answers, too."""
    matrix, names, found, expected = confusions()[0], NAMES[:annotators], [], []
    for seed in range(150):
        chance = torch.Generator().manual_seed(seed)
        truth = torch.randint(CLASSES, (300,), generator=chance)
        votes = torch.stack([torch.multinomial(matrix[truth], 1, generator=chance).flatten() for _ in names], dim=1)
        pooled = pooled_counts(known(truth), votes)
        shared = dirichlet_transition(pooled, symmetric_transition(pooled), 1.0)
        found.append(annotator_transitions(known(truth), votes, shared, names))
        expected += [float((1 - matrix.diagonal()[truth]).mean())] * annotators
    every = replace(
        found[0],
        matrices=torch.cat([each.matrices for each in found]),
        sizes=torch.cat([each.sizes for each in found]),
        truths=torch.cat([each.truths for each in found]),
    )
    _, low, high = every.error_rates()
    true = torch.tensor(expected, dtype=torch.float64)
    assert 0.9 <= float(((low <= true) & (true <= high)).double().mean()) <= 0.995


def test_nobody_and_no_votes_are_no_error() -> None:
    shared = confusions().mean(dim=0)
    nobody = annotator_transitions(torch.empty(0, CLASSES), torch.empty(0, 0, dtype=torch.int64), shared, ())
    assert isinstance(nobody, AnnotatorTransitions)
    assert nobody.matrices.shape == (0, CLASSES, CLASSES)
    silent = annotator_transitions(torch.empty(0, CLASSES), torch.empty(0, 1, dtype=torch.int64), shared, ("a",))
    torch.testing.assert_close(silent.matrices[0], shared, rtol=0, atol=1e-6)
    rate, low, high = silent.error_rates()
    assert low < rate < high


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(DataError, match=r"votes \[3, 2\]"):
        annotator_transitions(torch.ones(3, CLASSES), torch.zeros(3, 2, dtype=torch.int64), torch.eye(CLASSES), NAMES)
