import numpy as np
import pytest

from pipeline.demo.annotators import (
    DIGIT_ANNOTATORS,
    FASHION_ANNOTATORS,
    Annotator,
    assign,
    simulated_reviewer,
    simulated_votes,
)
from pipeline.demo.datasets import FASHION_CLASSES

DIGITS = tuple("0123456789")
TEAMS = [
    pytest.param(DIGIT_ANNOTATORS, DIGITS, id="digits"),
    pytest.param(FASHION_ANNOTATORS, FASHION_CLASSES, id="fashion"),
]


@pytest.mark.parametrize(("team", "classes"), TEAMS)
def test_confusions_are_row_stochastic(team: tuple[Annotator, ...], classes: tuple[str, ...]) -> None:
    for annotator in team:
        confusion = annotator.confusion(classes)
        assert confusion.min() >= 0
        np.testing.assert_allclose(confusion.sum(axis=1), 1.0)


@pytest.mark.parametrize(("team", "classes"), TEAMS)
def test_the_truth_is_what_each_annotator_says_most(team: tuple[Annotator, ...], classes: tuple[str, ...]) -> None:
    for annotator in team:
        assert (annotator.confusion(classes).argmax(axis=1) == np.arange(len(classes))).all()


def test_each_annotator_has_a_confusion_of_its_own() -> None:
    first, second, third = (annotator.confusion(DIGITS) for annotator in DIGIT_ANNOTATORS)
    assert min(np.abs(first - second).max(), np.abs(first - third).max(), np.abs(second - third).max()) > 0.2


def test_a_slip_replaces_the_answer_by_any_other_class() -> None:
    confusion = Annotator(slips=0.3, mixups={}).confusion(("a", "b", "c", "d"))
    np.testing.assert_allclose(confusion, np.full((4, 4), 0.1) + 0.6 * np.eye(4))


@pytest.mark.parametrize(("team", "classes"), TEAMS)
def test_about_three_in_ten_votes_are_wrong(team: tuple[Annotator, ...], classes: tuple[str, ...]) -> None:
    truths = [classes[i % len(classes)] for i in range(4_000)]
    votes = simulated_votes(truths, classes, team, np.random.default_rng(0))
    wrong = [vote.label != truth for truth, said in zip(truths, votes, strict=True) for vote in said]
    assert 0.27 < np.mean(wrong) < 0.33
    last = [said[-1].label != truth for truth, said in zip(truths, votes, strict=True)]
    assert 0.27 < np.mean(last) < 0.33, "the consensus (ties to the most recent) is as wrong as the votes"


def test_work_is_shared_evenly_and_a_quarter_is_labelled_twice() -> None:
    whom = assign(1_200, 3, np.random.default_rng(0))
    assert [sum(pair[0] == who for pair in whom) for who in range(3)] == [400, 400, 400]
    assert sum(len(pair) == 2 for pair in whom) == 300
    assert all(len(set(pair)) == len(pair) for pair in whom)
    assert {pair[1] for pair in whom if len(pair) == 2} == {0, 1, 2}


def test_a_single_annotator_is_never_asked_twice() -> None:
    assert assign(8, 1, np.random.default_rng(0)) == [(0,)] * 8


def test_votes_depend_on_the_seed_alone() -> None:
    truths = list(DIGITS) * 20
    first, again, other = (
        simulated_votes(truths, DIGITS, DIGIT_ANNOTATORS, np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_the_reviewer_is_right_as_often_as_asked_and_wrong_with_another_class() -> None:
    rng = np.random.default_rng(0)
    answers = [simulated_reviewer("3", DIGITS, rng=rng) for _ in range(4_000)]
    assert 0.96 < np.mean([answer == "3" for answer in answers]) < 0.98
    assert set(answers) == set(DIGITS)
    assert {simulated_reviewer("3", DIGITS, 0.0, rng=rng) for _ in range(200)} == set(DIGITS) - {"3"}
