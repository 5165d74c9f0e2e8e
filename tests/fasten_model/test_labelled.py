"""Labelled images from tensors."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
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
        ({"images": torch.zeros(2, 3, 8, 8)}, r"; of floats from 0 to 1: \(255 \* x\)\.round\(\)\.byte\(\)$"),
        (
            {"images": torch.zeros(2, 3, 8, 8, dtype=torch.int32)},
            r"got int32 .*; of values from 0 to 255: x\.byte\(\)$",
        ),
        *(
            ({"images": torch.zeros(shape, dtype=torch.uint8)}, rf"got uint8 {re.escape(str(shape))}{way_out}$")
            for shape, way_out in (
                ([2, 8, 8, 3], r"; put the channels first: x\.permute\(0, 3, 1, 2\)"),
                ([2, 1, 8, 8], r"; repeat the one channel: x\.expand\(-1, 3, -1, -1\)"),
                ([2, 8, 8], r"; give the one channel three times: x\[:, None\]\.expand\(-1, 3, -1, -1\)"),
                ([3, 8, 8], r"; make a batch of the one image: x\[None\]"),
                ([2, 3, 8, 9], "; crop or resize them to squares"),
                ([2, 4, 8, 8], ""),
                ([8], ""),
            )
        ),
        (
            {"images": np.zeros((2, 3, 8, 8), np.uint8)},
            r"^images must be a tensor, got ndarray uint8 \[2, 3, 8, 8\]: torch\.from_numpy\(…\) makes one of an array",
        ),
        ({"images": [torch.zeros(3, 8, 8)] * 2}, "^images must be a tensor, got list: "),
        ({"images": None}, "^images must be a tensor, got NoneType: "),
        *(
            (
                {name: np.zeros(2, np.int64)},
                rf"^{name} must be a tensor, got ndarray int64 \[2\]: torch\.from_numpy\(…\)",
            )
            for name in ("labels", "given_labels", "estimates", "asked_in", "votes")
        ),
        ({"labels": [0, 1]}, r"^labels must be a tensor, got list: .*torch\.tensor\(…\) of a list$"),
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


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.tensor([1, 0]), r"^mask must be bool \[2\], got int64 \[2\]$"),
        (torch.tensor([True]), r"^mask must be bool \[2\], got bool \[1\]$"),
        ([True, False], "^mask must be a tensor, got list"),
    ],
)
def test_rows_are_chosen_by_a_mask_and_by_nothing_else(mask: Any, says: str) -> None:
    """By numbers the images would come in another order than the ids."""
    labelled = LabelledImages.from_tensors(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match=says):
        labelled.at(mask)


def test_an_id_that_is_no_text_is_refused_however_the_set_is_made() -> None:
    sound = LabelledImages.from_tensors(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"sample_ids must be texts, got 7 \(int\)"):
        replace(sound, sample_ids=("a", 7))  # type: ignore[arg-type]
