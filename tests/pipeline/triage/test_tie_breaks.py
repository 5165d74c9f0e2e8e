"""Who is asked again about what people have left undecided."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import DataError
from pipeline.records import ReviewTask
from pipeline.schema import LABELS, NOISY, SCORES, UNDECIDED
from pipeline.triage import Dispute, candidates_of, disputes_of
from pipeline.triage.tie_breaks import tie_breaks

THREE, EIGHT, NOT_SURE, UNUSABLE = ("class", "3"), ("class", "8"), ("not_sure", None), ("unusable", None)
Said = tuple[str, str | None]


def dispute(*answers: Said, answered: int | None = None, **changes: Any) -> Dispute:
    told = tuple((f"user:{who}", answer, label) for who, (answer, label) in enumerate(answers))
    return Dispute(
        sample_id="s",
        image_url="/data/s.png",
        given_label="3",
        answers=told,
        answered=len(told) if answered is None else answered,
        **changes,
    )


def key(sample_id: str, question: str) -> str:
    return f"{sample_id} {question}"


def asked(one: Dispute, *, before: Collection[str] = ("s ",), overlap: int = 1) -> list[ReviewTask]:
    return tie_breaks([one], asked=before, overlap=overlap, key=key, run_key="run")


def test_a_disagreement_goes_to_another_person_with_the_words_that_people_used_and_no_suggestion() -> None:
    (task,) = asked(dispute(THREE, EIGHT))
    assert (task.push_key, task.asked_as, task.run_key) == ("s tie_break/2", "tie_break", "run")
    assert task.reason == "Two people disagree: “3” or “8”."
    assert (task.current_label, task.model_label, task.references, task.priority) == ("3", "", (), 0.5)


@pytest.mark.parametrize(
    ("one", "again"),
    [
        (dispute(NOT_SURE), True),
        (dispute(NOT_SURE, NOT_SURE), False),
        (dispute(NOT_SURE, answered=9), True),
        (dispute(NOT_SURE, answered=10), False),
        (dispute(THREE, UNUSABLE), True),
        (dispute(THREE, EIGHT, THREE, EIGHT), True),
        (dispute(THREE, EIGHT, THREE, EIGHT, NOT_SURE), False),
        (dispute(THREE, EIGHT, answered=9), True),
        (dispute(THREE, EIGHT, answered=10), False),
    ],
)
def test_one_more_person_is_asked_while_that_may_settle_it(one: Dispute, again: bool) -> None:
    assert bool(asked(one)) is again


def test_nobody_is_asked_again_while_an_earlier_question_waits() -> None:
    two = dispute(THREE, EIGHT)
    assert asked(two, before={"s "}, overlap=2)
    assert not asked(two, before={"s "}, overlap=3)
    assert not asked(two, before={"s ", "s tie_break/2"})
    third = dispute(THREE, EIGHT, NOT_SURE)
    assert asked(third, before={"s ", "s tie_break/2"})
    assert not asked(dispute(THREE, EIGHT, NOT_SURE), before={"s ", "s tie_break/2"}, overlap=2)


def test_a_question_of_before_the_overlap_was_raised_is_not_waited_for() -> None:
    def again(*, finished: dict[str, int]) -> list[ReviewTask]:
        return tie_breaks([dispute(NOT_SURE)], asked={"s "}, overlap=3, key=key, run_key="", finished=finished)

    assert again(finished={"s ": 1})
    assert not again(finished={}), "two more people are still to answer it"
    assert not again(finished={"s ": 2}), "the second answer came after the pull"


def test_what_has_no_image_to_show_does_not_hold_up_the_others() -> None:
    assert not asked(replace(dispute(NOT_SURE), image_url=""))


def test_a_tie_break_that_came_to_one_of_the_two_again_is_followed_by_another() -> None:
    (task,) = asked(dispute(THREE, EIGHT, answered=3), before={"s ", "s tie_break/2"})
    assert task.push_key == "s tie_break/3"


def test_what_only_the_audit_project_was_not_sure_of_is_asked_once() -> None:
    only = dispute(NOT_SURE, answered=0)
    assert [task.push_key for task in asked(only, before=())] == ["s tie_break/1"]
    assert not asked(only, before={"s tie_break/1"})


def test_a_sample_drawn_at_random_is_asked_again_with_nothing_shown() -> None:
    (task,) = asked(dispute(THREE, EIGHT, asked_as_audit=True))
    assert (task.asked_as, task.push_key) == ("audit", "s tie_break/2")
    assert task.reason == "Random check: say what you see."


def test_the_most_work_that_is_stuck_comes_first() -> None:
    small, big = dispute(NOT_SURE), dispute(THREE, EIGHT)
    found = tie_breaks([small, big], asked=(), overlap=1, key=key, run_key="")
    assert [task.push_key for task in found] == ["s tie_break/2", "s tie_break/1"]


def labels(*answers: tuple[str, str, str | None], origin: str = "review", ground_truth: bool = False) -> pa.Table:
    """An answer for each (sample, answer, asked as)."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"sample_id": sample, "answer": answer, "asked_as": kind, "annotator": "user:1", "origin": origin}
        | {"project_id": 1, "task_id": 1, "annotation_id": number, "created_at": now, "updated_at": now}
        | {"ground_truth": ground_truth, "was_cancelled": answer == "skipped"}
        for number, (sample, answer, kind) in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, LABELS)


