"""All that people said, by sample: what snapshots are made of."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from pipeline.snapshot.consensus import Answer
from pipeline.snapshot.mirror.file import MirrorFile
from pipeline.snapshot.said import Said, TaskImage

ANNOTATORS = """
SELECT DISTINCT annotator FROM annotation JOIN project USING (project_id)
WHERE origin = 'labels' AND NOT ground_truth
"""
EVERYTHING = """
SELECT sample_id, task.project_id, task.task_id, origin, annotation_id, annotator, answer, label, ground_truth,
    was_cancelled, lead_time_s, created_at, annotation.updated_at, url, sha256, reason, problem, asked_as, suggestion,
    asked_by_run
FROM task CROSS JOIN annotation USING (project_id, task_id) JOIN project USING (project_id) LEFT JOIN url USING (digest)
ORDER BY sample_id, task.project_id, task.task_id, annotation_id
"""


class WhatWasSaid(MirrorFile):
    """Part of `Mirror`."""

    def annotators(self) -> frozenset[str]:
        """Who labels in the labels project: everybody with an annotation there that is not ground truth."""
        return frozenset(str(name) for (name,) in self._rows(ANNOTATORS))

    def problems(self) -> Iterator[tuple[str, str]]:
        """(reason, where) of everything that could not be read, in a fixed order."""
        query = "SELECT reason, particulars FROM problem ORDER BY project_id, task_id, reason, particulars"
        yield from self._rows(query)

    def samples(self) -> Iterator[tuple[str, list[Said]]]:
        """Every sample, by id, with all its annotations in a fixed order."""
        for sample_id, rows in groupby(self._rows(EVERYTHING), key=lambda row: str(row[0])):
            yield sample_id, [_said(row) for row in rows]


def _said(row: Sequence[Any]) -> Said:
    (_, project_id, task_id, origin, annotation_id, annotator, answer, label, ground_truth) = row[:9]
    (was_cancelled, lead_time_s, created_at, updated_at, url, sha256, reason, problem) = row[9:17]
    (asked_as, suggestion, asked_by_run) = row[17:]
    return Said(
        project_id=project_id,
        task_id=task_id,
        answer=Answer(
            annotation_id=annotation_id,
            annotator=annotator,
            kind=answer,
            label=label,
            updated_at=datetime.fromisoformat(updated_at),
            origin=origin,
            ground_truth=bool(ground_truth),
            asked_as=asked_as,
        ),
        was_cancelled=bool(was_cancelled),
        lead_time_s=lead_time_s,
        created_at=datetime.fromisoformat(created_at),
        image=TaskImage(
            url=url or "",
            sha256=sha256,
            reason=reason or ("" if sha256 else "task has no image"),
            problem=problem or "",
        ),
        suggestion=suggestion,
        asked_by_run=asked_by_run,
    )
