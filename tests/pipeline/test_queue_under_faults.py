"""However requests are cut and the process is killed, pushing again ends with the same queue as undisturbed.

The real door against a Label Studio in memory, which knows the requests that a push makes and nothing else.
"""

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from pipeline.errors import ServiceUnavailable
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.loop.pushing import bring_up_to_date
from pipeline.queue import Change, carry_out, changes_of, payload_of, push_key
from pipeline.records import EARLIER, AskedAs, LabelControl, Project, ReviewTask, Withdrawal
from pipeline.review_screen import review_config
from pipeline.trail import asked_rows, withdrawn_rows
from pipeline.triage import Plan
from pipeline.workspace import Workspace

CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog", "hen"))
REVIEW = Project(project_id=9, title="review", control=CONTROL)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(hours=25)
SAMPLES = 12
TOUCHED = ("answered", "skipped", "drafted", "uncounted")


class Killed(BaseException):
    """The process is gone: nothing catches it."""


class Memory:
    """A Label Studio with one project; `faults` are what becomes of the next writes."""

    def __init__(self) -> None:
        self.tasks: dict[int, dict[str, Any]] = {}
        self.faults: list[str] = []
        self.writes = 0

    def add(self, task: dict[str, Any], *, state: str = "", days: int = 0) -> None:
        number = max(self.tasks, default=0) + 1
        answer = {"id": number, "was_cancelled": state == "skipped", "completed_by": 5}
        touched = state in ("answered", "skipped", "uncounted")
        self.tasks[number] = {
            "id": number, "data": task["data"], "predictions": [{"id": number, **task["predictions"][0]}],
            "annotations": [answer] if touched else [], "draft_exists": state == "drafted", "overlap": 1,
            "total_annotations": int(state == "answered"), "cancelled_annotations": int(state == "skipped"),
            "is_labeled": state == "answered" or "withdrawn" in task["data"],
            "updated_at": (NOW - timedelta(days=days)).isoformat(),
        }  # fmt: skip

    def __call__(self, request: httpx.Request) -> httpx.Response:
        date = {"date": NOW.strftime("%a, %d %b %Y %H:%M:%S GMT")}
        if request.url.path == f"/api/projects/{REVIEW.project_id}/":
            return httpx.Response(200, json={"label_config": review_config(CONTROL.classes)}, headers=date)
        if request.method == "GET":
            return httpx.Response(200, json=self._page(request), headers=date)
        self.writes += 1
        fault = self.faults.pop() if self.faults else ""
        if fault in ("killed before", "lost before"):
            raise Killed if fault.startswith("killed") else httpx.ConnectError("lost", request=request)
        answer = self._write(request)
        if fault in ("killed after", "lost after"):
            raise Killed if fault.startswith("killed") else httpx.ReadTimeout("lost", request=request)
        return httpx.Response(200, json=answer, headers=date)

    def _page(self, request: httpx.Request) -> dict[str, Any]:
        query = json.loads(request.url.params["query"].replace("%25", "%"))
        found = list(self._filtered(query["filters"]))
        page = found[: int(request.url.params["page_size"])]
        return {"tasks": copy.deepcopy(page), "total": len(found), "total_annotations": 0}

    def _filtered(self, filters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        combine = any if filters["conjunction"] == "or" else all
        for _, task in sorted(self.tasks.items()):
            if combine(self._passes(task, one) for one in filters["items"]):
                yield task

    def _passes(self, task: dict[str, Any], one: dict[str, Any]) -> bool:
        name, value = one["filter"].removeprefix("filter:tasks:"), one["value"]
        if name == "annotations_ids":
            passes = (not task["annotations"]) is value
        else:
            found = task["data"].get(name[5:]) if name.startswith("data.") else task[name]
            match one["operator"]:
                case "greater":
                    passes = found > value
                case "not_in":
                    passes = not value["min"] <= found <= value["max"]
                case operator:
                    passes = found in (value if operator == "in_list" else [value])
        return passes and ("child_filter" not in one or self._passes(task, one["child_filter"]))

    def _write(self, request: httpx.Request) -> Any:
        body, path = json.loads(request.content), request.url.path.strip("/").split("/")
        if path[:2] == ["api", "tasks"]:
            self.tasks[int(path[2])] |= body | {"updated_at": NOW.isoformat()}
            return self.tasks[int(path[2])]
        if path[:2] == ["api", "predictions"]:
            self.tasks[int(path[2])]["predictions"][0] |= body
            return body
        if path[-1] == "import":
            there = {task["data"]["push_key"] for task in self.tasks.values()}
            for task in body:
                assert task["data"]["push_key"] not in there, "sent a second time"
                self.add(task)
            ids = sorted(self.tasks)[-len(body) :]
            return {"task_count": len(body), "annotation_count": 0, "prediction_count": len(body), "task_ids": ids}
        assert request.url.params["id"] == "delete_tasks"
        gone = [t["id"] for t in self._filtered(body["filters"]) if t["id"] in body["selectedItems"]["included"]]
        for number in gone:
            del self.tasks[number]
        return {"processed_items": len(gone)}

    def door(self) -> LabelStudio:
        config = LabelStudioConfig(url="http://ls.test", token=SecretStr("f" * 40), read_attempts=1, page_size=5)
        return LabelStudio(config, transport=httpx.MockTransport(self))

    def state(self) -> list[Any]:
        """Everything but ids and times."""
        found = []
        for task in self.tasks.values():
            data = dict(task["data"])
            data[EARLIER] = [{**said, "until": ""} for said in data.get(EARLIER, ())]
            [prediction] = task["predictions"]
            shown = {name: prediction[name] for name in ("score", "result", "model_version")}
            rest = {name: task[name] for name in ("is_labeled", "total_annotations", "draft_exists")}
            found.append([data["push_key"], data, shown, rest, len(task["annotations"])])
        return sorted(found, key=lambda each: json.dumps(each, sort_keys=True))


def question(number: int, label: str, kind: AskedAs, run: str, rank: float) -> ReviewTask:
    return ReviewTask(
        push_key=push_key(1, f"s{number}"), sample_id=f"s{number}", image_url=f"/{number}.png", asked_as=kind,
        current_label="cat", model_label=label, confidence=0.9, reason="doubt", priority=0.5, model_version=run,
        run_key=run, rank=rank,
    )  # fmt: skip


def push(door: LabelStudio, plan: Plan, workspace: Workspace) -> list[Change]:
    """One push as the loop makes it."""
    done, _ = bring_up_to_date(door, REVIEW, workspace, plan, 1, run_key="run-2", pause=lambda _: None)
    return done


def kept(workspace: Workspace) -> list[tuple[Any, ...]]:
    """What the trail says of questions, times apart."""
    asked = [("asked", row["sample_id"], row["run_key"], row["suggestion"]) for row in asked_rows(workspace)]
    taken = [("withdrawn", row["sample_id"], row["run_key"], row["why"]) for row in withdrawn_rows(workspace)]
    return sorted([*asked, *taken], key=str)


STATES = st.sampled_from(["absent", "waiting", "twice", "retired", "long retired", *TOUCHED])
FATES = st.sampled_from(["same", "other", "withdrawn", "asked again", "drawn at random"])
FAULTS = st.sampled_from(["", "", "killed before", "killed after", "lost before", "lost after"])


@given(
    begin=st.lists(st.tuples(STATES, FATES), min_size=SAMPLES, max_size=SAMPLES),
    faults=st.lists(FAULTS, max_size=25),
)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_the_queue_ends_the_same_however_often_a_push_dies(begin: list[tuple[str, str]], faults: list[str]) -> None:
    memory = Memory()
    add, update, withdraw = list[ReviewTask](), list[ReviewTask](), list[Withdrawal]()
    for number, (state, fate) in enumerate(begin):
        task = payload_of(question(number, "dog", "targeted", "run-1", number / 100), REVIEW)
        if state in ("retired", "long retired"):
            task["data"] |= {"withdrawn": "no doubt", "withdrawn_by": "run-0"}
        if state != "absent":
            memory.add(task, state=state, days=3 * (state == "long retired"))
        if state == "twice":
            memory.add(task)
        label = "dog" if fate == "same" else "hen"
        asking = question(number, label, "audit" if fate == "drawn at random" else "targeted", "run-2", 0.5)
        if fate in ("same", "other"):
            update.append(asking)
        elif fate == "withdrawn":
            withdraw.append(Withdrawal(push_key=asking.push_key, sample_id=asking.sample_id, why="no doubt"))
        else:
            add.append(asking)
    plan = Plan(tasks=tuple(add), updates=tuple(update), withdrawals=tuple(withdraw))
    before, undisturbed = copy.deepcopy(memory.tasks), copy.deepcopy(memory)
    with undisturbed.door() as door, tempfile.TemporaryDirectory() as folder:
        calm = Workspace(folder=Path(folder))
        door.mend_counts(REVIEW.project_id)
        foreseen = changes_of(
            door.asked(REVIEW), REVIEW, labels_project_id=1, add=add, update=update, withdraw=withdraw, now=NOW
        )
        done = push(door, plan, calm)
        assert Counter(map(str, done)) == Counter(map(str, foreseen)), "a dry run says what is done"
        writes = undisturbed.writes
        assert push(door, plan, calm) == []
        assert undisturbed.writes == writes, "and a second push writes nothing"
        trail = kept(calm)
        retired = {f"s{number}" for number, (state, _) in enumerate(begin) if "retired" in state}
        assert retired <= {sample for what, sample, *_ in trail if what == "withdrawn"}, "noted before it is removed"

    memory.faults = list(faults)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder=Path(folder))
        while True:
            try:
                with memory.door() as door:
                    push(door, plan, workspace)
                break
            except (Killed, ServiceUnavailable):
                continue
        assert kept(workspace) == trail
    assert memory.state() == undisturbed.state()
    keys = Counter(task["data"]["push_key"] for task in memory.tasks.values())
    assert max(keys.values(), default=1) == 1
    for number, task in before.items():
        if task["annotations"] or task["draft_exists"]:
            now = memory.tasks[number]
            assert (now["annotations"], now["data"]) == (task["annotations"], task["data"])
            assert now["total_annotations"] + now["cancelled_annotations"] == len(task["annotations"])


