"""Training where annotators are told apart: every vote counts, and a single annotator changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fasten_model import fitting, label_noise
from fasten_model.errors import DataError
from fasten_model.fitting import Fitted, fit, summary
from fasten_model.judging import trains_along
from fasten_model.label_noise import OTHERS
from fasten_model.labelled import LabelledImages
from fasten_model.model import load_model, save_model
from fasten_model.posterior import soft_count_transition, votes_posterior
from fasten_model.scoring import score
from fasten_model.train import TrainConfig, Trained, TrainingSet, train
from pipeline.scoring import score as scored_rows

CLASSES = ("dark", "bright")
QUICK = TrainConfig(epochs=3, device="cpu", noisy_batch=32, clean_batch=16)


def team(count: int, name: str, *, seed: int, audited: bool = False) -> tuple[LabelledImages, Tensor]:
    """(grey squares hard to tell by their image, as two annotators called them; truth).

    ann calls half of what is dark bright; bob is nearly always right. Where they differ the given label is ann's.
    """
    chance = torch.Generator().manual_seed(seed)
    truth = torch.randint(2, (count,), generator=chance)
    noise = torch.randint(0, 100, (count, 3, 32, 32), generator=chance, dtype=torch.uint8)
    images = noise + 60 * truth.to(torch.uint8).reshape(-1, 1, 1, 1)
    lost = torch.rand(count, generator=chance)
    ann = torch.where((truth == 0) & (lost < 0.5), 1, truth)
    bob = torch.where(torch.rand(count, generator=chance) < 0.05, 1 - truth, truth)
    votes = torch.stack([ann, bob], dim=1)
    silent = torch.randint(4, (count,), generator=chance)
    votes[silent == 0, 0] = -1
    votes[silent == 1, 1] = -1
    given = torch.where(votes[:, 0] >= 0, votes[:, 0], votes[:, 1])
    samples = LabelledImages.from_tensors(
        images,
        truth if audited else given,
        sample_ids=[f"{name}-{number}" for number in range(count)],
        given_labels=given if audited else None,
        annotators=("ann", "bob"),
        votes=votes,
    )
    return samples, truth


def alone(samples: LabelledImages) -> LabelledImages:
    return replace(samples, annotators=(), votes=None)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    noisy, _ = team(240, "n", seed=0)
    clean, _ = team(80, "c", seed=1, audited=True)
    return fit(noisy, clean, CLASSES, QUICK, holdout=0.4)


def test_each_annotator_has_a_matrix_and_it_is_their_own(fitted: Fitted) -> None:
    model = fitted.model
    assert model.annotators == ("ann", "bob", OTHERS)
    assert summary(fitted)["annotators"] == ["ann", "bob", OTHERS]
    assert model.annotator_transitions is not None
    ann, bob, others = model.annotator_transitions
    assert ann[0, 1] > 0.3 > 0.2 > bob[0, 1]
    assert bob[0, 1] < others[0, 1] < ann[0, 1]
    torch.testing.assert_close(model.annotator_transitions.sum(dim=2), torch.ones(3, 2))


def test_of_several_models_every_pair_is_held_out_and_annotators_are_told_apart_all_the_same() -> None:
    noisy, truth = team(240, "n", seed=0)
    clean, _ = team(80, "c", seed=1, audited=True)
    found = fit(noisy, clean, CLASSES, QUICK, folds=2)
    assert found.held_out == 80
    assert found.choice.pairs_held_out == 80
    assert found.model.annotator_transitions is not None
    ann, bob, _ = found.model.annotator_transitions
    assert ann[0, 1] > 0.3 > 0.2 > bob[0, 1]
    scores = score(found.model, noisy.images, noisy.labels, annotators=noisy.annotators, votes=noisy.votes)
    as_given = int((noisy.labels == truth).sum())
    assert int((scores.guess == truth).sum()) > as_given


def test_labels_are_scored_by_every_vote_and_by_the_given_label_where_none_is_told(fitted: Fitted) -> None:
    model = fitted.model
    noisy, truth = team(200, "new", seed=2)
    assert noisy.votes is not None
    assert model.annotator_transitions is not None
    with_votes = score(model, noisy.images, noisy.labels, annotators=noisy.annotators, votes=noisy.votes)
    without = score(model, noisy.images, noisy.labels)
    by_hand = votes_posterior(
        with_votes.probabilities, model.annotator_transitions[:2].double(), noisy.votes, model.evidence
    )
    torch.testing.assert_close(with_votes.posterior, by_hand)
    rows = scored_rows(model, noisy, target_precision=0.95, model_version="v").table
    torch.testing.assert_close(torch.tensor(rows["posterior"].to_pylist()), with_votes.posterior.float())
    right = [int((found.posterior.argmax(dim=1) == truth).sum()) for found in (with_votes, without)]
    assert right[0] >= right[1]


def test_a_model_that_tells_annotators_apart_is_loaded_as_it_was_saved(fitted: Fitted, tmp_path: Path) -> None:
    save_model(fitted.model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.annotators == fitted.model.annotators
    assert loaded.annotator_transitions is not None
    assert fitted.model.annotator_transitions is not None
    assert torch.equal(loaded.annotator_transitions, fitted.model.annotator_transitions)


def test_a_single_annotator_is_bit_for_bit_one_label_a_sample() -> None:
    noisy, clean = alone(team(96, "n", seed=0)[0]), alone(team(40, "c", seed=1, audited=True)[0])
    one_noisy = replace(noisy, annotators=("ann",), votes=noisy.labels[:, None])
    one_clean = replace(clean, annotators=("ann",), votes=clean.given_labels[:, None])
    expected = fit(noisy, clean, CLASSES, QUICK, holdout=0.25)
    found = fit(one_noisy, one_clean, CLASSES, QUICK, holdout=0.25)
    assert found.model.annotators == ()
    assert found.choice == expected.choice
    assert found.model.evidence == expected.model.evidence
    assert torch.equal(found.model.transition, expected.model.transition)
    weights = expected.model.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.model.network.state_dict().items())
    scores = [score(each.model, noisy.images, noisy.labels).posterior for each in (expected, found)]
    assert torch.equal(*scores)
    model = found.model
    told = score(model, noisy.images, noisy.labels, annotators=("ann",), votes=noisy.labels[:, None])
    assert torch.equal(told.posterior, scores[0])


def test_held_out_votes_do_not_vouch_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def spy(p: Tensor, given_labels: Tensor, num_classes: int, *, pairs: Tensor) -> Tensor:
        counted.append(len(pairs))
        return soft_count_transition(p, given_labels, num_classes, pairs=pairs)

    monkeypatch.setattr(label_noise, "soft_count_transition", spy)
    noisy, (clean, _) = team(96, "n", seed=0)[0], team(40, "c", seed=1, audited=True)
    fitted = fit(noisy, clean, CLASSES, QUICK, holdout=0.25)
    assert clean.votes is not None
    every = int((clean.votes >= 0).sum())
    labels, votes = sorted(counted)[:2], sorted(counted)[2:]
    assert labels == [40 - fitted.held_out, 40]
    assert votes[1] == every
    assert every - 2 * fitted.held_out <= votes[0] <= every - fitted.held_out


def test_an_audit_of_what_strangers_had_labelled_neither_trains_along_nor_is_a_pair() -> None:
    """The bulk tells nobody's T of them, so nothing that the network learns of the sample is as with the bulk."""
    noisy, _ = team(120, "n", seed=0)
    clean, _ = team(60, "c", seed=1, audited=True)
    assert clean.votes is not None
    strangers = torch.arange(60) % 2 == 0
    votes = torch.cat([clean.votes, torch.where(strangers, clean.given_labels, -1)[:, None]], dim=1)
    votes[strangers, :2] = -1
    clean = replace(clean, annotators=("ann", "bob", "zoe"), votes=votes)
    assert torch.equal(trains_along(clean, noisy), ~strangers)
    assert trains_along(clean, alone(noisy)).all(), "not told apart: a label is a label"
    found = fit(noisy, clean, CLASSES, QUICK, holdout=0.5)
    assert 0 < found.choice.pairs_held_out < found.held_out


