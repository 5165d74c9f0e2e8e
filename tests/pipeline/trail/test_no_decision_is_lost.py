"""Over random sequences of pulls, runs, reviews, crashes and reverts no human decision is lost, overwritten or doubled.

Label Studio is a model in memory here; pull, queue, trail, export, write-back and revert are the real ones. A crash is
an exception before or after a file gets its name or a request is carried out, and nothing is tidied up after it.
"""

import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image

from pipeline import queue
from pipeline.corrected import corrected_rows
from pipeline.export import machine_users, write_as_user, write_dataset
from pipeline.images import ImageConfig, Images
from pipeline.label_studio import Asked, TaskChange
from pipeline.label_studio.parsing import parse_asked
from pipeline.loop.pushing import bring_up_to_date
from pipeline.queue import push_key
from pipeline.records import Annotation, LabelControl, Mode, Project, ReviewTask, Task, Withdrawal
from pipeline.review_screen import review_config
from pipeline.schema import SCORES
from pipeline.snapshot import Snapshot, latest_snapshot, read_latest
from pipeline.snapshot.pull import pull
from pipeline.trail import (
    append_machine,
    asked_rows,
    keep_people,
    machine_rows,
    machine_runs,
    people_rows,
    reverted,
    withdrawn_rows,
)
from pipeline.trail.undo import undo_run
from pipeline.triage import Plan
from pipeline.workspace import Workspace
from tests.pipeline.snapshot.task_source import TaskSource

CLASSES = ("cat", "dog", "eel")
SAMPLES = tuple(f"s{number}" for number in range(4))
CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=CLASSES)
LABELS, AUDIT, REVIEW = (
    Project(project_id=number, title=title, control=CONTROL) for number, title in enumerate(("l", "a", "r"), start=1)
)
MACHINE = "user:70"
MODES: tuple[Mode, ...] = ("suggest", "auto")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
FITTED: dict[str, Any] = {"relabels": {"rho": 0.8}, "transition": [[0.8, 0.1, 0.1]] * 3}
_CONTENT = ("sample_id", "annotator", "origin", "answer", "label", "updated_at")

Deeds = list[tuple[str, int, int, str]]
Key = tuple[int, int]
State = tuple[Any, ...] | None
"""What an annotation says; None: it is gone."""


class PowerCut(Exception):
    """Nothing in the product knows this one."""


