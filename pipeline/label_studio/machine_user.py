"""Writing annotations in the name of one user: a machine's, so that people see which labels are its.

Open-source Label Studio lets every user of the organisation say who an annotation is by. A lost answer does no harm:
each annotation has a unique id that follows from what it says, and the server keeps one of each.
"""

import uuid
from types import TracebackType
from typing import Self

import httpx

from pipeline.errors import ConfigError
from pipeline.label_studio.connection import Connection, LabelStudioConfig, RefusedError
from pipeline.label_studio.parsing import MalformedError, parse_annotation
from pipeline.label_studio.people import user_ids_by_email
from pipeline.records import Project, Task
from pipeline.snapshot.pull import is_a_persons

_NAMESPACE = uuid.UUID("1e8b6c5a-8c5b-4d53-9a56-0f7b6d0c2a11")


class MachineUser:
    """One user of Label Studio, known by e-mail address. Methods may raise `ServiceUnavailable` and `ServiceError`."""

    def __init__(self, config: LabelStudioConfig, email: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._connection = Connection(config, transport=transport)
        try:
            self._user_id = self._find(email)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def annotator(self) -> str:
        """`user:{id}`, as annotations name this user."""
        return f"user:{self._user_id}"

    def _find(self, email: str) -> int:
        found = user_ids_by_email(self._connection).get(email.casefold())
        if found is not None:
            return found
        raise ConfigError(
            f"Label Studio at {self._connection.url} has no user {email}: invite one for the machine (Organization, "
            "Add People)"
        )

    def annotate(self, project: Project, task: Task, label: str) -> None:
        """Say that the task's class is `label`, never as ground truth; once, however often it is called."""
        region = {
            "from_name": project.control.name,
            "to_name": project.control.to_name,
            "type": "choices",
            "value": {"choices": [label]},
        }
        said = f"{project.project_id}\0{task.task_id}\0{self._user_id}\0{label}"
        body = {
            "result": [region],
            "completed_by": self._user_id,
            "ground_truth": False,
            "unique_id": str(uuid.uuid5(_NAMESPACE, said)),
        }
        what = f"annotating task {task.task_id}"
        try:
            self._connection.post(f"/api/tasks/{task.task_id}/annotations/", what=what, json=body)
        except RefusedError as error:
            if error.status != 409:  # there already
                raise

    def withdraw(self, project: Project, annotation_id: int) -> bool:
        """Delete one of this user's annotations, unless a person has made it theirs meanwhile; → whether it is gone."""
        path, what = f"/api/annotations/{annotation_id}/", f"deleting annotation {annotation_id}"
        try:
            found = parse_annotation(self._connection.get(path, what=what), project.control)
        except RefusedError as error:
            if error.status == 404:
                return True
            raise
        except MalformedError:
            return False
        if is_a_persons(found, {self.annotator}):
            return False
        self._connection.delete(path, what=what)
        return True
