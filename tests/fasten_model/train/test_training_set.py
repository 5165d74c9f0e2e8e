"""What a training set refuses, and the counts it gives."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasten_model.errors import DataError
from fasten_model.train import TrainingSet


def training_set(*, noisy: int = 20, clean: int = 9, num_classes: int = 3, **changes: Any) -> TrainingSet:
    fields: dict[str, Any] = {
        "noisy_images": torch.zeros(noisy, 3, 8, 8, dtype=torch.uint8),
        "noisy_labels": torch.arange(noisy) % num_classes,
        "clean_images": torch.zeros(clean, 3, 8, 8, dtype=torch.uint8),
        "clean_labels": torch.arange(clean) % num_classes,
        "clean_estimates": torch.ones(clean, dtype=torch.bool),
        "num_classes": num_classes,
    }
    return TrainingSet(**{**fields, **changes})


NO_IMAGES = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
NO_LABELS = torch.empty(0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean_images": NO_IMAGES, "clean_labels": NO_LABELS}, "no clean images"),
        ({"noisy_images": NO_IMAGES, "noisy_labels": NO_LABELS}, "no noisy images"),
        ({"noisy": 1}, "only one noisy sample to train on, and BatchNorm has no statistics of one: label more tasks"),
        ({"num_classes": 1}, "num_classes must be a whole number from 2, got 1"),
        ({"clean_estimates": torch.zeros(9, dtype=torch.bool)}, "no clean sample was audited at random"),
        ({"clean_estimates": torch.ones(4, dtype=torch.bool)}, r"bool \[9\], got bool \[4\]"),
        ({"clean_estimates": torch.ones(9)}, r"bool \[9\], got float32 \[9\]"),
        ({"noisy_labels": torch.full((20,), 3)}, "noisy labels must be from 0 to 2, found 3"),
        ({"clean_labels": torch.full((9,), -1)}, "clean labels must be from 0 to 2, found -1"),
        ({"noisy_labels": torch.zeros(19).long()}, r"noisy labels must be int64 \[20\], got int64 \[19\]"),
        ({"clean_labels": torch.zeros(9)}, r"clean labels must be int64 \[9\], got float32 \[9\]"),
        ({"noisy_images": torch.zeros(20, 3, 8, 8)}, r"noisy images must be uint8 .*got float32 \[20, 3, 8, 8\]"),
        ({"noisy_images": torch.zeros(20, 1, 8, 8, dtype=torch.uint8)}, r"noisy images .*\[20, 1, 8, 8\]"),
        ({"noisy_images": torch.zeros(20, 3, 8, 9, dtype=torch.uint8)}, r"noisy images .*\[20, 3, 8, 9\]"),
        (
            {"clean_images": torch.zeros(9, 3, 4, 4, dtype=torch.uint8)},
            r"clean images are uint8 \[9, 3, 4, 4\], noisy ones",
        ),
        ({"votes": torch.zeros(19, 2).long()}, r"^votes must be int64 \[20, 2\], got int64 \[19, 2\]"),
        ({"votes": torch.zeros(20, 2)}, r"^votes must be int64 \[20, 2\], got float32"),
        ({"votes": torch.zeros(20, 0).long()}, r"^votes must be .* of at least one annotator, got int64 \[20, 0\]"),
        ({"votes": torch.zeros(20).long()}, r"^votes must be int64 \[20, R\] .*got int64 \[20\]"),
        ({"votes": torch.full((20, 2), 3)}, "^votes must be from −1 to 2, found 3"),
        ({"votes": torch.full((20, 2), -2)}, "^votes must be from −1 to 2, found -2"),
        ({"clean_votes": torch.zeros(9, 2).long()}, r"^clean_votes must be int64 \[9, 1\], got int64 \[9, 2\]"),
        (
            {"votes": torch.zeros(20, 2).long(), "clean_votes": torch.zeros(9, 3).long()},
            r"^clean_votes must be int64 \[9, 2\], got int64 \[9, 3\]",
        ),
        ({"held_out_images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, "held_out_images and held_out_labels go"),
        ({"held_out_labels": torch.zeros(4).long()}, "held_out_images and held_out_labels go"),
        ({"held_out_images": NO_IMAGES, "held_out_labels": NO_LABELS}, "no held-out images"),
        (
            {"held_out_images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "held_out_labels": torch.full((4,), 3)},
            "held-out labels must be from 0 to 2, found 3",
        ),
        (
            {"held_out_images": torch.zeros(4, 3, 9, 9, dtype=torch.uint8), "held_out_labels": torch.zeros(4).long()},
            r"held-out images are uint8 \[4, 3, 9, 9\], noisy ones",
        ),
        ({"clean_votes": torch.full((9, 1), 7)}, "^clean_votes must be from −1 to 2, found 7"),
    ],
)
def test_an_unusable_training_set_is_one_line_of_data_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        training_set(**changes)
    assert "\n" not in str(caught.value)


def test_a_label_without_votes_is_the_one_vote_of_its_sample() -> None:
    data = training_set()
    assert torch.equal(data.all_votes(), data.noisy_labels[:, None])
    votes = torch.randint(-1, 3, (20, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(training_set(votes=votes).all_votes(), votes)


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(2, 5), st.integers(1, 30))
@settings(max_examples=50)
def test_pairs_are_counted_by_annotator_truth_and_answer_among_the_randomly_audited_only(
    seed: int, annotators: int, num_classes: int, clean: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    votes = torch.randint(-1, num_classes, (20, annotators), generator=generator)
    clean_votes = torch.randint(-1, num_classes, (clean, annotators), generator=generator)
    labels = torch.randint(num_classes, (clean,), generator=generator)
    estimates = torch.rand(clean, generator=generator) < 0.6
    estimates[0] = True
    data = training_set(
        clean=clean, num_classes=num_classes, votes=votes, clean_votes=clean_votes,
        clean_labels=labels, clean_estimates=estimates,
    )  # fmt: skip
    expected = torch.zeros(annotators, num_classes, num_classes)
    for sample in range(clean):
        for annotator in range(annotators):
            if estimates[sample] and clean_votes[sample, annotator] >= 0:
                expected[annotator, labels[sample], clean_votes[sample, annotator]] += 1
    assert torch.equal(data.pair_counts(), expected)


def test_pairs_of_the_majority_have_one_label_a_sample_and_a_tie_is_shared() -> None:
    clean_votes = torch.tensor([[1, 1, 2], [1, 2, -1], [-1, -1, -1], [0, 1, 2], [2, -1, -1], [0, 0, 0]])
    data = training_set(
        clean=6,
        votes=torch.zeros(20, 3).long(),
        clean_votes=clean_votes,
        clean_labels=torch.tensor([0, 0, 0, 1, 2, 2]),
        clean_estimates=torch.tensor([True] * 5 + [False]),
    )
    expected = torch.tensor([[0, 1.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1]])
    torch.testing.assert_close(data.majority_pair_counts(), expected[None])
    one = replace(data, votes=None, clean_votes=clean_votes[:, :1])
    assert torch.equal(one.majority_pair_counts(), one.pair_counts())


def test_without_votes_of_the_audited_there_are_no_pairs() -> None:
    assert torch.equal(training_set().pair_counts(), torch.zeros(1, 3, 3))
    assert torch.equal(training_set().majority_pair_counts(), torch.zeros(1, 3, 3))
    votes = torch.zeros(20, 2).long()
    assert torch.equal(training_set(votes=votes).pair_counts(), torch.zeros(2, 3, 3))


def test_a_class_that_was_only_reviewed_has_no_estimate() -> None:
    labels, estimates = torch.tensor([0, 0, 1, 2]), torch.tensor([True, True, False, True])
    data = training_set(clean=4, num_classes=4, clean_labels=labels, clean_estimates=estimates)
    assert data.classes_without_estimate() == (1, 3)
    assert training_set().classes_without_estimate() == ()
