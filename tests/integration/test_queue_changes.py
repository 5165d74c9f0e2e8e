"""A newer model's push on the real server: what waits is changed where it is, and nobody's work is lost by it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pipeline import loop, queue
from pipeline.label_studio import Asked, LabelStudio, LabelStudioConfig
from pipeline.loop import Found, Pushed
from pipeline.loop.plans import keep_plan
from pipeline.queue import Change, changes_of, push_key
from pipeline.records import AskedAs, Project, ReviewTask, Task, Withdrawal
from pipeline.review_screen import REVIEW_CONTROL, review_config
from pipeline.settings import Settings
from pipeline.snapshot.question import Question, read_question
from pipeline.trail import MachineRun, asked_rows, withdrawn_rows
from pipeline.trail.undo import REVERTED_WHY, undo_run
from pipeline.triage import Plan
from pipeline.workspace import Workspace
from tests.integration.conftest import LabelStudioServer, NewPeople

CLASSES = ("cat", "dog", "hen")
NEVER_DOUBTED = "the model no longer doubts “cat”"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def people(new_people: NewPeople) -> list[LabelStudio]:
    return new_people("changes", 2)


@pytest.fixture(scope="module")
def labels(door: LabelStudio) -> Project:
    return door.create_project("changes, labels", review_config(CLASSES), control=REVIEW_CONTROL)


class Bed:
    """A review project that rounds push to, each with a plan of its own."""

    def __init__(self, settings: Settings, labels: Project, door: LabelStudio) -> None:
        self.settings, self.labels, self.door = settings, labels, door
        self.found = Found(labels=labels, audit=None, review=None, states=(), fingerprint="", nothing_new="")
        self.workspace = Workspace.of(settings, labels.project_id)
        title = settings.review_project or ""
        self.review = door.create_project(title, review_config(CLASSES), uncertainty_sampling=True)

    def question(self, number: int, kind: AskedAs = "targeted", **changes: Any) -> ReviewTask:
        asked = ReviewTask(
            push_key=push_key(self.labels.project_id, f"s{number}"), sample_id=f"s{number}", image_url="data:,x",
            asked_as=kind, current_label="cat", model_label="dog", confidence=0.9, reason="The model disagrees.",
            priority=0.5, model_version="fasten/1", run_key="run-1", rank=number / 100,
        )  # fmt: skip
        return replace(asked, **changes)

    def newer(self, number: int, label: str = "hen", **changes: Any) -> ReviewTask:
        """The same question as the second model asks it."""
        says: dict[str, Any] = {"model_label": label, "model_version": "fasten/2", "run_key": "run-2"}
        return self.question(number, **(says | {"confidence": 0.5} | changes))

    def withdrawal(self, number: int) -> Withdrawal:
        key = push_key(self.labels.project_id, f"s{number}")
        return Withdrawal(push_key=key, sample_id=f"s{number}", why=NEVER_DOUBTED)

    def preview(self, plan: Plan) -> Pushed:
        return loop.preview_queue(self.settings, self.found, plan)

    def push(self, plan: Plan, run_key: str = "run-2") -> Pushed:
        path = self.workspace.run_folder(run_key) / "queue.json"
        keep_plan(plan, path)
        return loop.push_queue(self.settings, self.found, path)

    def tasks(self) -> dict[str, Task]:
        return {task.sample_id: task for task in self.door.iter_tasks(self.review)}

    def asked(self) -> dict[str, Asked]:
        return {each.sample_id: each for each in self.door.asked(self.review)}

    def files(self) -> set[tuple[Path, bytes]]:
        return {(path, path.read_bytes()) for path in self.settings.data_folder.rglob("*") if path.is_file()}


@pytest.fixture
def bed(label_studio: LabelStudioServer, labels: Project, door: LabelStudio, tmp_path: Path) -> Bed:
    settings = Settings(
        label_studio_url=label_studio.url,
        label_studio_token=SecretStr(label_studio.token),
        data_dir=tmp_path / "data",
        labels_project=str(labels.project_id),
        review_project=f"changes {next(_numbers)}",
    )
    return Bed(settings, labels, door)


@pytest.fixture
def a_day_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What was retired has been so for long enough (the server's `Date` has no fractions of a second)."""
    return lambda: monkeypatch.setattr(queue, "WITHDRAWN_AFTER", timedelta(seconds=-2))


def told(changes: Sequence[Change]) -> list[tuple[str, ...]]:
    return [(one.action, one.sample_id, one.asked_as, one.before, one.after, one.why) for one in changes]


def deeds(pushed: Pushed) -> list[str]:
    return sorted(f"{change.action} {change.sample_id}" for change in pushed.changes)


