"""Triage: the decision at ρ, the label below it, and the order of the queue."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.triage import Candidate, Decision, choose_queue, count_decisions, decide

Floats = NDArray[np.float64]


def shares(rows: int, classes: int) -> st.SearchStrategy[Floats]:
    return hnp.arrays(np.float64, (rows, classes), elements=st.floats(1e-3, 1.0)).map(
        lambda a: a / a.sum(axis=1, keepdims=True)
    )


@given(
    p=shares(6, 3), q=shares(6, 3), labels=hnp.arrays(np.int64, 6, elements=st.integers(0, 2)), rho=st.floats(0, 1.2)
)
def test_the_label_is_the_original_one_below_rho_and_the_argmax_from_rho_on(
    p: Floats, q: Floats, labels: NDArray[np.int64], rho: float
) -> None:
    found = decide(p, q, labels, rho=rho)
    for i in range(6):
        confident = max(p[i]) >= rho
        assert found.suggested[i] == (int(np.argmax(p[i])) if confident else labels[i])
        expected = "low_confidence" if not confident else "keep" if np.argmax(p[i]) == labels[i] else "relabel"
        assert found.decisions[i] == expected
        assert found.error_probability[i] == pytest.approx(1 - q[i, labels[i]])
        assert found.given_label_probability[i] == p[i, labels[i]]
        assert found.priority[i] == pytest.approx(1 - q[i, found.suggested[i]])


def test_confidence_of_exactly_rho_corrects() -> None:
    p = np.array([[0.2, 0.8]])
    assert decide(p, p, np.array([0]), rho=0.8).decisions == ("relabel",)


def test_a_sure_correction_is_worth_less_of_a_reviewers_time_than_an_undecided_label() -> None:
    p = np.array([[0.99, 0.01], [0.55, 0.45]])
    found = decide(p, p, np.array([1, 1]), rho=0.8)
    assert found.decisions == ("relabel", "low_confidence")
    assert found.error_probability[0] > found.error_probability[1]
    assert found.priority[0] < found.priority[1]


def test_an_unsure_sample_offers_the_class_that_image_and_given_label_make_most_probable() -> None:
    p, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.7, 0.2]])
    found = decide(p, q, np.array([0]), rho=0.8)
    assert found.guess.tolist() == [1]
    assert found.guess_probability.tolist() == [0.7]


def candidate(sample_id: str, decision: Decision, priority: float) -> Candidate:
    return Candidate(
        sample_id=sample_id,
        image_url=f"/data/{sample_id}.png",
        given_label="3",
        model_label="8",
        model_label_probability=0.6,
        confidence=0.6,
        decision=decision,
        priority=priority,
        model_version="fasten/1",
    )


def test_the_queue_holds_what_is_doubtful_most_valuable_first_and_is_the_same_every_time() -> None:
    asked = [
        candidate("b", "low_confidence", 0.4),
        candidate("kept", "keep", 0.99),
        candidate("a", "low_confidence", 0.4),
        candidate("sure", "relabel", 0.9),
    ]
    for order in (asked, asked[::-1]):
        queue = choose_queue(order, key=lambda sample: f"key-{sample}")
        assert [task.sample_id for task in queue] == ["sure", "a", "b"]
        assert [task.push_key for task in queue] == ["key-sure", "key-a", "key-b"]


def test_the_reason_says_which_doubt_it_is() -> None:
    sure, unsure = choose_queue(
        [candidate("s", "relabel", 0.9), candidate("u", "low_confidence", 0.1)], key=lambda sample: sample
    )
    assert "confident (60%)" in sure.reason
    assert "“3”" in sure.reason
    assert "unsure" in unsure.reason


def test_every_decision_is_counted_also_those_that_did_not_occur() -> None:
    assert count_decisions(["keep", "keep", "relabel"]) == {"keep": 2, "relabel": 1, "low_confidence": 0}
