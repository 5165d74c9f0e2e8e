"""Consensus is a majority of latest answers, ties to the most recent."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.snapshot.consensus import Answer, consensus, votes

START = datetime(2026, 1, 1, tzinfo=UTC)


def answer(number: int, annotator: str = "user:1", label: str | None = "cat", minute: int = 0, **more: Any) -> Answer:
    values: dict[str, Any] = {"kind": "class" if label else "skipped", "origin": "labels"} | more
    return Answer(
        annotation_id=number,
        annotator=annotator,
        label=label,
        updated_at=START + timedelta(minutes=minute),
        **values,
    )


answers = st.lists(
    st.builds(
        answer,
        number=st.integers(1, 10**6),
        annotator=st.sampled_from(["user:1", "user:2", "user:3", "user:4"]),
        label=st.sampled_from(["cat", "dog", "eel", None]),
        minute=st.integers(0, 5),
    ),
    max_size=12,
    unique_by=lambda one: one.annotation_id,
)


def test_majority_wins_over_recency() -> None:
    cast = votes([answer(1, "a", "cat", 0), answer(2, "b", "cat", 1), answer(3, "c", "dog", 9)])
    assert consensus(cast) == "cat"


def test_a_tie_goes_to_the_most_recent_vote_among_the_tied_labels() -> None:
    cast = votes(
        [answer(1, "a", "cat", 5), answer(2, "b", "dog", 7), answer(3, "c", "cat", 1), answer(4, "d", "dog", 0)]
    )
    assert consensus(cast) == "dog"
    late_third = [*cast, *votes([answer(5, "e", "eel", 60)])]
    assert consensus(late_third) == "dog"


def test_an_instant_shared_by_two_votes_is_settled_by_the_annotation_id() -> None:
    assert consensus(votes([answer(8, "a", "cat", 3), answer(7, "b", "dog", 3)])) == "cat"


def test_only_the_latest_answer_of_an_annotator_counts() -> None:
    cast = votes([answer(1, "a", "cat", 0), answer(2, "a", "dog", 1)])
    assert [vote.label for vote in cast] == ["dog"]


def test_a_label_that_was_skipped_or_unknown_afterwards_is_taken_back() -> None:
    assert votes([answer(1, "a", "cat", 0), answer(2, "a", None, 1)]) == ()
    assert votes([answer(1, "a", "cat", 0), answer(2, "a", "zebra", 1, kind="unknown_class")]) == ()


def test_no_votes_have_no_consensus() -> None:
    assert consensus([]) is None


@given(answers, st.randoms(use_true_random=False))
def test_consensus_depends_on_no_order_and_is_a_most_voted_label(given_answers: list[Answer], random: Any) -> None:
    cast = votes(given_answers)
    shuffled = list(given_answers)
    random.shuffle(shuffled)
    assert votes(shuffled) == cast
    assert len({vote.annotator for vote in cast}) == len(cast)
    label = consensus(cast)
    counts = Counter(vote.label for vote in cast)
    assert (label is None) == (not cast)
    if label is not None:
        assert counts[label] == max(counts.values())
