"""Enters a data set into Label Studio the way a labelling team would have: projects, people, images, answers.

Nothing is passed to the loop on the side: it reads back what is entered here. Calling it again completes what an
earlier call left half done, and adds nothing to what is complete.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import SecretStr

from pipeline.demo.image_files import extension
from pipeline.demo.records import DemoDataset
from pipeline.demo.tasks import SAMPLE_ID, audit_task, labelling_config, labels_task, with_image
from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.label_studio import MissingProjectError, User
from pipeline.queue import SETTLE_PAUSES_S
from pipeline.records import Project, Task

logger = logging.getLogger(__name__)

CHUNK = 500
"""Tasks whose images are uploaded, and which are then imported, in one go."""


class EntryDoor(Protocol):
    """What entering needs of the door to Label Studio (`pipeline.label_studio.LabelStudio`)."""

    def find_project(self, ref: int | str, /) -> Project: ...
    def create_project(self, title: str, label_config: str, /, *, description: str) -> Project: ...
    def iter_tasks(self, project: Project, /) -> Iterator[Task]: ...
    def find_data_values(self, project_id: int, field: str, values: Iterable[str], /) -> set[str]: ...
    def upload_images(self, project_id: int, images: Mapping[str, bytes], /) -> dict[str, str]: ...
    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]], /) -> object: ...
    def add_user(self, email: str, password: str, /) -> User: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Titles:
    """Titles of the demonstration's projects."""

    labels: str
    audit: str

    @classmethod
    def of(cls, dataset: str) -> "Titles":
        """Each data set has projects of its own."""
        return cls(labels=f"FasTEN demo: {dataset}", audit=f"FasTEN demo: {dataset}, audit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entered:
    """Where the data set is now."""

    labels: Project
    audit: Project
    added: int
    """Tasks that this call added, in both projects."""
    tasks: int
    """Tasks of the data set that are there now, in both projects."""


def email_of(person: str) -> str:
    """The login of one of the demonstration's people (`annotator-1`, `auditor`, `reviewer-1`)."""
    return f"{person}@fasten.local"


def enter_dataset(
    door: EntryDoor,
    dataset: DemoDataset,
    titles: Titles,
    *,
    password: SecretStr,
    chunk: int = CHUNK,
    pause: Callable[[float], None] = time.sleep,
) -> Entered:
    """Creates the labels and the audit project, and in them a task for each sample with everybody's answers.

    Every annotator is a user, and so is the auditor, all with `password`. An audit goes into the audit project or, as
    a `ground_truth` annotation, beside the annotators' on the labels project's own task (`DemoSample.audit`); a
    sample that only the auditor has seen is in the labels project where its audit is, and nowhere else.

    Raises ConfigError where a project of that title has other classes, and ServiceError where one holds a sample
    twice or without its answers, which this function never does.
    """
    started = time.monotonic()
    labels, audit = (_project(door, title, dataset) for title in (titles.labels, titles.audit))
    annotators = [_person(door, f"annotator-{i + 1}", password) for i in range(dataset.annotators)]
    auditor = _person(door, "auditor", password)
    in_labels = {s.sample_id: task for s in dataset.samples if (task := labels_task(s, labels, annotators, auditor))}
    in_audit = {s.sample_id: task for s in dataset.samples if (task := audit_task(s, audit, auditor))}
    images = {sample.sample_id: sample.image for sample in dataset.samples}

    urls: dict[str, str] = {}
    added = 0
    for project, tasks in ((labels, in_labels), (audit, in_audit)):
        # The audit project shows the file that was uploaded for the labels project: one image, one URL.
        there = _entered(door, project, tasks)
        urls = there | urls
        missing = [sample_id for sample_id in tasks if sample_id not in there]
        for start in range(0, len(missing), chunk):
            group = missing[start : start + chunk]
            urls |= _upload(door, labels, {i: images[i] for i in group if i not in urls})
            _import(door, project, [with_image(tasks[i], project, i, urls[i]) for i in group], pause)
            added += len(group)
            done = len(there) + start + len(group)
            logger.info("entered %s of %s tasks into %r", f"{done:,}", f"{len(tasks):,}", project.title)
        if missing and len(_entered(door, project, tasks)) != len(tasks):
            raise ServiceError(f"project {project.title!r} lacks tasks that were entered; is somebody deleting them?")
    total = len(in_labels) + len(in_audit)
    logger.info("%s tasks are in Label Studio, %s of them new (%.1f s)", total, added, time.monotonic() - started)
    return Entered(labels=labels, audit=audit, added=added, tasks=total)


def _project(door: EntryDoor, title: str, dataset: DemoDataset) -> Project:
    try:
        project = door.find_project(title)
    except MissingProjectError:
        config = labelling_config(dataset.classes)
        return door.create_project(title, config, description=f"Demonstration data: {dataset.name}")
    if project.control.classes != dataset.classes:
        raise ConfigError(
            f"project {title!r} (id {project.project_id}) has classes {', '.join(project.control.classes)} instead of "
            f"{', '.join(dataset.classes)}; rename it or delete it"
        )
    return project


def _person(door: EntryDoor, name: str, password: SecretStr) -> int:
    return door.add_user(email_of(name), password.get_secret_value()).user_id


def _entered(door: EntryDoor, project: Project, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """`sample_id` → image URL of those of `tasks` that the project has, with all their answers."""
    there: dict[str, str] = {}
    for task in door.iter_tasks(project):
        wanted = tasks.get(task.sample_id)
        if wanted is None:
            continue
        where = f"task {task.task_id} of project {project.title!r} (id {project.project_id})"
        if task.sample_id in there:
            raise ServiceError(
                f"{where} is a second one for sample {task.sample_id}; delete the project and enter again"
            )
        if len(task.annotations) < len(wanted["annotations"]):
            raise ServiceError(
                f"{where} has lost answers of sample {task.sample_id}; delete the project and enter again"
            )
        there[task.sample_id] = str(task.data.get(project.control.image_field))
    return there


def _upload(door: EntryDoor, project: Project, images: Mapping[str, bytes]) -> dict[str, str]:
    """`sample_id` → URL. Files are named by number: a sample's id may be anything."""
    names = {f"{number:05d}.{extension(images[i])}": i for number, i in enumerate(images)}
    urls = door.upload_images(project.project_id, {name: images[i] for name, i in names.items()})
    return {i: urls[name] for name, i in names.items()}


def _import(
    door: EntryDoor, project: Project, payload: Sequence[Mapping[str, Any]], pause: Callable[[float], None]
) -> None:
    try:
        door.import_tasks(project.project_id, payload)
    except ServiceUnavailable:
        # The answer was lost, not necessarily the tasks: a chunk is there as a whole, now or soon, or not at all.
        ids = {task["data"][SAMPLE_ID] for task in payload}
        for seconds in SETTLE_PAUSES_S:
            if door.find_data_values(project.project_id, SAMPLE_ID, ids) == ids:
                return
            pause(seconds)
        raise
