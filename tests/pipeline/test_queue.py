"""The queue asks every question once, however answers get lost."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest

from pipeline.errors import DataError, ServiceError, ServiceUnavailable
from pipeline.queue import MOST_TIE_BREAKS, QUEUE_MODEL_VERSION, kinds_of_key, payload_of, push, push_key
from pipeline.records import UNSHOWN, AskedAs, LabelControl, Project, ReviewTask
from pipeline.review_screen import TASK_VARIABLES

CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
REVIEW = Project(project_id=9, title="review", control=CONTROL)


def question(number: int, **changes: Any) -> ReviewTask:
    task = ReviewTask(
        push_key=push_key(1, f"s{number}"),
        sample_id=f"s{number}",
        image_url=f"/data/upload/{number}.png",
        current_label="cat",
        model_label="dog",
        confidence=0.9,
        reason="the model says otherwise",
        priority=0.5,
        model_version="3",
        run_key="run-1",
        rank=number / 100,
    )
    return replace(task, **changes)


@dataclass
class MemoryDoor:
    """A review project in memory; `faults` are what the next imports do instead of answering."""

    tasks: list[Mapping[str, Any]] = field(default_factory=list)
    faults: list[Callable[["MemoryDoor", Sequence[Mapping[str, Any]]], None]] = field(default_factory=list)
    imports: list[int] = field(default_factory=list)
    just_before: dict[int, Sequence[int]] = field(default_factory=dict)
    """Questions that another machine asks right before the import of that number."""
    looks: list[int] = field(default_factory=list)
    """How many tasks each look found."""
    invisible_for: int = 0

    def push_keys(self, project_id: int, /, *, after: int, but: Sequence[int] = ()) -> dict[int, str]:
        assert project_id == REVIEW.project_id
        if self.invisible_for > 0:
            self.invisible_for -= 1
            return {}
        ids = [number for number in range(after + 1, len(self.tasks) + 1) if number not in but]
        self.looks.append(len(ids))
        return {number: self.tasks[number - 1]["data"]["push_key"] for number in ids}

    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]], /) -> list[int]:
        assert project_id == REVIEW.project_id
        self.imports.append(len(payload))
        others = self.just_before.get(len(self.imports), ())
        self.tasks.extend(payload_of(question(number), REVIEW) for number in others)
        if self.faults:
            self.faults.pop(0)(self, payload)
        else:
            self.tasks.extend(payload)
        return list(range(len(self.tasks) - len(payload) + 1, len(self.tasks) + 1))

    @property
    def keys(self) -> list[str]:
        return [task["data"]["push_key"] for task in self.tasks]


def committed_but_unanswered(door: MemoryDoor, payload: Sequence[Mapping[str, Any]]) -> None:
    door.tasks.extend(payload)
    raise ServiceUnavailable("timed out")


def committed_late(door: MemoryDoor, payload: Sequence[Mapping[str, Any]]) -> None:
    door.invisible_for = 2
    committed_but_unanswered(door, payload)


def lost_on_the_way(door: MemoryDoor, payload: Sequence[Mapping[str, Any]]) -> None:
    del door, payload
    raise ServiceUnavailable("connection refused")


def half_committed(door: MemoryDoor, payload: Sequence[Mapping[str, Any]]) -> None:
    door.tasks.extend(payload[: len(payload) // 2])
    raise ServiceUnavailable("cut off")


def test_a_second_push_adds_nothing() -> None:
    door = MemoryDoor()
    tasks = [question(i) for i in range(25)]
    first = push(door, REVIEW, tasks, chunk=10)
    second = push(door, REVIEW, tasks, chunk=10)
    assert (first.added, first.known) == (25, 0)
    assert (second.added, second.known) == (0, 25)
    assert door.imports == [10, 10, 5]


@pytest.mark.parametrize("fault", [committed_but_unanswered, committed_late])
def test_an_import_that_arrived_although_its_answer_was_lost_is_not_sent_again(fault: Callable[..., None]) -> None:
    door = MemoryDoor(faults=[fault])
    pauses: list[float] = []
    push(door, REVIEW, [question(i) for i in range(25)], chunk=10, pause=pauses.append)
    assert len(door.keys) == len(set(door.keys)) == 25
    assert sum(pauses) < 20


@pytest.mark.parametrize("fault", [lost_on_the_way, half_committed])
def test_what_a_lost_import_left_out_is_added_by_the_next_push_and_only_that(fault: Callable[..., None]) -> None:
    door = MemoryDoor(faults=[fault])
    tasks = [question(i) for i in range(25)]
    with pytest.raises(ServiceUnavailable, match="run it again"):
        push(door, REVIEW, tasks, chunk=10, pause=lambda _: None)
    push(door, REVIEW, tasks, chunk=10)
    assert len(door.keys) == len(set(door.keys)) == 25


def test_an_import_that_is_committed_after_we_gave_up_is_there_once() -> None:
    door = MemoryDoor(faults=[lost_on_the_way])
    tasks = [question(i) for i in range(3)]
    with pytest.raises(ServiceUnavailable):
        push(door, REVIEW, tasks, pause=lambda _: None)
    assert door.imports == [3], "sent once; a second copy would meet the first one"
    door.tasks.extend(payload_of(task, REVIEW) for task in tasks)
    assert push(door, REVIEW, tasks).added == 0


def test_what_another_machine_asks_meanwhile_is_seen_before_the_next_import_and_nothing_of_ours_is_read_again() -> None:
    door = MemoryDoor(just_before={1: [12, 24], 2: [25, 3]})
    report = push(door, REVIEW, [question(i) for i in range(25)], chunk=10)
    assert door.imports == [10, 9, 4]
    assert (report.added, report.known) == (23, 2)
    assert door.looks == [0, 2, 2]
    assert door.keys.count(push_key(1, "s3")) == 2, "which was sent already: the copy is removed at the end of a push"


def test_what_is_known_is_not_read_again() -> None:
    door = MemoryDoor()
    push(door, REVIEW, [question(i) for i in range(20)])
    known = {number + 1: key for number, key in enumerate(door.keys[:15])}
    door.looks = []
    assert push(door, REVIEW, [question(i) for i in range(30)], known=known).added == 10
    assert door.looks == [1 + 5], "the newest that is known has to be there still"


def test_ids_that_are_given_out_again_hide_no_question_of_another_machine() -> None:
    door = MemoryDoor()
    push(door, REVIEW, [question(i) for i in range(10)])
    known = {number + 1: key for number, key in enumerate(door.keys)}
    del door.tasks[8:]  # another machine removes the two newest, and asks two others
    door.tasks += [payload_of(question(number), REVIEW) for number in (20, 21)]
    report = push(door, REVIEW, [question(i) for i in (20, 21, 22)], known=known)
    assert (report.added, report.known) == (1, 2)
    assert len(set(door.keys)) == len(door.keys)


def test_a_refusal_is_not_tried_again() -> None:
    def refuse(door: MemoryDoor, payload: Sequence[Mapping[str, Any]]) -> None:
        del door, payload
        raise ServiceError("counted fewer than sent")

    door = MemoryDoor(faults=[refuse])
    with pytest.raises(ServiceError, match="counted fewer"):
        push(door, REVIEW, [question(1)])
    assert door.imports == [1]


def test_the_lowest_rank_is_sent_first_and_scored_lowest() -> None:
    door = MemoryDoor()
    push(door, REVIEW, [question(50), question(3, asked_as="audit"), question(7)], limit=2)
    assert [task["data"]["sample_id"] for task in door.tasks] == ["s3", "s7"]
    assert [task["predictions"][0]["score"] for task in door.tasks] == [0.03, 0.07]


def test_the_limit_counts_new_questions_only() -> None:
    door = MemoryDoor()
    push(door, REVIEW, [question(i) for i in range(10)], limit=4)
    report = push(door, REVIEW, [question(i) for i in range(10)], limit=4)
    assert (report.known, report.added, report.over_limit) == (4, 4, 2)
    assert push(door, REVIEW, [question(i) for i in range(10)], limit=0).added == 0


def test_a_dry_run_sends_nothing_and_says_the_same_twice() -> None:
    door = MemoryDoor()
    lines = {push(door, REVIEW, [question(i) for i in range(10)], limit=4, dry_run=True).line() for _ in range(2)}
    assert lines == {"would add 4 of 10 questions (0 known, 6 over the limit)"}
    assert door.tasks == []
    assert door.imports == []


def test_the_same_question_twice_is_asked_once() -> None:
    door = MemoryDoor()
    assert push(door, REVIEW, [question(1), question(1), question(2)]).offered == 2
    assert len(door.keys) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"model_label": "horse"},
        {"confidence": 1.2},
        {"confidence": float("nan")},
        {"priority": -0.1},
        {"rank": 1.5},
        {"rank": float("nan"), "asked_as": "audit"},
        {"image_url": ""},
        {"push_key": ""},
    ],
)
def test_one_bad_question_stops_the_push_before_anything_is_sent(changes: dict[str, Any]) -> None:
    door = MemoryDoor()
    with pytest.raises(DataError, match="s7"):
        push(door, REVIEW, [question(1), question(7, **changes)], chunk=1)
    assert door.tasks == []


def test_the_payload_holds_what_the_screen_shows() -> None:
    payload = payload_of(question(1, extra={"image": "ours wins", "batch": "b1"}), REVIEW)
    data = payload["data"]
    assert set(TASK_VARIABLES) <= set(data)
    assert data["image"] == "/data/upload/1.png"
    assert data["batch"] == "b1"
    assert (data["asked_as"], data["asked_by_run"], data["model_label"]) == ("targeted", "run-1", "dog")
    [prediction] = payload["predictions"]
    assert prediction["model_version"] == QUEUE_MODEL_VERSION
    assert prediction["result"][0]["value"] == {"choices": ["dog"]}


@pytest.mark.parametrize("kind", get_args(AskedAs))
def test_every_kind_of_question_fills_the_screen_and_has_its_place(kind: AskedAs) -> None:
    payload = payload_of(question(30, asked_as=kind), REVIEW)
    assert set(TASK_VARIABLES) <= set(payload["data"])
    assert payload["data"]["asked_as"] == kind
    assert [prediction["score"] for prediction in payload["predictions"]] == [0.3]


@pytest.mark.parametrize("kind", sorted(UNSHOWN))
def test_a_question_that_is_to_lead_nobody_says_nothing_of_what_the_model_or_annotators_think(kind: AskedAs) -> None:
    told = {"current_label": "SECRET", "model_label": "dog", "model_version": "SECRET", "reason": "SECRET"}
    references = ("/data/SECRET.png",)
    extra = {"note": "SECRET"}
    payload = payload_of(question(1, asked_as=kind, references=references, extra=extra, **told), REVIEW)
    assert "SECRET" not in json.dumps(payload)
    assert payload["predictions"][0]["result"] == []
    unlike = question(1, asked_as=kind, current_label="dog", model_label="", confidence=0.0, priority=0.9)
    assert payload_of(unlike, REVIEW) == payload


def test_a_tie_break_has_no_suggestion_to_select() -> None:
    payload = payload_of(question(1, asked_as="tie_break", model_label="", confidence=0.0), REVIEW)
    assert payload["predictions"][0]["result"] == []
    assert not {"model_label", "confidence"} & set(payload["data"])


def test_push_keys_tell_projects_samples_and_questions_apart() -> None:
    keys = {push_key(1, "a"), push_key(2, "a"), push_key(1, "b"), push_key(11, ""), push_key(1, "1")}
    keys |= {push_key(1, "a", asked) for asked in ("recheck", "tie_break/1", "tie_break/2")}
    assert len(keys) == 8
    assert push_key(1, "a") == push_key(1, "a", "") == "03a95b5f06d98dcab602707b"


def test_a_key_says_which_kinds_of_question_it_stands_for() -> None:
    def kinds(asked: str) -> set[str]:
        return set(kinds_of_key(push_key(1, "a", asked), 1, "a"))

    assert kinds("") == {"audit", "check", "targeted"}
    assert kinds("recheck") == {"recheck"}
    assert kinds("tie_break/1") == kinds(f"tie_break/{MOST_TIE_BREAKS}") == {"tie_break", "audit"}
    assert kinds("tie_break/0") == kinds(f"tie_break/{MOST_TIE_BREAKS + 1}") == kinds("else") == set()
    assert kinds_of_key(push_key(1, "a"), 2, "a") == kinds_of_key(push_key(1, "a"), 1, "b") == frozenset()
