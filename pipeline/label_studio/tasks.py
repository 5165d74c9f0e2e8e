"""Calls about tasks: reading, adding and removing them."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Any

from pipeline.errors import ServiceError
from pipeline.label_studio import pages
from pipeline.label_studio.connection import Connection
from pipeline.label_studio.drafts import walk_drafts
from pipeline.label_studio.parsing import Asked, OnBad, parse_asked, parse_task, push_key_of
from pipeline.records import Project, Task

logger = logging.getLogger(__name__)

UPLOADS_PER_REQUEST = 100
"""Django refuses more files in one form: 101 are answered with 500."""
DELETED_PER_REQUEST = 200
"""As many ids as fit into one request line."""


TOUCHED_FIELDS = ("total_annotations", "cancelled_annotations", "draft_exists", "annotations")
"""What `is_untouched` looks at. The list of annotations is read, too: see `pages.miscounted`."""


def is_untouched(raw: Mapping[str, Any]) -> bool:
    """Whether nobody has answered, skipped or begun to answer a task, as `TOUCHED_FIELDS` say of it."""
    return tuple(raw.get(name) for name in TOUCHED_FIELDS) == (0, 0, False, [])


class TaskCalls:
    """Part of `door.LabelStudio`."""

    _connection: Connection

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

    def iter_drafts(self, project: Project, on_bad: OnBad | None = None) -> Iterator[Task]:
        """Each task that somebody has begun to answer, its annotations being what was begun (`Annotation.is_draft`).

        One request for each such task.
        """
        yield from walk_drafts(self._connection, project, on_bad or _log_bad)

    def find_data_values(self, project_id: int, field: str, values: Iterable[str]) -> set[str]:
        """Those of `values` that some task of the project has as `data[field]`."""
        present: set[str] = set()
        for group in pages.groups_that_fit(values):
            any_of = [pages.data_in(field, group)]
            for raw in pages.walk(self._connection, project_id, any_of=any_of, fields=("id", "data"), answers=False):
                present.add(str(raw["data"][field]))
        return present

    def push_keys(self, project_id: int, *, after: int, but: Sequence[int] = ()) -> dict[int, str]:
        """The push keys of the tasks with a larger id than `after`, apart from `but`, by their ids; empty of others.

        One request, where nothing is new. `but` is left out where it is one run of ids, as one import makes them.
        """
        run = [pages.ids_outside(min(but), max(but))] if but and max(but) - min(but) < len(but) else []
        tasks = self._walk(project_id, any_of=run, fields=("id", "data"), after=after)
        return {task["id"]: push_key_of(task) for task in tasks if isinstance(task, dict) and "id" in task}

    @property
    def server_time(self) -> datetime | None:
        """What Label Studio's own clock said when it last answered."""
        return self._connection.server_time

    def asked(self, project: Project, *, after: int = 0, on_bad: OnBad | None = None) -> Iterator[Asked]:
        """Every task of a review project, in the order of ids: what it asks and how far it has come.

        Those with a larger id than `after`.
        """
        # Whether there is a draft is told beside a filter only, or with everything else: twice the time.
        begun = self._walk(project.project_id, any_of=[pages.drafted()], fields=("id",), after=after)
        drafted = frozenset(raw["id"] for raw in begun)
        tell = on_bad or _log_bad
        fields = ("id", "data", "total_annotations", "cancelled_annotations", "is_labeled", "updated_at")
        for raw in self._walk(project.project_id, any_of=[], fields=fields, after=after):
            question = parse_asked(raw, project, drafted, tell)
            if question is not None:
                yield question

    def _walk(
        self, project_id: int, *, any_of: Sequence[pages.Filter], fields: Sequence[str], after: int
    ) -> Iterator[Any]:
        return pages.walk(self._connection, project_id, any_of=any_of, fields=fields, answers=False, after=after)

    def delete_tasks(self, project_id: int, ids: Iterable[int]) -> int:
        """Removes those of the tasks that nobody has answered, skipped or begun to answer; returns how many.

        They are looked at right before, and the server looks again when it removes them. What nobody can see is that a
        person has a task on the screen and has not touched it yet: Label Studio then refuses their answer. After a lost
        answer (`ServiceUnavailable`) some may be gone; to remove the same tasks again harms nothing.
        """
        wanted = sorted(set(ids))
        removed = 0
        for start in range(0, len(wanted), DELETED_PER_REQUEST):
            group = wanted[start : start + DELETED_PER_REQUEST]
            free = self._untouched(project_id, group)
            if not free:
                continue
            raw = self._connection.post(
                "/api/dm/actions",
                what=f"removing {len(free)} tasks from project {project_id}",
                params={"id": "delete_tasks", "project": project_id},
                json={
                    "filters": {"conjunction": "and", "items": pages.untouched()},
                    "selectedItems": {"all": False, "included": free},
                },
            )
            counted = raw.get("processed_items") if isinstance(raw, dict) else None
            if not isinstance(counted, int) or not 0 <= counted <= len(free):
                raise ServiceError(
                    f"Label Studio at {self._connection.url} says that it removed {counted!r} of {len(free)} tasks of "
                    f"project {project_id}; look at its log"
                )
            removed += counted
        return removed

    def _untouched(self, project_id: int, ids: Sequence[int]) -> list[int]:
        query = {"filters": {"conjunction": "and", "items": [pages.ids_in(ids), *pages.untouched()]}}
        raw = pages.page(
            self._connection, project_id, query, fields=("id", *TOUCHED_FIELDS), size=len(ids), answers=True
        )
        # Read back, too: a server that did not know one of the filters would answer as if it were not there.
        return [task["id"] for task in raw["tasks"] if task["id"] in ids and is_untouched(task)]

    def import_tasks(self, project_id: int, payload: Sequence[Mapping[str, Any]]) -> list[int]:
        """Adds tasks (`data`, `annotations`, `predictions`) in one request; returns their ids, in the order given.

        Every annotation must say `ground_truth`: Label Studio takes True where it does not. Raises
        `ServiceUnavailable` where the answer was lost, in which case all or none may be there: look the keys up before
        another attempt; `ServiceError` where fewer were counted than sent.
        """
        annotations = [entry for task in payload for entry in task.get("annotations", ())]
        if not all("ground_truth" in entry for entry in annotations):
            raise ValueError("every imported annotation must say ground_truth")
        if not payload:
            return []
        raw = self._connection.post(
            f"/api/projects/{project_id}/import",
            what=f"importing {len(payload)} tasks into project {project_id}",
            params={"return_task_ids": "true"},
            json=payload,
        )
        sent = (len(payload), len(annotations), sum(len(task.get("predictions", ())) for task in payload))
        counted = tuple(raw.get(key) for key in ("task_count", "annotation_count", "prediction_count"))
        if counted != sent:
            raise ServiceError(
                f"Label Studio at {self._connection.url} counted {counted} tasks, annotations and predictions of "
                f"{sent} sent to project {project_id}; look at its log"
            )
        ids = raw.get("task_ids")
        if not isinstance(ids, list) or len(ids) != len(payload) or not all(isinstance(one, int) for one in ids):
            raise ServiceError(
                f"Label Studio at {self._connection.url} does not say which tasks it added to project {project_id}"
            )
        return ids

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
                raise ServiceError(
                    f"Label Studio at {self._connection.url} stored {len(found)} files for uploaded image {name!r}"
                )
            urls[name] = f"/data/{found[0]}"
        return urls


def _safe_file_name(name: str) -> str:
    """Letters, digits, dot, dash and underscore only; the extension survives, paths do not."""
    path = PurePath(name.replace("\\", "/"))
    return (re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem)[-60:] or "image") + re.sub(r"[^A-Za-z0-9.]", "", path.suffix)


def _log_bad(reason: str, where: str) -> None:
    logger.warning("left out: %s (%s)", reason, where)