def test_what_is_known_by_its_label_alone_is_learnt_from_too(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, _ = team(120, "n", seed=0)
    clean, _ = team(60, "c", seed=1, audited=True)
    assert noisy.votes is not None
    assert clean.votes is not None
    by_label, audited_by_label = torch.arange(120) % 10 > 0, torch.arange(60) % 10 > 0
    noisy = replace(noisy, votes=torch.where(by_label[:, None], -1, noisy.votes))
    clean = replace(clean, votes=torch.where(audited_by_label[:, None], -1, clean.votes))
    assert trains_along(clean, noisy).all()
    taught: list[TrainingSet] = []

    def look(training_set: TrainingSet, *arguments: Any, **options: Any) -> Trained:
        taught.append(training_set)
        return train(training_set, *arguments, **options)

    said = noisy.votes_of(noisy.annotators)
    monkeypatch.setattr(fitting, "train", look)
    found = fit(noisy, clean, CLASSES, QUICK, holdout=0.5)

    (given,) = taught
    assert given.votes is not None
    assert given.votes.shape == (120 + found.held_out, 3)
    assert torch.equal(given.votes[:120, :2], said)
    assert torch.equal(given.votes[:120, 2], torch.where(by_label, noisy.labels, -1))
    assert given.clean_votes is not None
    assert bool(((given.votes >= 0).any(dim=1)).all()), "nothing would be learnt of the others"
    assert bool(((given.clean_votes >= 0).any(dim=1)).all())
    assert found.choice.pairs_held_out == found.held_out
    assert found.model.annotators == ("ann", "bob", OTHERS)


def test_votes_of_other_samples_are_refused(fitted: Fitted) -> None:
    noisy, _ = team(4, "x", seed=3)
    with pytest.raises(DataError, match=r"votes must be int64 \[4, 1\], got int64 \[4, 2\]"):
        score(fitted.model, noisy.images, noisy.labels, annotators=("ann",), votes=noisy.votes)


@pytest.mark.parametrize("vote", [-2, len(CLASSES)])
def test_votes_for_no_class_are_refused(fitted: Fitted, vote: int) -> None:
    noisy, _ = team(4, "x", seed=3)
    votes = torch.full((4, 1), vote)
    with pytest.raises(DataError, match=rf"votes must be from −1 to {len(CLASSES) - 1}, found {vote}"):
        score(fitted.model, noisy.images, noisy.labels, annotators=("ann",), votes=votes)
