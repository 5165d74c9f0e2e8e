"""Answers that somebody has begun and not submitted.

Measured on Label Studio 1.23: making, changing and deleting a draft moves neither `updated_at` nor any count of its
task; `GET /api/tasks` shows a user only drafts of their own; and a draft says who made it by e-mail address. So tasks
that have any are found by a filter, and each of them is asked for everybody's, which also tells the author's id.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from pipeline.label_studio import pages
from pipeline.label_studio.connection import Connection
from pipeline.label_studio.parsing import OnBad, parse_drafts, parse_task
from pipeline.records import Project, Task


def walk_drafts(connection: Connection, project: Project, on_bad: OnBad) -> Iterator[Task]:
    """Each task with drafts, in the order of ids, its annotations being those that nobody has submitted."""
    found = pages.walk(connection, project.project_id, any_of=[pages.drafted()], fields=("id", "data"), answers=False)
    for raw in found:
        task = parse_task(raw, project, on_bad)
        if task is None:
            continue
        where = f"task {task.task_id} of project {project.project_id}"
        listed = connection.get(f"/api/tasks/{task.task_id}/drafts", what=f"reading drafts of {where}")
        drafts = parse_drafts(listed, project.control, where, on_bad)
        if drafts:
            yield replace(task, annotations=drafts)


def drafts_state(connection: Connection, project: Project) -> str:
    """Equal as long as nobody begins an answer, goes on with one, or ends it."""
    digest = hashlib.sha256()
    for task in walk_drafts(connection, project, lambda *_: None):
        for draft in sorted(task.annotations, key=lambda draft: draft.annotation_id):
            digest.update(f"{draft.annotation_id} {draft.updated_at.isoformat()}\n".encode())
    return digest.hexdigest()
