"""The corrected labels back in Label Studio: as annotations of a machine's user, or as a project of their own.

Both look at what is there before they write, so that they can be run again at any time, and double nothing.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol
from xml.etree.ElementTree import Element, SubElement, tostring

from pipeline.corrected import corrected_rows
from pipeline.errors import ConfigError, ServiceUnavailable
from pipeline.export.by_image import LabelsOnDisk
from pipeline.export.machine_users import declare_machine
from pipeline.label_studio import MissingProjectError
from pipeline.queue import SETTLE_PAUSES_S
from pipeline.records import Mode, Project, Task
from pipeline.snapshot import Snapshot
from pipeline.snapshot.pull import is_a_persons
from pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

CHUNK = 500
"""Tasks per import, each with its annotation."""
_OURS = {"sample_id", "corrected_by", "given_label"}
"""What the data of every task of such a project has."""


class Tasks(Protocol):
    """What is needed of `pipeline.label_studio.LabelStudio` to look at tasks."""

    def iter_tasks(self, project: Project, /) -> Iterator[Task]: ...


class ProjectDoor(Tasks, Protocol):
    """What is needed of it to make a project."""

    def find_project(self, ref: str, /) -> Project: ...
    def create_project(self, title: str, label_config: str, /, *, description: str) -> Project: ...
    def find_data_values(self, project_id: int, field: str, values: Iterable[str], /) -> set[str]: ...
    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]], /) -> object: ...


class Machine(Protocol):
    """What is needed of `pipeline.label_studio.machine_user.MachineUser`."""

    @property
    def annotator(self) -> str: ...
    def annotate(self, project: Project, task: Task, label: str, /) -> None: ...
    def withdraw(self, project: Project, annotation_id: int, /) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What one write-back did, or would do."""

    added: int
    there: int
    """Labels that were there already, the same."""
    removed: int = 0
    """The machine's own earlier annotations that hold no longer."""
    different: int = 0
    """Samples of the project whose label there is another one, and stays."""


def write_as_user(
    door: Tasks,
    machine: Machine,
    labels: Project,
    workspace: Workspace,
    snapshot: Snapshot,
    *,
    dry_run: bool = False,
) -> Written:
    """Make the machine's annotations on the labels project's tasks those of its relabels of now (mode auto).

    The user is noted as a machine before anything is written, so that no pull takes it for a person. People's
    annotations are not touched, nor is a task where somebody changed the machine's or marked it as ground truth.
    """
    declare_machine(workspace, snapshot, machine.annotator, dry_run=dry_run)
    added = there = removed = 0
    relabels = (row for row in corrected_rows(workspace, snapshot, mode="auto") if row["source"] == "model")
    with workspace.one_writer(), closing(LabelsOnDisk(relabels)) as wanted:
        for task in door.iter_tasks(labels):
            row = wanted.of_sample(task.sample_id)
            label = None if row is None else row["label"]
            mine = [one for one in task.annotations if one.annotator == machine.annotator]
            if any(is_a_persons(one, {machine.annotator}) for one in mine):
                continue  # somebody has made it theirs: there is nothing for a machine to say
            if label is not None and any(one.label == label for one in mine):
                there += 1
            elif label is not None:
                added += 1
                if not dry_run:
                    machine.annotate(labels, task, label)
            for stale in (one for one in mine if one.label != label):
                removed += dry_run or machine.withdraw(labels, stale.annotation_id)
            if (added + removed) % 500 == 499:
                logger.info("%d annotations written, %d removed", added, removed)
    return Written(added=added, there=there, removed=removed)


def write_project(
    door: ProjectDoor,
    title: str,
    labels: Project,
    workspace: Workspace,
    snapshot: Snapshot,
    *,
    mode: Mode,
    dry_run: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> Written:
    """Enter the corrected labels into the project of that title, a task with one annotation each; made if missing.

    A sample that the project has stays as it is. Samples whose image has no address in Label Studio are left out.
    Raises `ConfigError`, and writes nothing, where the project is one that was not made here.
    """
    if title.isdecimal():
        raise ConfigError(f"{title!r} would be taken for a project's id: give the new project a title with letters")
    project: Project | None
    try:
        project = door.find_project(title)
    except MissingProjectError:
        project = None if dry_run else door.create_project(title, _config(labels), description=_description(labels))
    added = 0
    with workspace.one_writer(), closing(LabelsOnDisk(corrected_rows(workspace, snapshot, mode=mode))) as wanted:
        there, different = (0, 0) if project is None else _compare(door, project, labels, wanted)
        rows = (row for row in corrected_rows(workspace, snapshot, mode=mode) if row["image_url"])
        while chunk := {row["sample_id"]: row for row in islice(rows, CHUNK)}:
            known = door.find_data_values(project.project_id, "sample_id", chunk) if project is not None else set()
            new = [row for sample_id, row in chunk.items() if sample_id not in known]
            added += len(new)
            if project is not None and not dry_run and new:
                _send(door, project, new, pause)
                logger.info("%d labels entered into %r", added, title)
    return Written(added=added, there=there, different=different)


def _compare(door: ProjectDoor, project: Project, labels: Project, wanted: LabelsOnDisk) -> tuple[int, int]:
    """(samples whose newest annotation says what we would, samples where it says something else)."""
    if set(project.control.classes) != set(labels.control.classes):
        raise _no_export(project)
    same = different = 0
    for task in door.iter_tasks(project):
        if not task.data.keys() >= _OURS:
            raise _no_export(project)
        row = wanted.of_sample(task.sample_id)
        newest = max(task.annotations, key=lambda one: (one.updated_at, one.annotation_id), default=None)
        agrees = row is not None and newest is not None and newest.label == row["label"]
        same, different = same + agrees, different + (not agrees)
    return same, different


def _no_export(project: Project) -> ConfigError:
    return ConfigError(
        f"project {project.title!r} (id {project.project_id}) is there, and no export of these labels: give another "
        "title"
    )


def _send(
    door: ProjectDoor, project: Project, rows: Sequence[Mapping[str, Any]], pause: Callable[[float], None]
) -> None:
    """Import one chunk; after a lost answer, wait for it to appear rather than send it twice."""
    try:
        door.import_tasks(project.project_id, [_payload(row, project) for row in rows])
    except ServiceUnavailable:
        ids = {row["sample_id"] for row in rows}
        for seconds in SETTLE_PAUSES_S:
            if door.find_data_values(project.project_id, "sample_id", ids) == ids:
                return
            pause(seconds)
        raise


def _payload(row: Mapping[str, Any], project: Project) -> dict[str, Any]:
    control = project.control
    region = {
        "from_name": control.name,
        "to_name": control.to_name,
        "type": "choices",
        "value": {"choices": [row["label"]]},
    }
    data = {
        control.image_field: row["image_url"],
        "sample_id": row["sample_id"],
        "corrected_by": row["source"],
        "given_label": row["given_label"] or "",
    }
    return {"data": data, "annotations": [{"result": [region], "ground_truth": False}]}


def _config(labels: Project) -> str:
    """A label config of the same classes."""
    root = Element("View")
    SubElement(root, "Image", {"name": "image", "value": "$image"})
    SubElement(root, "Header", {"value": "Label: $corrected_by, given label: $given_label", "size": "5"})
    choices = SubElement(root, "Choices", {"name": "label", "toName": "image", "choice": "single-radio"})
    for name in labels.control.classes:
        SubElement(choices, "Choice", {"value": name})
    return tostring(root, encoding="unicode")


def _description(labels: Project) -> str:
    return f"Corrected labels of “{labels.title}”. Changes made here are not read back."