def http(person: LabelStudio) -> httpx.Client:
    return httpx.Client(base_url=person.url, headers=person.authorization(), timeout=60)


def draft(person: LabelStudio, project: Project, task_id: int) -> None:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
    with http(person) as client:
        body = {"result": [region], "lead_time": 1.0}
        path = f"/api/tasks/{task_id}/drafts"
        client.post(path, params={"project": project.project_id}, json=body).raise_for_status()


def predictions(door: LabelStudio, task_id: int) -> list[dict[str, Any]]:
    with http(door) as client:
        found: list[dict[str, Any]] = client.get("/api/predictions/", params={"task": task_id}).json()
    return found


def test_a_newer_model_changes_what_waits_and_nothing_that_somebody_has_touched(
    bed: Bed, people: list[LabelStudio]
) -> None:
    bed.push(Plan.of([bed.question(n) for n in range(8)]), "run-1")
    ann, ben = people
    answered, opened = ann.next_task(bed.review), ben.next_task(bed.review)
    assert answered is not None
    assert opened is not None
    assert [answered.sample_id, opened.sample_id] == ["s0", "s1"]
    ann.submit(bed.review, answered, label="dog", lead_time_s=2.0)
    begun = ann.next_task(bed.review)
    assert begun is not None
    draft(ann, bed.review, begun.task_id)
    before = bed.tasks()

    plan = replace(
        Plan.of([bed.newer(n, rank=0.05) for n in (0, 20)]),
        updates=(
            *(bed.newer(n) for n in (0, 1, 2)),
            bed.newer(6, rank=0.0),
            bed.newer(7, "dog", confidence=0.94, priority=0.1, rank=0.9, references=("data:,r",)),
        ),
        withdrawals=tuple(bed.withdrawal(n) for n in (0, 2, 3, 4)),
    )
    files = bed.files()
    foreseen = bed.preview(plan)
    assert (bed.files(), bed.tasks()) == (files, before), "a dry run writes nothing anywhere"
    pushed = bed.push(plan)
    assert sorted(told(pushed.changes)) == sorted(told(foreseen.changes))
    assert deeds(pushed) == ["add s20", "retire s3", "retire s4", "update s1", "update s6"]
    assert (foreseen.waiting, pushed.waiting, pushed.added) == (6, 6, 1)
    update = next(change for change in pushed.changes if change.sample_id == "s6")
    assert (update.before, update.after) == ("dog, confident (90 %)", "hen, unsure (50 %)")

    now = bed.tasks()
    for untouched_by_us in ("s0", "s2", "s5", "s7"):
        assert now[untouched_by_us] == before[untouched_by_us]
    data = now["s6"].data
    assert {name: data[name] for name in ("model_label", "model_version", "asked_by_run")} == {
        "model_label": "hen",
        "model_version": "fasten/2",
        "asked_by_run": "run-2",
    }
    [prediction] = predictions(bed.door, now["s6"].task_id)
    assert (prediction["score"], prediction["result"][0]["value"]) == (0.0, {"choices": ["hen"]})
    assert bed.asked()["s3"].retired
    assert not bed.asked()["s3"].waiting
    assert [(row["sample_id"], row["run_key"], row["why"]) for row in withdrawn_rows(bed.workspace)] == [
        ("s3", "run-2", NEVER_DOUBTED),
        ("s4", "run-2", NEVER_DOUBTED),
    ]
    events = [(row["run_key"], row["event"]) for row in asked_rows(bed.workspace, "s6")]
    assert events == [("run-1", "add"), ("run-2", "update")]
    assert bed.push(plan).changes == (), "and again: there is nothing left to do"

    for person, expected in ((ben, ["s1", "s6", "s5", "s20"]), (ann, ["s2", "s7"])):
        for sample in expected:  # the updated one first, and none that was retired
            task = person.next_task(bed.review)
            assert task is not None
            assert task.sample_id == sample
            person.submit(bed.review, task, label="hen", lead_time_s=1.0)
    assert ann.next_task(bed.review) is None