class Power:
    """Fails at the so-many-th moment; never where that is None."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.dead = False

    def moment(self) -> None:
        if self.left is not None and not self.dead:
            self.left -= 1
            if self.left == 0:
                self.dead = True
                raise PowerCut

    @contextmanager
    def lasting(self, moments: int | None) -> Iterator[None]:
        """Power for so many moments; the block ends early and quietly when it fails."""
        self.left, self.dead = moments, False
        name, unlink, rmtree = Path.replace, Path.unlink, shutil.rmtree

        def replaced(path: Path, target: Path) -> Path:
            self.moment()
            done = name(path, target)
            self.moment()
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", replaced)
            patch.setattr(Path, "unlink", lambda path, **how: None if self.dead else unlink(path, **how))
            patch.setattr(shutil, "rmtree", lambda path, **how: None if self.dead else rmtree(path, **how))
            try:
                yield
            except PowerCut:
                pass
            finally:
                self.left = None


class Studio(TaskSource):
    """Label Studio in memory, whose answers may get lost."""

    def __init__(self, power: Power) -> None:
        self.tasks: dict[int, dict[int, Task]] = {1: {}, 2: {}, 3: {}}
        self.annotator = MACHINE
        self.now = START
        self.unserved: set[int] = set()
        self.changed: dict[int, datetime] = {}
        self._power = power
        self._last = 0

    def number(self) -> int:
        self._last += 1
        return self._last

    def add(self, project: int, data: Mapping[str, Any]) -> Task:
        task = Task(task_id=self.number(), project_id=project, data=data)
        self.tasks[project][task.task_id] = task
        return task

    def say(self, task: Task, annotator: str, kind: Any, label: str | None) -> None:
        """A new answer, or another one in the place of the same person's earlier one."""
        mine = [one for one in task.annotations if one.annotator == annotator]
        others = tuple(one for one in task.annotations if one.annotator != annotator)
        self.now += timedelta(minutes=1)
        said = Annotation(
            annotation_id=mine[0].annotation_id if mine else self.number(),
            annotator=annotator, kind=kind, label=label, ground_truth=False, was_cancelled=False, lead_time_s=2.0,
            created_at=mine[0].created_at if mine else self.now, updated_at=self.now,
        )  # fmt: skip
        self.tasks[task.project_id][task.task_id] = replace(task, annotations=(*others, said))

    def remove(self, project: int, annotation_id: int) -> None:
        for task in list(self.tasks[project].values()):
            kept = tuple(one for one in task.annotations if one.annotation_id != annotation_id)
            self.tasks[project][task.task_id] = replace(task, annotations=kept)

    def edit(self, place: int, label: str) -> None:
        """Somebody changes one of the machine's annotations where it is: its author stays."""
        machines = [(task, one) for task, one in self.answers().values() if one.annotator == MACHINE]
        if machines:
            task, said = machines[place % len(machines)]
            self.now += timedelta(minutes=1)
            changed = replace(said, label=label, updated_at=self.now)
            others = tuple(one for one in task.annotations if one is not said)
            self.tasks[task.project_id][task.task_id] = replace(task, annotations=(*others, changed))

    def people(self) -> dict[Key, Annotation]:
        """What people said, in their own name or by changing what the machine had said."""
        return {
            key: one
            for key, (_, one) in self.answers().items()
            if one.annotator != MACHINE or one.updated_at != one.created_at
        }

    def answers(self) -> dict[Key, tuple[Task, Annotation]]:
        return {
            (number, one.annotation_id): (task, one)
            for number, tasks in self.tasks.items()
            for task in tasks.values()
            for one in task.annotations
        }

    # The door ---------------------------------------------------------------------------------------------------------

    def tasks_of(self, project: Project) -> list[Task]:
        return list(self.tasks[project.project_id].values())

    def iter_tasks(self, project: Project, *, annotated_only: bool = False, **_: Any) -> Iterator[Task]:
        found = list(self.tasks[project.project_id].values())
        yield from (task for task in found if task.annotations or not annotated_only)

    def push_keys(self, project_id: int, *, after: int, but: Sequence[int] = ()) -> dict[int, str]:
        there = self.tasks[project_id].values()
        return {t.task_id: t.data["push_key"] for t in there if t.task_id > after and t.task_id not in but}

    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]]) -> list[int]:
        self._power.moment()
        ids = [self.add(project_id, entry["data"]).task_id for entry in payload]
        self._power.moment()
        return ids

    def asked(self, project: Project, *, after: int = 0) -> Iterator[Asked]:
        for task in [one for one in self.tasks[project.project_id].values() if one.task_id > after]:
            raw = {
                "id": task.task_id, "data": task.data, "total_annotations": len(task.annotations),
                "is_labeled": bool(task.annotations) or task.task_id in self.unserved,
                "updated_at": self.changed.get(task.task_id, START).isoformat(),
            }  # fmt: skip
            found = parse_asked(raw, project, (), lambda *_: None)
            assert found is not None
            yield found

    @property
    def server_time(self) -> datetime:
        return self.now

    def mend_counts(self, project_id: int) -> int:
        return 0 * project_id

    def label_config(self, project: Project) -> str:
        return review_config(project.control.classes)

    def change_tasks(self, project_id: int, changes: Iterable[TaskChange]) -> set[int]:
        done = set()
        for change in changes:
            self._power.moment()
            task = self.tasks[project_id].get(change.task_id)
            if task is not None and not task.annotations:
                self.now += timedelta(minutes=1)
                self.changed[task.task_id] = self.now
                self.tasks[project_id][task.task_id] = replace(task, data=change.data(task.data, self.now))
                (self.unserved.discard if change.served else self.unserved.add)(task.task_id)
                done.add(task.task_id)
            self._power.moment()
        return done

    def there(self, project_id: int, ids: Iterable[int]) -> set[int]:
        return self.tasks[project_id].keys() & set(ids)

    def delete_tasks(self, project_id: int, ids: Iterable[int]) -> int:
        removed = 0
        for number in ids:
            self._power.moment()
            if not self.tasks[project_id][number].annotations:
                del self.tasks[project_id][number]
                removed += 1
        self._power.moment()
        return removed

    def annotate(self, _project: Project, task: Task, label: str) -> None:
        self._power.moment()
        task = self.tasks[1][task.task_id]
        said = Annotation(
            annotation_id=self.number(), annotator=MACHINE, kind="class", label=label, ground_truth=False,
            was_cancelled=False, lead_time_s=None, created_at=self.now, updated_at=self.now,
        )  # fmt: skip
        self.tasks[1][task.task_id] = replace(task, annotations=(*task.annotations, said))
        self._power.moment()

    def withdraw(self, _project: Project, annotation_id: int) -> bool:
        self._power.moment()
        self.remove(1, annotation_id)
        return True


