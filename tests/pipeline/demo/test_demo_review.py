from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.demo.review import Reviewed, review_queue
from pipeline.records import NOT_SURE, LabelControl, Project, Task

CLASSES = ("cat", "dog", "cow")
PROJECT = Project(
    project_id=3,
    title="review",
    control=LabelControl(name="label", to_name="image", image_field="image", classes=CLASSES),
)


def _task(number: int, *, current: str = "dog", suggested: str = "cat") -> Task:
    data = {"sample_id": f"s{number}", "current_label": current, "model_label": suggested}
    return Task(task_id=number, project_id=3, data=data)


class MemoryQueue:
    def __init__(self, tasks: Sequence[Task]) -> None:
        self.waiting = list(tasks)
        self.answers: list[tuple[str, int, str | None, str | None]] = []
        self.lead_times: list[float] = []


class MemoryReviewer:
    def __init__(self, name: str, queue: MemoryQueue) -> None:
        self.name, self.queue = name, queue

    def next_task(self, project: Project) -> Task | None:
        assert project is PROJECT
        return self.queue.waiting[0] if self.queue.waiting else None

    def submit(
        self,
        project: Project,
        task: Task,
        *,
        label: str | None = None,
        verdict: str | None = None,
        lead_time_s: float | None = None,
    ) -> int:
        assert project is PROJECT
        assert lead_time_s is not None
        self.queue.waiting.remove(task)
        self.queue.answers.append((self.name, task.task_id, label, verdict))
        self.queue.lead_times.append(lead_time_s)
        return task.task_id


def _review(queue: MemoryQueue, **changes: Any) -> Reviewed:
    arguments: dict[str, Any] = {
        "truths": {f"s{n}": "cat" for n in range(1_000)},
        "given": {task.sample_id: task.data.get("current_label", "dog") for task in queue.waiting},
        "count": 100,
        "accuracy": 1.0,
        "rng": np.random.default_rng(0),
    } | changes
    return review_queue([MemoryReviewer("ann", queue), MemoryReviewer("ben", queue)], PROJECT, **arguments)


def test_reviewers_take_turns_in_the_order_of_the_queue() -> None:
    queue = MemoryQueue([_task(n) for n in (5, 2, 9)])
    _review(queue)
    assert queue.answers == [("ann", 5, "cat", None), ("ben", 2, "cat", None), ("ann", 9, "cat", None)]


def test_no_more_are_asked_than_wanted() -> None:
    queue = MemoryQueue([_task(n) for n in range(5)])
    assert _review(queue, count=2).asked == 2
    assert len(queue.waiting) == 3


def test_an_empty_queue_asks_nobody() -> None:
    assert _review(MemoryQueue([])).asked == 0


def test_the_summary_says_what_the_attention_was_worth() -> None:
    queue = MemoryQueue(
        [
            _task(0),  # the label was wrong, the suggestion is right
            _task(1, current="cat", suggested="dog"),  # the label was right all along
            _task(2, current="dog", suggested="cow"),  # both wrong
        ]
    )
    summary = _review(queue)
    assert (summary.asked, summary.really_wrong, summary.suggestion_right, summary.answered_right) == (3, 2, 1, 3)
    assert summary.seconds == sum(queue.lead_times) > 0


def test_a_question_that_shows_nothing_is_answered_and_counted_like_any_other() -> None:
    unshown = Task(task_id=0, project_id=3, data={"sample_id": "s0", "current_label": ""})
    summary = _review(MemoryQueue([unshown]), given={"s0": "dog"})
    assert (summary.asked, summary.really_wrong, summary.suggestion_right) == (1, 1, 0)


def test_reviewers_err_as_often_as_they_are_said_to_and_only_with_classes() -> None:
    queue = MemoryQueue([_task(n) for n in range(1_000)])
    summary = _review(queue, count=1_000, accuracy=0.9)
    assert 870 < summary.answered_right < 930
    assert {label for _, _, label, _ in queue.answers} == set(CLASSES)


def test_nobody_knows_a_sample_without_a_truth() -> None:
    queue = MemoryQueue([_task(0), _task(1)])
    summary = _review(queue, truths={"s0": "cat"})
    assert queue.answers[1] == ("ben", 1, None, NOT_SURE)
    assert (summary.asked, summary.unknown, summary.really_wrong, summary.answered_right) == (2, 1, 1, 1)


def test_the_same_seed_gives_the_same_answers() -> None:
    first, second = (MemoryQueue([_task(n) for n in range(50)]) for _ in range(2))
    assert _review(first, accuracy=0.5) == _review(second, accuracy=0.5)
    assert first.answers == second.answers