def test_who_has_a_retired_question_open_answers_it_and_the_answer_counts(
    bed: Bed, people: list[LabelStudio], a_day_later: Callable[[], None]
) -> None:
    bed.push(Plan.of([bed.question(n) for n in range(4)]), "run-1")
    opened = people[0].next_task(bed.review)
    assert opened is not None
    begun = people[1].next_task(bed.review)
    assert begun is not None
    ending = replace(Plan.of([]), withdrawals=tuple(bed.withdrawal(n) for n in range(3)))
    assert deeds(bed.push(ending)) == ["retire s0", "retire s1", "retire s2"]
    draft(people[1], bed.review, begun.task_id)
    people[0].submit(bed.review, opened, label="dog", lead_time_s=5.0)
    served = people[0].next_task(bed.review)
    assert served is not None
    assert served.sample_id == "s3", "what is retired is served to nobody else"
    assert bed.push(ending).changes == (), "not yet a day old"
    a_day_later()
    assert deeds(bed.push(ending)) == ["delete s2"]
    left = bed.asked()
    assert set(left) == {"s0", "s1", "s3"}
    assert (left["s0"].answers, left["s0"].retired, left["s1"].drafted) == (1, False, True)
    [answer] = bed.tasks()["s0"].annotations
    assert answer.label == "dog"
    assert {row["sample_id"] for row in withdrawn_rows(bed.workspace)} == {"s0", "s1", "s2"}


def test_a_question_that_is_doubted_again_is_served_again_with_what_is_said_now(
    bed: Bed, people: list[LabelStudio], a_day_later: Callable[[], None]
) -> None:
    bed.push(Plan.of([bed.question(n) for n in range(3)]), "run-1")
    ids = {sample: task.task_id for sample, task in bed.tasks().items()}
    bed.push(replace(Plan.of([]), withdrawals=(bed.withdrawal(0), bed.withdrawal(1))))
    again = Plan.of([bed.question(1, "audit")])
    assert bed.preview(again).changes == bed.push(again).changes == (), "not yet a day old"
    a_day_later()
    again = Plan.of([bed.newer(0, rank=0.5), bed.question(1, "audit")])
    foreseen = bed.preview(again)
    assert deeds(foreseen) == ["add s1", "delete s1", "revive s0"]
    pushed = bed.push(again, "run-3")
    assert told(pushed.changes) == told(foreseen.changes)
    now = {sample: task.task_id for sample, task in bed.tasks().items()}
    assert (now["s0"], now["s2"]) == (ids["s0"], ids["s2"])
    assert now["s1"] != ids["s1"], "an audit is answered by nobody who may have seen a suggestion"
    order = []
    while (task := people[0].next_task(bed.review)) is not None:
        order.append((task.sample_id, task.data.get("model_label"), task.data["asked_as"]))
        people[0].submit(bed.review, task, label="hen")
    assert order == [("s1", None, "audit"), ("s2", "dog", "targeted"), ("s0", "hen", "targeted")]
    assert [row["event"] for row in asked_rows(bed.workspace, "s0")] == ["add", "revive"]


def test_another_overlap_does_not_bring_back_what_was_retired(bed: Bed, people: list[LabelStudio]) -> None:
    bed.push(Plan.of([bed.question(n) for n in range(2)]), "run-1")
    bed.push(replace(Plan.of([]), withdrawals=(bed.withdrawal(0),)))
    bed.settings = bed.settings.model_copy(update={"overlap": 2})
    assert deeds(bed.push(Plan.of([]))) == ["retire s0"], "Label Studio served it again"
    assert bed.push(Plan.of([])).changes == ()
    task = people[0].next_task(bed.review)
    assert task is not None
    assert task.sample_id == "s1"


def test_what_an_answer_is_about_is_what_was_on_the_screen_when_it_was_begun(
    bed: Bed, people: list[LabelStudio]
) -> None:
    bed.push(Plan.of([bed.question(n) for n in range(2)]), "run-1")
    opened = people[0].next_task(bed.review)
    assert opened is not None
    bed.push(replace(Plan.of([]), updates=(bed.newer(0), bed.newer(1))))
    people[0].submit(bed.review, opened, label="dog", lead_time_s=90.0)
    task = bed.tasks()["s0"]
    assert task.data["model_label"] == "hen"
    read = read_question(task, labels_project_id=bed.labels.project_id, classes=CLASSES)
    assert read == Question(asked_as="targeted", suggestion="dog", asked_by_run="run-1")
    people[0].submit(bed.review, bed.tasks()["s1"], label="hen", lead_time_s=0.1)
    read = read_question(bed.tasks()["s1"], labels_project_id=bed.labels.project_id, classes=CLASSES)
    assert read == Question(asked_as="targeted"), "begun right after the change: nobody can tell"


