"""What waits is changed or withdrawn for what people and the newest model say; what chance drew, for people alone."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasten_model.scoring import DECISIONS, Decision
from pipeline.records import AskedAs, Mode, ReviewTask, Withdrawal
from pipeline.triage import Candidate, Decisions, Dispute, Pace, revisit
from pipeline.triage.targeted import NEGLIGIBLE


@dataclass(frozen=True)
class Question:
    asked_as: AskedAs | None = "targeted"
    current_label: str = "cat"
    sample_id: str = "s"

    @property
    def push_key(self) -> str:
        return f"key of {self.sample_id}"


def candidate(decision: Decision = "low_confidence", **changes: Any) -> Candidate:
    found = Candidate(
        sample_id="s", image_url="/s.png", given_label="cat", model_label="dog", model_label_probability=0.6,
        confidence=0.6, error_probability=0.7, decision=decision, priority=0.7, model_version="fasten/2",
    )  # fmt: skip
    return replace(found, **changes)


DISPUTE = Dispute(
    sample_id="s",
    image_url="/s.png",
    given_label="cat",
    answers=(("user:1", "class", "dog"), ("user:2", "class", "hen")),
    answered=2,
)


def fate(
    question: Question,
    *,
    scored: Candidate | None = None,
    dispute: Dispute | None = None,
    decided: dict[str, str | None] | None = None,
    gone: bool = False,
    mode: Mode = "suggest",
) -> ReviewTask | str | None:
    """How it is asked today, why it is withdrawn, or None where it stays."""
    today, ended = revisit(
        [question],
        candidates=[scored] if scored else [],
        disputes=[dispute] if dispute else [],
        decisions=Decisions(labels=decided or {}, known=set() if gone else {"s"}),
        mode=mode,
        pace=Pace(),
        references={"dog": ("data:,d",)},
        run_key="run-2",
    )
    assert len(today) + len(ended) <= 1
    for withdrawal in ended:
        assert withdrawal == Withdrawal(push_key=question.push_key, sample_id="s", why=withdrawal.why)
        return withdrawal.why
    return today[0] if today else None


def test_a_targeted_question_is_asked_as_the_newest_model_would() -> None:
    task = fate(Question(), scored=candidate())
    assert isinstance(task, ReviewTask)
    assert (task.push_key, task.asked_as, task.model_label, task.run_key) == ("key of s", "targeted", "dog", "run-2")
    assert (task.model_version, task.references) == ("fasten/2", ("data:,d",))
    assert task.rank == pytest.approx(1 - 0.7)


@pytest.mark.parametrize(
    ("scored", "mode"),
    [
        (candidate("keep"), "suggest"),
        (candidate(error_probability=NEGLIGIBLE / 2), "suggest"),
        (candidate("relabel", model_label_probability=0.999), "auto"),
    ],
)
def test_what_the_model_no_longer_doubts_is_withdrawn(scored: Candidate, mode: Mode) -> None:
    assert fate(Question(), scored=scored, mode=mode) == "the model no longer doubts “cat”"


def test_a_targeted_question_that_cannot_be_scored_now_or_that_others_dispute_stays() -> None:
    assert fate(Question()) is None
    assert fate(Question(), dispute=DISPUTE) is None


@given(
    kind=st.sampled_from(["audit", "check"]),
    decision=st.sampled_from(DECISIONS),
    error=st.floats(0, 1),
    mode=st.sampled_from(["suggest", "auto"]),
)
def test_no_model_withdraws_what_chance_has_drawn_nor_shows_anything_of_itself(
    kind: AskedAs, decision: Decision, error: float, mode: Mode
) -> None:
    told = candidate(decision, error_probability=error, model_label_probability=1 - error)
    task = fate(Question(kind, current_label=""), scored=told, mode=mode)
    assert isinstance(task, ReviewTask)
    assert (task.asked_as, task.image_url) == (kind, "/s.png")
    assert fate(Question(kind)) is None


@pytest.mark.parametrize("kind", ["targeted", "audit", "check", "tie_break"])
@pytest.mark.parametrize("label", ["dog", None])
def test_what_people_have_decided_elsewhere_need_not_be_asked(kind: AskedAs, label: str | None) -> None:
    assert fate(Question(kind), decided={"s": label}) == "people have decided it"


@pytest.mark.parametrize("kind", ["targeted", "audit", "check", "tie_break", "recheck"])
def test_a_sample_that_is_gone_is_asked_about_no_more(kind: AskedAs) -> None:
    assert fate(Question(kind), gone=True) == "its sample is gone from the labels project"


def test_a_tie_break_is_asked_as_long_as_there_is_a_dispute() -> None:
    task = fate(Question("tie_break"), dispute=DISPUTE)
    assert isinstance(task, ReviewTask)
    assert (task.asked_as, task.reason, task.model_label) == ("tie_break", "Two people disagree: “dog” or “hen”.", "")
    assert fate(Question("tie_break"), scored=candidate()) == "nobody disagrees about it any more"


def test_a_recheck_stays_as_it_is_as_long_as_its_decision_does() -> None:
    assert fate(Question("recheck", "cat"), decided={"s": "cat"}) is None
    others: list[dict[str, str | None]] = [{"s": "dog"}, {"s": None}, {}]
    for changed in others:
        assert fate(Question("recheck", "cat"), decided=changed) == "the decision that it is about was changed"


def test_a_question_of_a_kind_that_nobody_knows_is_left_alone() -> None:
    assert fate(Question(None), scored=candidate("keep"), gone=True) is None
