"""Labelled images from tensors."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fasten_model.errors import DataError
from fasten_model.labelled import LabelledImages


def test_images_and_labels_are_enough() -> None:
    labelled = LabelledImages.from_tensors(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0]))
    assert labelled.sample_ids == ("0", "1", "2")
    assert labelled.given_labels.tolist() == [-1, -1, -1]
    assert labelled.estimates.all()
    assert len(labelled.at(torch.tensor([True, False, True]))) == 2


def test_votes_are_those_of_the_rows_and_of_the_annotators_asked_for() -> None:
    votes = torch.tensor([[0, 1], [1, -1], [-1, 0]])
    labelled = LabelledImages.from_tensors(
        torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0]), annotators=["ann", "bob"], votes=votes
    )
    some = labelled.at(torch.tensor([True, False, True]))
    assert some.votes_of(["bob", "cyd", "ann"]).tolist() == [[1, -1, 0], [0, -1, -1]]
    untold = LabelledImages.from_tensors(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0]))
    assert untold.at(torch.tensor([True])).votes is None
    assert untold.votes_of(["ann"]).tolist() == [[-1]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": torch.zeros(2, 3, 8, 8)}, r"images must be uint8 \[N,3,S,S\], got float32 \[2, 3, 8, 8\]"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, r"got uint8 \[2, 1, 8, 8\]"),
        ({"images": torch.zeros(2, 3, 8, 9, dtype=torch.uint8)}, r"got uint8 \[2, 3, 8, 9\]"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must be int64 \[2\], got int64 \[3\]"),
        ({"labels": torch.zeros(2)}, r"labels must be int64 \[2\], got float32 \[2\]"),
        (
            {"given_labels": torch.zeros(2, 1, dtype=torch.int64)},
            r"given_labels must be int64 \[2\], got int64 \[2, 1\]",
        ),
        ({"estimates": torch.zeros(2)}, r"estimates must be bool \[2\]"),
        ({"sample_ids": ["a", "a"]}, "sample_ids must be 2 different texts, got 2, 1 different"),
        ({"sample_ids": ["a"]}, "got 1, 1 different"),
        ({"sample_ids": range(2)}, r"^sample_ids must be texts, got 0 \(int\): give str of each$"),
        ({"sample_ids": ["a", None]}, r"^sample_ids must be texts, got None \(NoneType\)"),
        ({"sample_ids": ["a", ["b"]]}, r"^sample_ids must be texts, got \['b'\] \(list\)"),
        ({"annotators": ["a"]}, r"votes must be \[2, R\] for R different annotators, got \[0, 0\] for 1 names"),
        ({"votes": torch.zeros(2, 1, dtype=torch.int64)}, r"got \[2, 1\] for 0 names"),
        ({"annotators": ["a", "a"], "votes": torch.zeros(2, 2, dtype=torch.int64)}, "R different annotators"),
        (
            {"annotators": [17], "votes": torch.zeros(2, 1, dtype=torch.int64)},
            r"annotators must be texts, got 17: take str",
        ),
        ({"annotators": ["a"], "votes": torch.zeros(2, 1)}, "votes must be int64, got float32"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], says: str) -> None:
    sound = {"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "labels": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(DataError, match=says):
        LabelledImages.from_tensors(**{**sound, **changes})


def test_an_id_that_is_no_text_is_refused_however_the_set_is_made() -> None:
    sound = LabelledImages.from_tensors(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"sample_ids must be texts, got 7 \(int\)"):
        replace(sound, sample_ids=("a", 7))  # type: ignore[arg-type]