def test_disputes_know_how_often_they_were_answered_and_whether_chance_asked() -> None:
    answers = [{"annotator": "user:1", "answer": "class", "label": "3"}]
    rows: list[dict[str, object]] = [
        {"sample_id": name, "image_url": "/data/s.png", "label": label, "votes": [], "state": state, "answers": answers}
        for name, label, state in (("a", "3", "disputed"), ("b", None, "not_sure"), ("c", "3", "unusable"))
    ]
    said = labels(("a", "class", "audit"), ("a", "skipped", "audit"), ("b", "not_sure", "targeted"))
    found = disputes_of(
        pa.Table.from_pylist(rows, UNDECIDED), pa.concat_tables([said, labels(("a", "class", "tie_break"))])
    )
    assert [(one.sample_id, one.given_label, one.answered, one.asked_as_audit) for one in found] == [
        ("a", "3", 2, True),
        ("b", "", 1, False),
    ]


def test_what_an_auditor_was_not_sure_of_was_drawn_at_random_and_leads_nobody() -> None:
    answers = [{"annotator": "user:1", "answer": "not_sure", "label": None}]
    rows: list[dict[str, object]] = [
        {"sample_id": name, "image_url": "/s.png", "label": "3", "votes": [], "state": "not_sure", "answers": answers}
        for name in ("a", "b", "c")
    ]
    said = [
        labels(("a", "not_sure", None), origin="audit"),
        labels(("b", "not_sure", "targeted")),
        labels(("b", "class", None), origin="labels"),
        labels(("c", "not_sure", "targeted")),
        labels(("c", "skipped", "audit")),
    ]
    found = disputes_of(pa.Table.from_pylist(rows, UNDECIDED), pa.concat_tables(said))
    assert [one.asked_as_audit for one in found] == [True, False, False]
    assert [task.asked_as for task in asked(found[0], before=())] == ["audit"]


def test_a_star_in_the_review_project_makes_no_random_draw_of_what_the_model_chose() -> None:
    answers = [{"annotator": f"user:{who}", "answer": "class", "label": label} for who, label in ((1, "3"), (2, "8"))]
    row = {"sample_id": "a", "image_url": "/s.png", "label": "3", "votes": [], "state": "disputed", "answers": answers}
    undecided = pa.Table.from_pylist([row], UNDECIDED)
    starred = labels(("a", "class", "targeted"), ("a", "class", "targeted"), ground_truth=True)
    [found] = disputes_of(undecided, starred)
    assert [task.asked_as for task in asked(found)] == ["tie_break"], "as an audit, its answer would estimate"
    [found] = disputes_of(undecided, labels(("a", "unusable", None), origin="labels", ground_truth=True))
    assert found.asked_as_audit


def test_candidates_are_the_scores_in_their_order_with_the_images_of_the_snapshot() -> None:
    score = {
        "given_label": "3",
        "suggested_label": "3",
        "model_label": "8",
        "model_label_probability": 0.6,
        "confidence": 0.5,
        "given_label_probability": 0.3,
        "error_probability": 0.7,
        "posterior": [0.3, 0.6],
        "decision": "low_confidence",
        "priority": 0.7,
        "model_version": "fasten/1",
    }
    scores = pa.Table.from_pylist([{"sample_id": name, **score} for name in ("b", "a")], SCORES)
    images: list[dict[str, object]] = [
        {"sample_id": name, "image_sha256": f"hash of {name}", "image_url": f"/{name}.png", "label": "3", "votes": []}
        for name in ("a", "b")
    ]
    noisy = pa.Table.from_pylist(images, NOISY)
    found = candidates_of(scores, noisy)
    assert [(one.sample_id, one.image_sha256, one.image_url) for one in found] == [
        ("b", "hash of b", "/b.png"),
        ("a", "hash of a", "/a.png"),
    ]
    with pytest.raises(DataError, match="'b' has scores but is not in the snapshot"):
        candidates_of(scores, noisy.slice(0, 1))
