"""Triage: the order of the queue, and the reason that each reviewer reads."""

from dataclasses import replace

from fasten_model.scoring import Decision
from pipeline.triage import Candidate, choose_queue, count_decisions, reason


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
    assert reason(candidate("s", "relabel", 0.9)) == "The model is confident (60%) that this is not “3”."
    doubted = candidate("d", "low_confidence", 0.9)
    assert reason(doubted) == "The model doubts “3” (60% for its own guess), but cannot decide alone."
    assert reason(replace(doubted, model_label="3")) == "The model is unsure: it gives “3” only 60%."


def test_every_decision_is_counted_also_those_that_did_not_occur() -> None:
    assert count_decisions(["keep", "keep", "relabel"]) == {"keep": 2, "relabel": 1, "low_confidence": 0}