class Meanwhile(httpx.HTTPTransport):
    """Lets something happen right before the first request that changes a task."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self.happens: Callable[[], None] | None = happens

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH" and self.happens is not None:
            happens, self.happens = self.happens, None
            happens()
        return super().handle_request(request)


def test_an_answer_that_comes_between_looking_and_changing_is_kept_and_counted(
    label_studio: LabelStudioServer, bed: Bed, people: list[LabelStudio]
) -> None:
    bed.push(Plan.of([bed.question(0)]), "run-1")
    task = people[0].next_task(bed.review)
    assert task is not None
    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token))

    def answer() -> None:
        people[0].submit(bed.review, task, label="dog", lead_time_s=3.0)

    changes = changes_of(
        bed.door.asked(bed.review), bed.review, labels_project_id=bed.labels.project_id, add=(), update=[bed.newer(0)]
    )
    with LabelStudio(config, transport=Meanwhile(answer)) as slow:
        queue.carry_out(slow, bed.review, changes, run_key="run-2")
    [found] = bed.door.asked(bed.review)
    assert (found.answers, found.finished) == (1, True)
    assert [answer.label for answer in bed.tasks()["s0"].annotations] == ["dog"]


def test_an_answer_that_label_studio_kept_and_did_not_count_is_counted_and_never_removed(
    bed: Bed, people: list[LabelStudio]
) -> None:
    """What its own race leaves behind, made here by hand: it writes whole rows of what it read before."""
    bed.push(Plan.of([bed.question(n) for n in range(2)]), "run-1")
    task = people[0].next_task(bed.review)
    assert task is not None
    people[0].submit(bed.review, task, label="dog")
    with http(bed.door) as client:
        lost = {"total_annotations": 0, "is_labeled": False}
        client.patch(f"/api/tasks/{task.task_id}/", json=lost).raise_for_status()
    assert bed.asked()["s0"].untouched, "as Label Studio has it"
    assert bed.door.delete_tasks(bed.review.project_id, [task.task_id]) == 0
    pushed = bed.push(replace(Plan.of([]), withdrawals=(bed.withdrawal(0),)))
    assert pushed.changes == ()
    assert (bed.asked()["s0"].answers, bed.asked()["s0"].finished, pushed.waiting) == (1, True, 1)


def test_a_reverted_runs_questions_are_served_no_longer_and_removed_a_day_later(
    bed: Bed, people: list[LabelStudio], a_day_later: Callable[[], None]
) -> None:
    bed.push(Plan.of([bed.question(n) for n in range(3)]), "run-1")
    opened = people[0].next_task(bed.review)
    assert opened is not None
    run = MachineRun(
        path=Path(), run_key="run-1", snapshot_id="", mode="auto", classes=CLASSES, model_version="", mlflow_run_id="",
        at=datetime.now(UTC),
    )  # fmt: skip
    done = undo_run(bed.workspace, run, door=bed.door, review=bed.review, registry=None, by="ada", at=run.at)
    assert (done.withdrawn, done.answered) == (3, 0)
    assert people[1].next_task(bed.review) is None
    assert deeds(bed.push(Plan.of([]))) == [], "somebody may have one open"
    people[0].submit(bed.review, opened, label="cat")
    a_day_later()
    assert deeds(bed.push(Plan.of([]))) == ["delete s1", "delete s2"]
    assert [task.annotations[0].label for task in bed.tasks().values()] == ["cat"]
    assert [row["why"] for row in withdrawn_rows(bed.workspace)] == [REVERTED_WHY] * 3


def test_a_question_that_two_machines_asked_is_asked_once(bed: Bed, people: list[LabelStudio]) -> None:
    plan = Plan.of([bed.question(n) for n in range(2)])
    bed.push(plan, "run-1")
    bed.door.import_tasks(bed.review.project_id, [queue.payload_of(task, bed.review) for task in plan.tasks])
    served = people[0].next_task(bed.review)
    assert served is not None
    people[0].submit(bed.review, served, label="cat")
    foreseen = bed.preview(plan)
    pushed = bed.push(plan, "run-1")
    assert told(pushed.changes) == told(foreseen.changes)
    assert deeds(pushed) == ["delete s0", "delete s1"]
    left = list(bed.door.asked(bed.review))
    assert sorted((each.sample_id, each.answers) for each in left) == [("s0", 1), ("s1", 0)]
    assert next(each for each in left if each.answers).task_id == served.task_id


def test_a_lost_answer_to_a_change_is_looked_up(label_studio: LabelStudioServer, bed: Bed) -> None:
    bed.push(Plan.of([bed.question(n) for n in range(4)]), "run-1")

    class Losing(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.method == "PATCH":
                response.read()
                raise httpx.ReadTimeout("lost", request=request)
            return response

    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token))
    changes = changes_of(
        bed.door.asked(bed.review),
        bed.review,
        labels_project_id=bed.labels.project_id,
        add=(),
        withdraw=[bed.withdrawal(n) for n in range(3)],
    )
    with LabelStudio(config, transport=Losing()) as unlucky:
        assert queue.carry_out(unlucky, bed.review, changes, run_key="run-2") == changes
    assert [bed.asked()[f"s{n}"].waiting for n in range(4)] == [False, False, False, True]
