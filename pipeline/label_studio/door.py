"""The calls the rest of the project makes, each a plain function of plain records.

API: https://api.labelstud.io. Nothing that writes is repeated blindly: where an answer was lost, what is there is
looked up first (`create_project`), the server refuses a second copy (`submit`), or the caller looks up its own keys
before it tries again (`import_tasks`, with `find_data_values`).
"""

import json
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.label_config import find_control
from pipeline.label_studio import pages
from pipeline.label_studio.accounts import sign_in_or_up
from pipeline.label_studio.connection import Connection, LabelStudioConfig, RefusedError
from pipeline.label_studio.parsing import OnBad, parse_task
from pipeline.records import VERDICT_CONTROL, Project, ProjectState, Task

logger = logging.getLogger(__name__)

UPLOADS_PER_REQUEST = 100
"""Django refuses more files in one form: 101 are answered with 500."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """Which Label Studio answers, and to whom."""

    version: str
    user: str
    """E-mail address of the token's owner: for the terminal, never for an artifact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """One person with an account."""

    user_id: int
    token: SecretStr


class MissingProjectError(ConfigError):
    """No project has that id or title."""


class LabelStudio:
    """Label Studio as one user sees it. Every method may raise `ServiceUnavailable` and `ServiceError`."""

    def __init__(self, config: LabelStudioConfig, *, transport: httpx.BaseTransport | None = None) -> None:
        self._connection = Connection(config, transport=transport)
        self._transport = transport

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that are kept open."""
        self._connection.close()

    def authorization(self) -> dict[str, str]:
        """The header for a request to this host, and to no other, such as fetching an uploaded image."""
        return self._connection.authorization()

    # Looking --------------------------------------------------------------------------------------------------------

    def check(self) -> ServerInfo:
        """Version and user; raises `ServiceError` where the token is not accepted. Tried once."""
        version = self._connection.get("/api/version", what="asking its version", attempts=1)
        if not isinstance(version, dict) or "label-studio-os-package" not in version:
            raise ServiceError(f"{self.url} is not Label Studio; set FASTEN_LABEL_STUDIO_URL")
        user = self._connection.get("/api/current-user/whoami", what="asking who we are", attempts=1)
        return ServerInfo(version=str(version.get("release", "unknown")), user=str(user["email"]))

    def find_project(self, ref: int | str, *, control: str | None = None) -> Project:
        """The project with this id (a number) or exactly this title, with its label control.

        Raises `MissingProjectError` naming the nearest titles, `ConfigError` where several projects share the title or
        the label config has no usable control (`pipeline.label_config.find_control`).
        """
        project_id = int(ref) if isinstance(ref, int) or ref.isdecimal() else self._id_of_title(ref)
        try:
            raw = self._connection.get(f"/api/projects/{project_id}/", what=f"reading project {ref}")
        except RefusedError as error:
            if error.status == 404:
                raise MissingProjectError(
                    f"Label Studio at {self.url} has no project {ref} (or not for this user)"
                ) from None
            raise
        return self._project(raw, control)

    def _id_of_title(self, title: str) -> int:
        titles = self._titles({"title": title})  # the server's filter is "contains", in any case
        same = sorted(project_id for project_id, found in titles.items() if found == title)
        if len(same) == 1:
            return same[0]
        if same:
            raise ConfigError(f"projects {same} of Label Studio at {self.url} share the title {title!r}; use the id")
        near = get_close_matches(title, self._titles({}).values(), n=3, cutoff=0.5)
        hint = f" (near: {', '.join(map(repr, near))})" if near else ""
        raise MissingProjectError(f"Label Studio at {self.url} has no project titled {title!r}{hint}")

    def _titles(self, filters: Mapping[str, str]) -> dict[int, str]:
        found: dict[int, str] = {}
        page = 1
        while True:
            params = {**filters, "page": page, "page_size": 100, "include": "id,title"}
            raw = self._connection.get("/api/projects/", what="listing projects", params=params)
            found |= {entry["id"]: entry["title"] for entry in raw["results"]}
            if not raw["next"]:
                return found
            page += 1

    def _project(self, raw: Mapping[str, Any], control: str | None) -> Project:
        title = str(raw["title"])
        found = find_control(str(raw["label_config"]), project=f"{raw['id']} ({title})", control=control)
        return Project(project_id=int(raw["id"]), title=title, control=found)

    def project_state(self, project: Project, *, answers_only: bool = False) -> ProjectState:
        """What moves when anyone answers, edits, flips `ground_truth`, adds or deletes; one request.

        With `answers_only` only tasks that somebody answered or skipped count, so that our own pushes do not show.
        """
        query: dict[str, Any] = {"ordering": ["-tasks:updated_at"]}
        if answers_only:
            query["filters"] = {"conjunction": "or", "items": pages.answered()}
        fields = ("id", "updated_at")
        raw = pages.page(self._connection, project.project_id, query, fields=fields, size=1, answers=False)
        return ProjectState(
            project_id=project.project_id,
            tasks=0 if answers_only else raw["total"],
            annotations=raw["total_annotations"],
            newest_change=str(raw["tasks"][0].get("updated_at", "")) if raw["tasks"] else "",
        )

    def unanswered(self, project: Project) -> int:
        """Tasks that nobody has answered yet (skipped ones wait for someone else)."""
        query = {"filters": {"conjunction": "and", "items": pages.unanswered()}}
        raw = pages.page(self._connection, project.project_id, query, fields=("id",), size=1, answers=False)
        return int(raw["total"])

    # Reading tasks --------------------------------------------------------------------------------------------------

    def iter_tasks(
        self, project: Project, *, annotated_only: bool = False, on_bad: OnBad | None = None
    ) -> Iterator[Task]:
        """Every task with its annotations, in the order of ids, one page in memory at a time.

        `annotated_only` leaves out tasks that nobody answered or skipped. What cannot be read is left out and told to
        `on_bad(reason, where)` (logged, unless given).
        """
        any_of = pages.answered() if annotated_only else []
        tell = on_bad or _log_bad
        for raw in pages.walk(
            self._connection, project.project_id, any_of=any_of, fields=pages.TASK_FIELDS, answers=True
        ):
            task = parse_task(raw, project, tell)
            if task is not None:
                yield task

    def find_data_values(self, project_id: int, field: str, values: Iterable[str]) -> set[str]:
        """Those of `values` that some task of the project has as `data[field]`."""
        present: set[str] = set()
        for group in pages.groups_that_fit(values):
            any_of = [pages.data_in(field, group)]
            for raw in pages.walk(self._connection, project_id, any_of=any_of, fields=("id", "data"), answers=False):
                present.add(str(raw["data"][field]))
        return present

    def find_push_keys(self, project_id: int, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that some task of the project has as its push key."""
        return self.find_data_values(project_id, "push_key", keys)

    # Writing --------------------------------------------------------------------------------------------------------

    def create_project(
        self,
        title: str,
        label_config: str,
        *,
        uncertainty_sampling: bool = False,
        description: str = "",
        control: str | None = None,
        skipping: bool = True,
        empty_answers: bool = True,
    ) -> Project:
        """A new project. `uncertainty_sampling` serves tasks by ascending score of their prediction.

        `skipping` shows the Skip button, `empty_answers` allows to submit nothing. Titles need not be unique in Label
        Studio: call `find_project` first. After a lost answer the title is looked up before the error is passed on.
        """
        find_control(label_config, project=title, control=control)
        settings = {
            "title": title,
            "label_config": label_config,
            "description": description,
            "sampling": "Uncertainty sampling" if uncertainty_sampling else "Sequential sampling",
            "show_collab_predictions": True,
            "show_skip_button": skipping,
            "enable_empty_annotation": empty_answers,
        }
        try:
            raw = self._connection.post("/api/projects/", what=f"creating project {title!r}", json=settings)
        except ServiceUnavailable as error:
            try:
                return self.find_project(self._id_of_title(title), control=control)
            except (ServiceError, ConfigError):
                raise error from None
        logger.info("created project %r (id %s) in Label Studio", title, raw["id"])
        return self._project(raw, control)

    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]]) -> int:
        """Adds tasks (`data`, `annotations`, `predictions`) in one request; returns how many.

        Every annotation must say `ground_truth`: Label Studio takes True where it does not. Raises
        `ServiceUnavailable` where the answer was lost, in which case all or none may be there: look the keys up before
        another attempt; `ServiceError` where fewer were counted than sent.
        """
        annotations = [entry for task in payload for entry in task.get("annotations", ())]
        if not all("ground_truth" in entry for entry in annotations):
            raise ValueError("every imported annotation must say ground_truth")
        if not payload:
            return 0
        what = f"importing {len(payload)} tasks into project {project_id}"
        raw = self._connection.post(f"/api/projects/{project_id}/import", what=what, json=payload)
        sent = (len(payload), len(annotations), sum(len(task.get("predictions", ())) for task in payload))
        counted = tuple(raw.get(key) for key in ("task_count", "annotation_count", "prediction_count"))
        if counted != sent:
            raise ServiceError(
                f"Label Studio at {self.url} counted {counted} tasks, annotations and predictions of {sent} sent to "
                f"project {project_id}; look at its log"
            )
        return len(payload)

    def upload_images(self, project_id: int, images: Mapping[str, bytes]) -> dict[str, str]:
        """Uploads files without making tasks of them; returns name → URL below this host (`/data/upload/…`).

        A file that was uploaded twice, after a lost answer, lies unused and harms nothing.
        """
        names = list(images)
        urls: dict[str, str] = {}
        for start in range(0, len(names), UPLOADS_PER_REQUEST):
            urls |= self._upload(
                project_id, {name: images[name] for name in names[start : start + UPLOADS_PER_REQUEST]}
            )
        return urls

    def _upload(self, project_id: int, images: Mapping[str, bytes]) -> dict[str, str]:
        # Label Studio renames what it stores; the number in front says which file an answer is about.
        sent = {name: f"{number:02d}-{_safe_file_name(name)}" for number, name in enumerate(images)}
        raw = self._connection.post(
            f"/api/projects/{project_id}/import",
            what=f"uploading {len(images)} images to project {project_id}",
            params={"commit_to_project": "false"},
            files=[(file, (file, images[name])) for name, file in sent.items()],
        )
        stored = self._connection.get(
            f"/api/projects/{project_id}/file-uploads",
            what="listing the uploaded images",
            params={"ids": json.dumps(raw["file_upload_ids"])},
        )
        urls = {}
        for name, file in sent.items():
            found = [entry["file"] for entry in stored if str(entry["file"]).endswith(f"-{file}")]
            if len(found) != 1:
                raise ServiceError(f"Label Studio at {self.url} stored {len(found)} files for uploaded image {name!r}")
            urls[name] = f"/data/{found[0]}"
        return urls

    # People ---------------------------------------------------------------------------------------------------------

    def add_user(self, email: str, password: str) -> User:
        """Signs `email` up through the organisation's invite link; one who is there already is signed in."""
        invite = str(self._connection.get("/api/invite", what="asking for an invite link")["token"])
        with (
            httpx.Client(base_url=self.url, timeout=60, transport=self._transport) as http,
            self._connection.answers(f"signing {email} up"),
        ):
            user_id, token = sign_in_or_up(http, email=email, password=password, invite=invite)
        return User(user_id=user_id, token=SecretStr(token))

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


def _safe_file_name(name: str) -> str:
    """Letters, digits, dot, dash and underscore only; the extension survives, paths do not."""
    path = PurePath(name.replace("\\", "/"))
    return (re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem)[-60:] or "image") + re.sub(r"[^A-Za-z0-9.]", "", path.suffix)


def _log_bad(reason: str, where: str) -> None:
    logger.warning("left out: %s (%s)", reason, where)
