"""Annotators' own confusions, from votes, scores and decisions."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import DataError
from pipeline.people import annotators as module
from pipeline.people.annotators import annotators_of
from pipeline.schema import SCORES

if TYPE_CHECKING:
    from tests.pipeline.people.conftest import Desk

CLASSES = ("3", "5", "8")
MIXES_UP_3 = np.array([[0.55, 0.05, 0.40], [0.04, 0.92, 0.04], [0.04, 0.04, 0.92]])
CAREFUL = np.array([[0.92, 0.04, 0.04], [0.04, 0.92, 0.04], [0.04, 0.04, 0.92]])


def scores(posterior: dict[str, list[float]]) -> pa.Table:
    """As much of `scores.parquet` as the posterior of each sample needs."""
    plain: dict[str, Any] = dict.fromkeys(SCORES.names, "") | {
        name: 0.0 for name in SCORES.names if pa.types.is_floating(SCORES.field(name).type)
    }
    rows = [plain | {"sample_id": sample, "posterior": q} for sample, q in posterior.items()]
    return pa.Table.from_pylist(rows, schema=SCORES)


def team(desk: "Desk", count: int, *, audited: int = 0, reviewed: bool = False) -> dict[str, list[float]]:
    """Votes of two annotators on `count` samples, each labelled by both; → the beliefs of the undecided ones.

    reviewed: every sample on which the first one is wrong has been asked about, as the model would have it.
    """
    rng = np.random.default_rng(0)
    posterior: dict[str, list[float]] = {}
    for number in range(count):
        truth = int(rng.integers(3))
        first, second = (int(rng.choice(3, p=matrix[truth])) for matrix in (MIXES_UP_3, CAREFUL))
        votes = {"user:1": CLASSES[first], "user:2": CLASSES[second]}
        if number < audited:
            desk.clean(f"s{number}", CLASSES[truth], votes)
        elif reviewed and first != truth:
            desk.clean(f"s{number}", CLASSES[truth], votes, provenance="review")
        else:
            desk.noisy(f"s{number}", votes)
            posterior[f"s{number}"] = [0.96 if place == truth else 0.02 for place in range(3)]
    return posterior


@pytest.mark.parametrize("reviewed", [False, True])
def test_an_annotators_confusion_is_found_whether_or_not_its_samples_were_reviewed(
    desk: "Desk", reviewed: bool
) -> None:
    beliefs = team(desk, 1500, audited=200, reviewed=reviewed)
    (worst, best), left_out, strength = annotators_of(desk.snapshot(), scores(beliefs))
    assert (worst.name, best.name, left_out) == ("user:1", "user:2", 0)
    assert strength is not None
    assert (worst.votes, worst.audited) == (1500, 200)
    assert worst.error.value == pytest.approx(0.20, abs=0.03)
    assert worst.error.low < worst.error.value < worst.error.high
    assert worst.expected_wrong == pytest.approx(1500 * worst.error.value)
    confusion = worst.confusions[0]
    assert (confusion.truth, confusion.said) == ("3", "8")
    assert confusion.share.value == pytest.approx(0.40, abs=0.05)
    assert confusion.share.low < confusion.share.value < confusion.share.high
    assert [sum(row) for row in worst.matrix] == pytest.approx([1, 1, 1])
    assert worst.matrix[0][2] == confusion.share.value


def test_without_scores_what_people_have_decided_counts(desk: "Desk") -> None:
    team(desk, 600, audited=600)
    (worst, _), _, _ = annotators_of(desk.snapshot(), None)
    assert (worst.name, worst.confusions[0].truth, worst.audited) == ("user:1", "3", 600)


def test_samples_without_a_score_are_left_out(desk: "Desk") -> None:
    beliefs = team(desk, 100)
    kept = dict(list(beliefs.items())[:40]) | {"of another snapshot": [1.0, 0.0, 0.0]}
    found, _, _ = annotators_of(desk.snapshot(), scores(kept))
    assert {each.votes for each in found} == {40}


def test_scores_of_other_classes_are_refused(desk: "Desk") -> None:
    desk.noisy("a", {"user:1": "3"})
    with pytest.raises(DataError, match="scores know 2 classes, the snapshot 3"):
        annotators_of(desk.snapshot(), scores({"a": [0.5, 0.5]}))


def test_nobody_has_voted(desk: "Desk") -> None:
    desk.clean("a", "3", {})
    assert annotators_of(desk.snapshot(), scores({})) == ((), 0, None)


def test_only_the_busiest_are_told(desk: "Desk", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ANNOTATORS", 2)
    for number in range(9):
        desk.noisy(f"s{number}", {f"user:{number % 4}": "3"})
    found, left_out, _ = annotators_of(desk.snapshot(), scores({f"s{number}": [1.0, 0.0, 0.0] for number in range(9)}))
    assert ({each.name for each in found}, left_out) == ({"user:0", "user:1"}, 2)
    assert all(each.confusions == () for each in found), "nobody is wrong"


def test_votes_of_deleted_users_are_nobodys(desk: "Desk") -> None:
    for number in range(100):
        desk.noisy(f"s{number}", {"user:1": "3", f"user:deleted:{number}": "3"})
    beliefs = {f"s{number}": [0.96, 0.02, 0.02] for number in range(100)}
    (only,), left_out, _ = annotators_of(desk.snapshot(), scores(beliefs))
    assert (only.name, only.votes, left_out) == ("user:1", 100, 0)
