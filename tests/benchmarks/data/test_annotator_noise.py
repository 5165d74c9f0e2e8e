"""Simulated annotators."""

import pytest
import torch

from benchmarks.data import Source, apply_noise, parse_noise
from benchmarks.data.annotators import WRONG, confusion, majority

ALL = torch.arange(6000)


@pytest.mark.parametrize("annotator", [0, 1, 2, 7])
def test_each_confusion_is_a_transition_with_the_promised_share_of_mistakes(source: Source, annotator: int) -> None:
    matrix = confusion(source, annotator, seed=1)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(10))
    assert (matrix >= 0).all()
    assert float(1 - matrix.diag().mean()) == pytest.approx(WRONG, abs=1e-6)
    # The truth stays the likeliest answer to most classes, or nothing could be learnt from one annotator.
    assert (matrix.argmax(dim=1) == torch.arange(10)).sum() >= 8


def test_annotators_have_mistakes_of_their_own(source: Source) -> None:
    assert not torch.equal(confusion(source, 0, seed=1), confusion(source, 1, seed=1))
    assert torch.equal(confusion(source, 0, seed=1), confusion(source, 0, seed=1))


def test_look_alikes_are_what_classes_are_mostly_taken_for(source: Source) -> None:
    taken = torch.stack([confusion(source, r, seed=1)[2].clone().index_fill(0, torch.tensor(2), 0) for r in range(20)])
    assert (taken.argmax(dim=1) == 3).double().mean() > 0.6


def test_votes_have_gaps_and_every_sample_has_one(source: Source) -> None:
    noisy = apply_noise(parse_noise("annotators:3"), source, ALL, 1)
    votes = noisy.votes
    assert votes is not None
    assert votes.shape == (6000, 3)
    answered = votes != -1
    assert answered.any(dim=1).all()
    assert 0.55 < float(answered.double().mean()) < 0.7
    assert set(answered.sum(dim=1).tolist()) == {1, 2, 3}
    # The given label is one that somebody gave.
    assert (votes == noisy.labels[:, None]).any(dim=1).all()


def test_votes_follow_the_annotators_confusion(source: Source) -> None:
    votes = apply_noise(parse_noise("annotators:3"), source, ALL, 1).votes
    assert votes is not None
    for annotator in range(3):
        answered = votes[:, annotator] != -1
        truth, said = source.train_labels[answered], votes[answered, annotator]
        expected = confusion(source, annotator, seed=1)
        for label in range(10):
            shares = torch.bincount(said[truth == label], minlength=10).double()
            torch.testing.assert_close((shares / shares.sum()).float(), expected[label], atol=0.09, rtol=0)


def test_a_single_annotator_labels_everything(source: Source) -> None:
    noisy = apply_noise(parse_noise("annotators:1"), source, ALL, 1)
    assert noisy.votes is not None
    assert torch.equal(noisy.votes[:, 0], noisy.labels)
    assert float((noisy.labels != source.train_labels).double().mean()) == pytest.approx(WRONG, abs=0.03)


def test_majority_wins_and_the_earliest_breaks_a_tie() -> None:
    votes = torch.tensor([[1, 2, 2], [1, 2, -1], [1, 2, -1], [0, 1, 2], [-1, -1, -1]])
    turns = torch.tensor([[0, 1, 2], [0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 1, 2]])
    assert majority(votes, turns, 3).tolist() == [2, 1, 2, 2, -1]
