"""Entering a data set, against a Label Studio in memory; the real one is in tests/integration."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from pipeline.demo.datasets import DemoDataset, DemoSample, Vote
from pipeline.demo.enter import Titles, enter_dataset
from pipeline.demo.image_files import png
from pipeline.demo.tasks import labelling_config
from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.label_config import find_control
from pipeline.label_studio import MissingProjectError, User
from pipeline.label_studio.parsing import parse_task
from pipeline.records import Project, Task
from pipeline.review_screen import CLASS_KEYS, review_config

PASSWORD = SecretStr("seven-of-them")
TITLES = Titles.of("animals")
NOW = datetime(2026, 1, 1, tzinfo=UTC).isoformat()


class MemoryDoor:
    """Keeps what it is sent; fails at the import that `fail_at` counts down to, before or after it took the tasks."""

    def __init__(self, *, fail_at: int = 0, fails_after_taking: bool = False) -> None:
        self.projects: dict[str, Project] = {}
        self.tasks: dict[int, list[dict[str, Any]]] = {}
        self.files: dict[str, bytes] = {}
        self.users: dict[str, int] = {}
        self.passwords: set[str] = set()
        self._imports_left = fail_at
        self._fails_after_taking = fails_after_taking

    def find_project(self, ref: int | str) -> Project:
        if ref not in self.projects:
            raise MissingProjectError(f"no project {ref}")
        return self.projects[str(ref)]

    def create_project(self, title: str, label_config: str, *, description: str) -> Project:
        assert title not in self.projects
        assert description
        control = find_control(label_config, project=title)
        project = Project(project_id=len(self.projects) + 1, title=title, control=control)
        self.projects[title], self.tasks[project.project_id] = project, []
        return project

    def iter_tasks(self, project: Project) -> Iterator[Task]:
        def complain(reason: str, where: str) -> None:
            raise AssertionError(f"{reason} ({where})")

        for raw in self.tasks[project.project_id]:
            task = parse_task(raw, project, complain)
            assert task is not None
            yield task

    def find_data_values(self, project_id: int, field: str, values: Iterable[str]) -> set[str]:
        return {task["data"][field] for task in self.tasks[project_id]} & set(values)

    def upload_images(self, project_id: int, images: Mapping[str, bytes]) -> dict[str, str]:
        urls = {name: f"/data/upload/{project_id}/{len(self.files)}-{name}" for name in images}
        self.files |= {urls[name]: data for name, data in images.items()}
        return urls

    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]]) -> int:
        self._imports_left -= 1
        if self._imports_left == 0 and not self._fails_after_taking:
            raise ServiceUnavailable("killed before it took the tasks")
        for task in payload:
            answers = [
                {"id": n + 1, "created_at": NOW, "updated_at": NOW, **answer}
                for n, answer in enumerate(task["annotations"])
            ]
            self.tasks[project_id].append({**task, "id": len(self.tasks[project_id]) + 1, "annotations": answers})
        if self._imports_left == 0:
            raise ServiceUnavailable("killed after it took the tasks")
        return len(payload)

    def add_user(self, email: str, password: str) -> User:
        self.passwords.add(password)
        return User(user_id=self.users.setdefault(email, 10 + len(self.users)), token=SecretStr("0" * 40))


def _at_once(seconds: float) -> None:
    """Nobody waits for a server in memory."""


def _sample(number: int, **changes: Any) -> DemoSample:
    image = png(np.full((2, 2), number, dtype=np.uint8))
    votes = (Vote(annotator=number % 2, label="dog"),)
    return DemoSample(**{"sample_id": f"s{number}", "image": image, "truth": "cat", "votes": votes, **changes})


DATASET = DemoDataset(
    name="animals",
    classes=("cat", "dog"),
    samples=(
        _sample(0),
        _sample(1, votes=(Vote(annotator=1, label="dog"), Vote(annotator=0, label="cat"))),
        _sample(2, audit="project"),
        _sample(3, audit="annotation"),
        _sample(4, audit="project", votes=()),
        _sample(5, audit="annotation", votes=()),
        _sample(6, votes=()),
        _sample(7),
    ),
    held_out=(),
    native_size=2,
)


def _answers(door: MemoryDoor, project: Project) -> dict[str, list[tuple[str, str | None, bool]]]:
    return {
        task.sample_id: [(a.annotator, a.label, a.ground_truth) for a in task.annotations]
        for task in door.iter_tasks(project)
    }


def test_every_answer_is_entered_by_who_gave_it_in_the_order_of_the_votes() -> None:
    door = MemoryDoor()
    entered = enter_dataset(door, DATASET, TITLES, password=PASSWORD)
    first, second, auditor = (
        f"user:{door.users[f'{who}@fasten.local']}" for who in ("annotator-1", "annotator-2", "auditor")
    )
    assert _answers(door, entered.labels) == {
        "s0": [(first, "dog", False)],
        "s1": [(second, "dog", False), (first, "cat", False)],
        "s2": [(first, "dog", False)],
        "s3": [(second, "dog", False), (auditor, "cat", True)],
        "s5": [(auditor, "cat", True)],
        "s7": [(second, "dog", False)],
    }
    assert _answers(door, entered.audit) == {"s2": [(auditor, "cat", False)], "s4": [(auditor, "cat", False)]}
    assert (entered.added, entered.tasks) == (8, 8)
    assert door.passwords == {PASSWORD.get_secret_value()}


def test_each_task_shows_its_own_image_and_an_audited_one_the_same_file() -> None:
    door = MemoryDoor()
    entered = enter_dataset(door, DATASET, TITLES, password=PASSWORD)
    images = {sample.sample_id: sample.image for sample in DATASET.samples}
    urls: dict[str, str] = {}
    for project in (entered.labels, entered.audit):
        for task in door.iter_tasks(project):
            assert door.files[task.data["image"]] == images[task.sample_id]
            assert urls.setdefault(task.sample_id, task.data["image"]) == task.data["image"]
    assert len(door.files) == 7, "the image that nobody has seen is not uploaded, and none is twice"


def test_nothing_that_gives_the_truth_away_is_in_a_task() -> None:
    door = MemoryDoor()
    entered = enter_dataset(door, DATASET, TITLES, password=PASSWORD)
    assert all(set(task.data) == {"image", "sample_id"} for task in door.iter_tasks(entered.labels))


def test_entering_again_adds_nothing() -> None:
    door = MemoryDoor()
    first = enter_dataset(door, DATASET, TITLES, password=PASSWORD)
    tasks, files = {p: list(t) for p, t in door.tasks.items()}, dict(door.files)
    again = enter_dataset(door, DATASET, TITLES, password=PASSWORD)
    assert again.added == 0
    assert (again.labels, again.audit, again.tasks) == (first.labels, first.audit, first.tasks)
    assert (door.tasks, door.files) == (tasks, files)


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_a_half_entered_data_set_is_completed(fail_at: int) -> None:
    door = MemoryDoor(fail_at=fail_at)
    with pytest.raises(ServiceUnavailable):
        enter_dataset(door, DATASET, TITLES, password=PASSWORD, chunk=2, pause=_at_once)
    entered = enter_dataset(door, DATASET, TITLES, password=PASSWORD, chunk=2, pause=_at_once)
    assert entered.added == 8 - 2 * (fail_at - 1)
    whole = MemoryDoor()
    complete = enter_dataset(whole, DATASET, TITLES, password=PASSWORD)
    for project in ("labels", "audit"):
        assert _answers(door, getattr(entered, project)) == _answers(whole, getattr(complete, project))


def test_a_lost_answer_to_an_import_that_was_carried_out_adds_nothing_twice() -> None:
    door = MemoryDoor(fail_at=2, fails_after_taking=True)
    entered = enter_dataset(door, DATASET, TITLES, password=PASSWORD, chunk=2, pause=_at_once)
    assert len(_answers(door, entered.labels)) == len(door.tasks[entered.labels.project_id]) == 6


def test_a_project_with_other_classes_is_refused_before_anything_is_written() -> None:
    door = MemoryDoor()
    door.create_project(TITLES.audit, labelling_config(["cat", "cow"]), description="somebody else's")
    with pytest.raises(ConfigError, match="has classes cat, cow instead of cat, dog"):
        enter_dataset(door, DATASET, TITLES, password=PASSWORD)
    assert not any(door.tasks.values())
    assert not door.files


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tasks: tasks.append({**tasks[0], "id": 99}), "second one for sample s0"),
        (lambda tasks: tasks[0]["annotations"].clear(), "lost answers of sample s0"),
    ],
)
def test_a_project_that_somebody_else_changed_is_refused(spoil: Any, says: str) -> None:
    door = MemoryDoor()
    entered = enter_dataset(door, DATASET, TITLES, password=PASSWORD)
    spoil(door.tasks[entered.labels.project_id])
    with pytest.raises(ServiceError, match=says):
        enter_dataset(door, DATASET, TITLES, password=PASSWORD)


def test_what_people_did_in_the_project_since_is_left_alone() -> None:
    door = MemoryDoor()
    entered = enter_dataset(door, DATASET, TITLES, password=PASSWORD)
    tasks = door.tasks[entered.labels.project_id]
    tasks[0]["annotations"].append({**tasks[0]["annotations"][0], "id": 99})
    tasks.append({**tasks[0], "id": 98, "data": {"image": "/elsewhere.png"}})
    assert enter_dataset(door, DATASET, TITLES, password=PASSWORD).added == 0


def test_the_screen_names_every_class_whatever_it_is_called() -> None:
    classes = ("cat", "T-shirt/top", 'a "quoted" <one> & more', "7")
    control = find_control(labelling_config(classes), project="x")
    assert control.classes == classes
    assert control.image_field == "image"


def test_a_digit_is_its_own_hotkey_as_on_the_reviewers_screen() -> None:
    config, review = labelling_config("0123456789"), review_config([*"0123456789"])
    for digit in "0123456789":
        assert f'<Choice value="{digit}" hotkey="{digit}"' in config
        assert f'<Choice value="{digit}" hotkey="{digit}"' in review


def test_more_classes_than_keys_can_still_be_chosen() -> None:
    config = labelling_config([f"class {i}" for i in range(60)])
    assert '<Choice value="class 59" />' in config
    assert config.count("hotkey=") == len(set(CLASS_KEYS))
