"""Calls that people make: signing up, asking for the next task, answering it."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from pipeline.errors import ConfigError, ServiceUnavailable
from pipeline.label_studio.accounts import sign_in_or_up
from pipeline.label_studio.connection import Connection, RefusedError
from pipeline.records import VERDICT_CONTROL, Project, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """One person with an account."""

    user_id: int
    token: SecretStr


def user_ids_by_email(connection: Connection) -> dict[str, int]:
    """The organisation's users: e-mail address in small letters → id."""
    users = connection.get("/api/users/", what="listing users")
    listed = users.get("results", []) if isinstance(users, dict) else users
    return {str(user["email"]).casefold(): int(user["id"]) for user in listed}


class PeopleCalls:
    """Part of `door.LabelStudio`."""

    _connection: Connection
    _transport: httpx.BaseTransport | None

    def add_user(self, email: str, password: str) -> User:
        """Signs `email` up through the organisation's invite link; one who is there already is signed in."""
        invite = str(self._connection.get("/api/invite", what="asking for an invite link")["token"])
        with (
            httpx.Client(base_url=self._connection.url, timeout=60, transport=self._transport) as http,
            self._connection.answers(f"signing {email} up"),
        ):
            user_id, token = sign_in_or_up(http, email=email, password=password, invite=invite)
        return User(user_id=user_id, token=SecretStr(token))

    def find_annotators(self, references: Collection[str]) -> frozenset[str]:
        """`user:7` for each of `7`, `user:7` and the e-mail address of user 7.

        Nothing is asked for where there is no address. Raises `ConfigError`, naming it, for an address that nobody has.
        """
        emails = [each for each in references if "@" in each]
        known = user_ids_by_email(self._connection) if emails else {}
        found = {f"user:{each.removeprefix('user:')}" for each in references if "@" not in each}
        for email in emails:
            if email.casefold() not in known:
                raise ConfigError(
                    f"Label Studio at {self._connection.url} has no user {email}; mend FASTEN_LEAVE_OUT_ANNOTATORS"
                )
            found.add(f"user:{known[email.casefold()]}")
        return frozenset(found)

    def next_task(self, project: Project | int) -> Task | None:
        """The task that the labelling stream serves this user next, and locks for them; None when none is left."""
        project_id = project if isinstance(project, int) else project.project_id
        try:
            raw = self._connection.get(f"/api/projects/{project_id}/next", what="asking for the next task")
        except RefusedError as error:
            if error.status == 404 and "no tasks" in str(error):
                return None
            raise
        return Task(task_id=int(raw["id"]), project_id=project_id, data=raw["data"])

    def submit(
        self,
        project: Project,
        task: Task,
        *,
        label: str | None = None,
        verdict: str | None = None,
        lead_time_s: float | None = None,
    ) -> int:
        """Answers a task as this user, with a class or a verdict; returns the annotation's id, once it is there.

        A lost answer is asked for again under the same unique id, of which the server keeps one.
        """
        if (label is None) == (verdict is None):
            raise ValueError("an answer is either a label or a verdict")
        name = project.control.name if verdict is None else VERDICT_CONTROL
        region = {
            "from_name": name,
            "to_name": project.control.to_name,
            "type": "choices",
            "value": {"choices": [label if verdict is None else verdict]},
        }
        body = {"result": [region], "lead_time": lead_time_s, "unique_id": str(uuid.uuid4())}
        path, what = f"/api/tasks/{task.task_id}/annotations/", f"answering task {task.task_id}"
        try:
            return int(self._connection.post(path, what=what, json=body)["id"])
        except ServiceUnavailable:
            try:
                return int(self._connection.post(path, what=what, json=body)["id"])
            except RefusedError as error:
                if error.status != 409:
                    raise
                mine = self._connection.get(path, what=what)
                return max(int(entry["id"]) for entry in mine if entry["result"] == [region])