class Memory(RuleBasedStateMachine):
    """People and machines in any order, and what must hold after each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.workspace = Workspace(folder=Path(tempfile.mkdtemp(prefix="fasten-memory-")))
        self.power = Power()
        self.studio = Studio(self.power)
        pictures = self.workspace.folder / "files"
        pictures.mkdir()
        for number, sample in enumerate(SAMPLES):
            Image.fromarray(np.full((2, 2), 40 * number, np.uint8)).save(pictures / f"{sample}.png")
            data = {"sample_id": sample, "image": f"/data/local-files/?d={sample}.png"}
            self.studio.say(self.studio.add(1, data), "user:1", "class", CLASSES[number % 3])
            self.studio.add(2, data)
        self.images = ImageConfig(retries=0, local_files_root=pictures)
        self.deleted: set[Key] = set()
        self.ever: set[Key] = set()
        self.asked_ever: set[str] = set()
        self.reverted_away: set[str] = set()
        self.history: dict[Key, list[State]] = defaultdict(list)
        self.seen: str | None = None
        self.opened: Snapshot | None = None
        self.last_run: tuple[Snapshot, list[tuple[str, bool]], Mode, str] | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.workspace.folder)

    # People -----------------------------------------------------------------------------------------------------------

    deeds = st.lists(
        st.tuples(
            st.sampled_from(["label", "audit", "review", "review", "review", "edit", "delete"]),
            st.integers(0, 9),
            st.integers(0, 1),
            st.sampled_from([*CLASSES, "unusable", "not_sure"]),
        ),
        max_size=4,
    )
    """What people do before a machine has its turn."""

    def _people_are_at_work(self, deeds: Deeds) -> None:
        for deed, place, who, answer in deeds:
            sample, label = SAMPLES[place % len(SAMPLES)], answer if answer in CLASSES else CLASSES[0]
            if deed == "label":
                self.studio.say(self._task(1, sample), ("user:1", "user:2")[who], "class", label)
            elif deed == "audit":
                self.studio.say(self._task(2, sample), "user:9", "class", label)
            elif deed == "review" and (asked := list(self.studio.tasks[3].values())):
                kind, named = ("class", answer) if answer in CLASSES else (answer, None)
                self.studio.say(asked[place % len(asked)], ("user:5", "user:6")[who], kind, named)
            elif deed == "edit":
                self.studio.edit(place, label)
            elif deed == "delete":
                self._delete(place)

    def _delete(self, place: int) -> None:
        """Somebody deletes an answer; those of reviewers first, they are what matters most."""
        people = sorted(self.studio.people(), reverse=True)
        key = people[place % len(people)]
        self.studio.remove(*key)
        self.deleted.add(key)

    # Machines ---------------------------------------------------------------------------------------------------------

    crashes = st.none() | st.integers(1, 9)

    @initialize()
    def a_first_round(self) -> None:
        self.a_pull([], None)
        said = [("eel", True)] * len(SAMPLES)
        self.last_run = (self._latest(), said, "auto", "run-0")
        self._run(self._latest(), said, "auto", "run-0", None)

    @rule(deeds=deeds, power=crashes)
    def a_pull(self, deeds: Deeds, power: int | None) -> None:
        self._people_are_at_work(deeds)

        def refuse(_: httpx.Request) -> httpx.Response:
            return httpx.Response(404)

        with self.power.lasting(power):
            keep_people(self.workspace, self.studio.now)
            with Images(
                self.images, root=self.workspace.folder, base_url="http://host", authorization=dict,
                transport=httpx.MockTransport(refuse),
            ) as images:  # fmt: skip
                pull(
                    self.studio, images, labels=LABELS, audit=AUDIT, review=REVIEW, data_dir=self.workspace.folder,
                    ignore=machine_users(self.workspace),
                )  # fmt: skip
            self._observe()
            self._labels_are_what_people_say()
            keep_people(self.workspace, self.studio.now)
            assert self._kept() == dict(self.history), "the trail has every state that a pull saw, once, in its order"
        self._observe()

    @rule(
        said=st.lists(st.tuples(st.sampled_from(CLASSES), st.booleans()), min_size=len(SAMPLES), max_size=len(SAMPLES)),
        mode=st.sampled_from(MODES),
        deeds=deeds,
        power=crashes,
    )
    def a_round(self, said: list[tuple[str, bool]], mode: Mode, deeds: Deeds, power: int | None) -> None:
        self.a_pull(deeds, None)
        self.last_run = (self._latest(), said, mode, f"run-{self.studio.number()}")
        self._run(*self.last_run, power)

    @rule(deeds=deeds, power=crashes)
    def the_run_again(self, deeds: Deeds, power: int | None) -> None:
        self._people_are_at_work(deeds)
        assert self.last_run is not None
        self._run(*self.last_run, power)

    def _run(self, snapshot: Snapshot, said: list[tuple[str, bool]], mode: Mode, key: str, power: int | None) -> None:
        noisy = pq.read_table(snapshot.noisy_path).to_pylist()
        chosen = dict(zip(SAMPLES, said, strict=True))
        scores = pa.Table.from_pylist([_score(row, *chosen[row["sample_id"]]) for row in noisy], schema=SCORES)
        tasks = tuple(_question(row, key) for row in scores.to_pylist() if row["decision"] != "keep")
        doubted = {task.sample_id for task in tasks}
        ended = tuple(
            Withdrawal(push_key=push_key(LABELS.project_id, sample), sample_id=sample, why="no doubt any more")
            for sample in SAMPLES
            if sample not in doubted
        )
        plan = Plan(tasks=tasks, updates=tasks, withdrawals=ended)
        door: Any = self.studio
        with self.power.lasting(power), pytest.MonkeyPatch.context() as patch:
            patch.setattr(queue, "WITHDRAWN_AFTER", timedelta(minutes=5))
            bring_up_to_date(door, REVIEW, self.workspace, plan, LABELS.project_id, run_key=key)
            append_machine(
                self.workspace, key, snapshot, scores, FITTED, mode=mode, mlflow_run_id=key, at=self.studio.now
            )

    @rule(place=st.integers(0, 9), deeds=deeds, power=crashes)
    def somebody_reverts_a_run(self, place: int, deeds: Deeds, power: int | None) -> None:
        self._people_are_at_work(deeds)
        runs = machine_runs(self.workspace)
        self.reverted_away |= {task.data["push_key"] for task in self.studio.tasks[3].values()}
        if runs:
            with self.power.lasting(power):
                undo_run(
                    self.workspace, runs[place % len(runs)], door=self.studio, review=REVIEW, registry=None,
                    by="ada", at=self.studio.now,
                )  # fmt: skip

    @rule(mode=st.sampled_from(MODES), power=crashes)
    def an_export(self, mode: Mode, power: int | None) -> None:
        out = self.workspace.folder / "out"
        snapshot = self._latest()
        with self.power.lasting(power):
            write_dataset(out, self.workspace, snapshot, mode=mode)
            parts = [pq.read_table(path) for path in sorted((out / "data").iterdir())]
            rows = [row | {"label": CLASSES[row["label"]]} for part in parts for row in part.to_pylist()]
            self._people_have_the_last_word(rows)

    @rule(deeds=deeds, power=crashes)
    def a_write_back(self, deeds: Deeds, power: int | None) -> None:
        self._people_are_at_work(deeds)
        with self.power.lasting(power):
            write_as_user(self.studio, self.studio, LABELS, self.workspace, self._latest())
            people = self.studio.people()
            said = {t.sample_id: (key in people, one.label) for key, (t, one) in self.studio.answers().items()
                    if one.annotator == MACHINE}  # fmt: skip
            rows = corrected_rows(self.workspace, self._latest(), mode="auto")
            wanted = {row["sample_id"]: row["label"] for row in rows if row["source"] == "model"}
            theirs = {sample for sample, (edited, _) in said.items() if edited}
            assert {sample: label for sample, (edited, label) in said.items() if not edited} == {
                sample: label for sample, label in wanted.items() if sample not in theirs
            }

    # What must hold ---------------------------------------------------------------------------------------------------

    @invariant()
    def no_machine_removes_an_answer_of_a_person(self) -> None:
        there = self.studio.people().keys()
        self.ever |= there
        assert self.ever - self.deleted <= there

    @invariant()
    def no_question_is_asked_twice_and_none_is_forgotten_twice(self) -> None:
        keys = [task.data["push_key"] for task in self.studio.tasks[3].values()]
        assert len(keys) == len(set(keys))
        asked = [(row["run_key"], row["push_key"]) for row in asked_rows(self.workspace)]
        assert len(asked) == len(set(asked))
        assert set(keys) <= {key for _, key in asked}, "nothing is asked that the trail does not know of"

    @invariant()
    def no_question_is_gone_that_the_trail_does_not_know_as_withdrawn(self) -> None:
        there = {task.data["push_key"] for task in self.studio.tasks[3].values()}
        gone = self.asked_ever - there
        self.asked_ever |= there
        assert gone <= {row["push_key"] for row in withdrawn_rows(self.workspace)} | self.reverted_away

    @invariant()
    def the_trail_never_says_more_than_was_seen_nor_in_another_order(self) -> None:
        for key, states in self._kept().items():
            assert states == self.history[key][: len(states)]

    @invariant()
    def a_decision_of_a_person_is_handed_out_whatever_the_machine_says(self) -> None:
        if self.seen is not None:
            said = machine_rows(self.workspace)
            judged = {(row["run_key"], row["sample_id"], row["given_label"]) for row in said}
            for mode in MODES:
                rows = list(corrected_rows(self.workspace, self._latest(), mode=mode))
                self._people_have_the_last_word(rows)
                undone = reverted(self.workspace)
                assert not [row for row in rows if row["run_key"] in undone]
                assert mode == "auto" or all(row["source"] != "model" for row in rows)
                relabels = {(row["run_key"], row["sample_id"], row["given_label"]) for row in rows if row["run_key"]}
                assert relabels <= judged, "a vote that came after a run is not overwritten by it"

    def _people_have_the_last_word(self, rows: list[dict[str, Any]]) -> None:
        """`rows` are corrected labels of the latest snapshot."""
        found = {row["sample_id"]: row for row in rows}
        assert len(found) == len(rows), "each sample once"
        said: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        for row in sorted(pq.read_table(self._latest().labels_path).to_pylist(), key=lambda row: row["updated_at"]):
            said[row["sample_id"]][row["origin"]][row["annotator"]] = row["label"] or row["answer"]
        for sample, by in said.items():
            if by["audit"]:
                assert (found[sample]["label"], found[sample]["source"]) == (by["audit"]["user:9"], "audit")
                continue
            votes = Counter(answer for answer in by["review"].values() if answer != "not_sure").most_common()
            decided = votes and (len(votes) == 1 or votes[0][1] > votes[1][1])
            if decided and votes[0][0] == "unusable":
                assert sample not in found
            elif decided:
                assert (found[sample]["label"], found[sample]["source"]) == (votes[0][0], "review")
            elif by["review"] and sample in found:
                assert found[sample]["source"] == "original", "what people could not decide, no machine does"

    # Looking ----------------------------------------------------------------------------------------------------------

    def _task(self, project: int, sample: str) -> Task:
        return next(task for task in self.studio.tasks[project].values() if task.sample_id == sample)

    def _latest(self) -> Snapshot:
        latest = read_latest(self.workspace.folder)
        assert latest is not None
        if self.opened is None or self.opened.snapshot_id != latest.snapshot_id:
            self.opened = latest_snapshot(self.workspace.folder)
        assert self.opened is not None
        return self.opened

    def _observe(self) -> None:
        """Note what the latest snapshot says, if it is another than before."""
        latest = read_latest(self.workspace.folder)
        if latest is None or latest.snapshot_id == self.seen:
            return
        self.seen = latest.snapshot_id
        now = {_key(row): _content(row) for row in pq.read_table(self._latest().labels_path).to_pylist()}
        for key, content in now.items():
            if self.history[key][-1:] != [content]:
                self.history[key].append(content)
        for key, states in self.history.items():
            if key not in now and states[-1] is not None:
                states.append(None)

    def _labels_are_what_people_say(self) -> None:
        rows = pq.read_table(self._latest().labels_path).to_pylist()
        said = {key: (one.annotator, one.label, one.updated_at) for key, one in self.studio.people().items()}
        assert len(rows) == len(said)
        assert {_key(row): (row["annotator"], row["label"], row["updated_at"]) for row in rows} == said

    def _kept(self) -> dict[Key, list[State]]:
        kept: dict[Key, list[State]] = defaultdict(list)
        for row in people_rows(self.workspace):
            kept[_key(row)].append(_content(row) if row["withdrawn_at"] is None else None)
        return kept


def _key(row: Mapping[str, Any]) -> Key:
    return row["project_id"], row["annotation_id"]


def _content(row: Mapping[str, Any]) -> State:
    return tuple(row[name] for name in _CONTENT)


def _score(row: Mapping[str, Any], label: str, sure: bool) -> dict[str, Any]:
    """What the model says of a noisy sample."""
    other = label != row["label"]
    q = [0.9 if name == label else 0.05 for name in CLASSES]
    return {
        "sample_id": row["sample_id"],
        "given_label": row["label"],
        "suggested_label": label if other and sure else row["label"],
        "model_label": label,
        "model_label_probability": 0.9,
        "confidence": 0.9,
        "given_label_probability": 0.1,
        "error_probability": 0.95 if other else 0.1,
        "posterior": q,
        "decision": ("relabel" if sure else "low_confidence") if other else "keep",
        "priority": 0.5,
        "model_version": "fasten/1",
    }


def _question(score: Mapping[str, Any], run_key: str) -> ReviewTask:
    return ReviewTask(
        push_key=push_key(LABELS.project_id, score["sample_id"]), sample_id=score["sample_id"],
        image_url=f"/data/local-files/?d={score['sample_id']}.png", current_label=score["given_label"],
        model_label=score["model_label"], confidence=0.9, reason="doubt", priority=0.5, model_version="fasten/1",
        run_key=run_key,
    )  # fmt: skip


TestMemory = Memory.TestCase
TestMemory.settings = settings(
    max_examples=25,
    stateful_step_count=16,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
