"""What labels say where annotators are told apart, and where they are not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fasten_model.calibrate import fit_evidence, fit_evidence_of
from fasten_model.label_noise import (
    OTHERS,
    Given,
    LabelNoise,
    estimate_label_noise,
    given_of,
    given_of_audited,
    told_apart,
)
from fasten_model.labelled import LabelledImages
from fasten_model.posterior import posterior, soft_count_transition

CLASSES = 3
CONFUSED = torch.tensor([[0.5, 0.45, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
CAREFUL = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])


def crowd(count: int, *, seed: int = 0, audited: bool = False) -> tuple[LabelledImages, Tensor, Tensor]:
    """(samples with votes of ann, who takes 0 for 1, and bob; p [N,3]; truth [N])."""
    chance = torch.Generator().manual_seed(seed)
    p = torch.softmax(2 * torch.randn(count, CLASSES, generator=chance), dim=1)
    truth = torch.multinomial(p, 1, generator=chance).flatten()
    votes = torch.stack(
        [torch.multinomial(matrix[truth], 1, generator=chance).flatten() for matrix in (CONFUSED, CAREFUL)], dim=1
    )
    votes[torch.rand(count, 2, generator=chance) < 0.4] = -1
    votes[:, 1] = torch.where((votes < 0).all(dim=1), truth, votes[:, 1])
    given = torch.where(votes[:, 0] >= 0, votes[:, 0], votes[:, 1])
    samples = LabelledImages.from_tensors(
        torch.zeros(count, 3, 1, 1, dtype=torch.uint8),
        truth if audited else given,
        given_labels=given if audited else None,
        annotators=("ann", "bob"),
        votes=votes,
    )
    return samples, p, truth


def alone(samples: LabelledImages) -> LabelledImages:
    """The same samples, known by their given labels only."""
    return replace(samples, annotators=(), votes=None)


def test_without_votes_everything_is_bit_for_bit_what_single_labels_give() -> None:
    noisy, p, _ = crowd(400)
    clean, clean_p, _ = crowd(60, seed=1, audited=True)
    noisy, clean = alone(noisy), alone(clean)
    found = estimate_label_noise(p, noisy, [clean])
    pairs = torch.stack([clean.labels, clean.given_labels], dim=1)
    expected = soft_count_transition(p, noisy.labels, CLASSES, pairs=pairs)
    assert torch.equal(found.transition, expected)
    assert (found.annotators, found.matrices) == ((), None)
    assert torch.equal(found.posterior(p, given_of(noisy), 0.7), posterior(p, expected, noisy.labels, 0.7))
    evidence = fit_evidence_of(clean_p, found.log_likelihood(given_of_audited(clean)), clean.labels)
    assert evidence == fit_evidence(clean_p, expected, clean.given_labels, clean.labels)


def test_a_single_annotator_is_their_labels() -> None:
    noisy, p, _ = crowd(300)
    assert noisy.votes is not None
    single = replace(noisy, annotators=("ann",), votes=noisy.labels[:, None])
    assert told_apart(single) == ()
    assert estimate_label_noise(p, single, []).matrices is None


def test_annotators_told_apart_have_matrices_of_their_own_and_the_others_the_shared_one() -> None:
    noisy, p, _ = crowd(6_000)
    clean, _, _ = crowd(200, seed=1, audited=True)
    found = estimate_label_noise(p, noisy, [clean])
    assert found.annotators == ("ann", "bob", OTHERS)
    assert found.matrices is not None
    torch.testing.assert_close(found.matrices[0], CONFUSED, rtol=0, atol=0.06)
    torch.testing.assert_close(found.matrices[1], CAREFUL, rtol=0, atol=0.06)
    assert CONFUSED[0, 0] < found.matrices[2][0, 0] < CAREFUL[0, 0]


def test_every_vote_is_better_than_the_given_label_alone() -> None:
    noisy, p, truth = crowd(3_000)
    clean, _, _ = crowd(200, seed=1, audited=True)
    noise = estimate_label_noise(p, noisy, [clean])
    by_votes = noise.posterior(p, given_of(noisy), 1.0)
    by_label = noise.posterior(p, given_of(alone(noisy)), 1.0)
    right = [float((q.argmax(dim=1) == truth).double().mean()) for q in (by_votes, by_label)]
    assert right[0] > right[1] + 0.02
    assert torch.allclose(by_votes.sum(dim=1), torch.ones(len(noisy)))


def test_reviews_are_members_of_the_bulk_and_only_random_audits_are_pairs() -> None:
    noisy, p, _ = crowd(500)
    clean, _, _ = crowd(300, seed=1, audited=True)
    targeted = replace(clean, estimates=torch.zeros(300, dtype=torch.bool))
    bulk = torch.cat([p, torch.nn.functional.one_hot(clean.labels, p.shape[1]).to(p)])
    known = torch.cat([noisy.labels, clean.given_labels])
    expected = soft_count_transition(bulk, known, p.shape[1])
    torch.testing.assert_close(estimate_label_noise(p, noisy, [targeted]).transition, expected)
    assert not torch.allclose(expected, estimate_label_noise(p, noisy, [clean]).transition)


def test_reviews_of_the_wrong_labels_make_no_annotator_look_better() -> None:
    noisy, p, truth = crowd(4_000)
    noise = estimate_label_noise(p, noisy, [])
    before, q = noise.matrices, noise.posterior(p, given_of(noisy), 1.0)
    asked = q.gather(1, noisy.labels[:, None]).flatten() < 0.5  # where the model expects a wrong label
    reviewed = replace(noisy.at(asked), labels=truth[asked], given_labels=noisy.labels[asked])
    reviewed = replace(reviewed, estimates=torch.zeros(len(reviewed), dtype=torch.bool))
    after = estimate_label_noise(p[~asked], noisy.at(~asked), [reviewed]).matrices
    left_out = estimate_label_noise(p[~asked], noisy.at(~asked), []).matrices
    assert before is not None
    assert after is not None
    assert left_out is not None
    torch.testing.assert_close(after[0, 0, 0], before[0, 0, 0], rtol=0, atol=0.03)
    assert left_out[0, 0, 0] > before[0, 0, 0] + 0.08


def test_reviews_of_the_wrong_labels_do_not_make_the_shared_matrix_look_better_either() -> None:
    noisy, p, truth = crowd(4_000)
    asked = noisy.labels != truth
    reviewed = replace(noisy.at(asked), labels=truth[asked], given_labels=noisy.labels[asked])
    reviewed = replace(reviewed, estimates=torch.zeros(len(reviewed), dtype=torch.bool))
    whole = estimate_label_noise(p, noisy, []).transition.diagonal().mean()
    after = estimate_label_noise(p[~asked], noisy.at(~asked), [reviewed]).transition.diagonal().mean()
    left_out = estimate_label_noise(p[~asked], noisy.at(~asked), []).transition.diagonal().mean()
    assert abs(after - whole) < 0.05
    assert left_out > whole + 0.1


def noise() -> LabelNoise:
    matrices = torch.stack([CONFUSED, CAREFUL, (CONFUSED + CAREFUL) / 2])
    return LabelNoise(transition=matrices[2], annotators=("ann", "bob", OTHERS), matrices=matrices)


def test_the_order_of_annotators_is_irrelevant_and_who_is_unknown_is_one_of_the_others() -> None:
    p = torch.full((1, CLASSES), 1 / CLASSES)
    labels = torch.tensor([1])
    one = Given(labels=labels, annotators=("ann", "bob"), votes=torch.tensor([[1, 2]]))
    other = Given(labels=labels, annotators=("bob", "cyd", "ann"), votes=torch.tensor([[2, -1, 1]]))
    torch.testing.assert_close(noise().posterior(p, one, 0.5), noise().posterior(p, other, 0.5))
    stranger = Given(labels=labels, annotators=("cyd",), votes=torch.tensor([[1]]))
    torch.testing.assert_close(noise().posterior(p, stranger, 1.0), posterior(p, noise().transition, labels))


@pytest.mark.parametrize("evidence", [0.5, 1.0])
def test_a_sample_without_votes_goes_by_its_given_label(evidence: float) -> None:
    p = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3]])
    given = Given(labels=torch.tensor([2, 2]), annotators=("ann",), votes=torch.tensor([[-1], [2]]))
    found = noise().posterior(p, given, evidence)
    torch.testing.assert_close(found[0], posterior(p, noise().transition, given.labels, evidence)[0])
    torch.testing.assert_close(found[1], posterior(p, CONFUSED, given.labels, evidence)[1])
    likelihood = noise().log_likelihood(given)
    torch.testing.assert_close(likelihood[0], noise().transition[:, 2].double().log())
    torch.testing.assert_close(likelihood[1], CONFUSED[:, 2].double().log())