@pytest.mark.parametrize("state", TOUCHED)
def test_what_somebody_touches_after_the_look_is_neither_changed_nor_removed(state: str) -> None:
    memory = Memory()
    for number in range(3):
        memory.add(payload_of(question(number, "dog", "targeted", "run-1", 0.1), REVIEW), days=3)
    memory.tasks[3] |= {"is_labeled": True, "data": memory.tasks[3]["data"] | {"withdrawn": "no doubt"}}
    with memory.door() as door:
        changes = changes_of(
            door.asked(REVIEW), REVIEW, labels_project_id=1, now=NOW, add=(),
            update=[question(0, "hen", "targeted", "run-2", 0.1)],
            withdraw=[Withdrawal(push_key=push_key(1, "s1"), sample_id="s1", why="no doubt")],
        )  # fmt: skip
        assert [change.action for change in changes] == ["update", "retire", "delete"]
        data = {number: task["data"] for number, task in memory.tasks.items()}
        for number in data:
            memory.add({**memory.tasks[number], "predictions": memory.tasks[number]["predictions"]}, state=state)
            memory.tasks[number] |= {**memory.tasks.pop(max(memory.tasks)), "id": number, "data": data[number]}
        assert carry_out(door, REVIEW, changes, run_key="run-2") == []
        assert door.mend_counts(REVIEW.project_id) == (3 if state == "uncounted" else 0)
    assert {number: task["data"] for number, task in memory.tasks.items()} == data


@pytest.mark.parametrize("kind", ["audit", "check"])
def test_what_was_drawn_at_random_and_is_asked_again_is_the_question_of_who_drew_it_last(kind: AskedAs) -> None:
    memory = Memory()
    taken_back = payload_of(question(0, "dog", kind, "run-1", 0.1), REVIEW)
    taken_back["data"] |= {"withdrawn": "its run was reverted", "withdrawn_by": "run-1"}
    memory.add(taken_back)
    with memory.door() as door:
        add = [question(0, "hen", kind, "run-2", 0.1)]
        changes = changes_of(door.asked(REVIEW), REVIEW, labels_project_id=1, now=NOW, add=add)
        assert [change.action for change in changes] == ["revive"]
        carry_out(door, REVIEW, changes, run_key="run-2")
        [asked] = door.asked(REVIEW)
    assert (asked.asked_by_run, asked.waiting) == ("run-2", True), "a check is of what this run changes"
    assert memory.tasks[1]["data"] == payload_of(add[0], REVIEW)["data"]
