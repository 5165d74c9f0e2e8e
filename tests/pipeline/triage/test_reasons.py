"""The reason that each reviewer reads."""

from dataclasses import replace

from pipeline.triage import Candidate, Dispute, count_decisions, reason
from pipeline.triage.reasons import recheck_reason, tie_break_reason

DOUBTED = Candidate(
    sample_id="s",
    image_url="/data/s.png",
    given_label="3",
    model_label="8",
    model_label_probability=0.62,
    confidence=0.6,
    error_probability=0.7,
    decision="low_confidence",
    priority=0.7,
    model_version="fasten/1",
)


def dispute(*answers: tuple[str, str | None]) -> Dispute:
    told = tuple((f"user:{number}", answer, label) for number, (answer, label) in enumerate(answers))
    return Dispute(sample_id="s", image_url="/data/s.png", given_label="3", answers=told)


def test_a_targeted_question_says_which_doubt_it_is() -> None:
    assert reason(replace(DOUBTED, model_label_probability=0.98)) == "The model disagrees with “3”."
    assert reason(DOUBTED) == "The model is unsure: it may not be “3”."
    assert reason(replace(DOUBTED, model_label="3")) == "The model is unsure of “3”."


def test_a_tie_break_says_what_people_said_and_not_who() -> None:
    three, eight = ("class", "3"), ("class", "8")
    assert tie_break_reason(dispute(eight, three)) == "Two people disagree: “3” or “8”."
    assert tie_break_reason(dispute(eight, three, ("not_sure", None))) == "Two people disagree: “3” or “8”."
    assert tie_break_reason(dispute(three, three, eight, eight)) == "Four people disagree: “3” or “8”."
    everything = dispute(three, eight, ("unusable", None))
    assert tie_break_reason(everything) == "Three people disagree: “3”, “8” or unusable image."
    assert tie_break_reason(dispute(("not_sure", None))) == "One person was not sure."


def test_a_recheck_says_what_was_decided_and_what_the_model_says() -> None:
    told = recheck_reason(label="3", model_label="8", probability=0.99)
    assert told == "Somebody decided “3”; the model disagrees: almost certain (99 %) that it is “8”."


def test_every_decision_is_counted_also_those_that_did_not_occur() -> None:
    assert count_decisions(["keep", "keep", "relabel"]) == {"keep": 2, "relabel": 1, "low_confidence": 0}
