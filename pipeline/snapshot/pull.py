"""Pull: everything that people have said of the samples becomes one snapshot.

*Audited* are the samples of the audit project and those with a `ground_truth` annotation in the labels project;
*reviewed* are those answered in the review project. Both leave the noisy samples for good, whatever people made of them
(`consensus.decide` says what). All other annotations of the labels project are votes. A sample of the
audit project is the labels project's one of the same `sample_id`, or else the only one with the very same image.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from pipeline.answer_filter import AnswerFilter, with_drafts
from pipeline.errors import ConfigError
from pipeline.images import Images
from pipeline.records import Annotation, Origin, Project, ProjectState, Task, is_sample_id
from pipeline.snapshot.folder import Latest, ProjectSource, Snapshot, read_latest, write_latest
from pipeline.snapshot.question import Question, read_question
from pipeline.snapshot.settle import TABLE, settle
from pipeline.snapshot.staging import Said, Staging
from pipeline.snapshot.tally import PullReport, Tally
from pipeline.snapshot.writer import SnapshotWriter, exclusive_pull

logger = logging.getLogger(__name__)

OnBad = Callable[[str, str], None]
"""Told a reason, fit to be counted by, and where it was."""

_PROGRESS = 10_000
_WRITTEN_IN_ONE_GO = timedelta(seconds=1)


class TaskSource(Protocol):
    """What a pull needs of Label Studio (`label_studio.LabelStudio` has it)."""

    def iter_tasks(
        self, project: Project, *, annotated_only: bool = False, on_bad: OnBad | None = None
    ) -> Iterator[Task]:
        """Tasks with all their annotations; what cannot be read is left out and told to `on_bad(reason, where)`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PullResult:
    """A snapshot, and whether it says anything that the pull before did not."""

    snapshot: Snapshot
    is_new: bool
    report: PullReport


def pull(
    door: TaskSource,
    images: Images,
    *,
    labels: Project,
    audit: Project | None = None,
    review: Project | None = None,
    data_dir: Path,
    states: Sequence[ProjectState] = (),
    ignore: Collection[str] = (),
    answers: AnswerFilter | None = None,
    drafts: Callable[[OnBad], Iterable[Task]] | None = None,
) -> PullResult:
    """Read the projects, fetch new images, write the snapshot below `data_dir` unless it is the one of the last pull.

    `images` keeps its store below `data_dir` too; `states` are the projects' states just before, for the manifest. What
    the annotators in `ignore` (as `user:7`) wrote is a machine's own, and no answer of anybody. `answers` says what
    else is left out, and counted. `drafts` reads the tasks of the labels project whose answers were begun there
    (`label_studio.LabelStudio.iter_drafts`), where those are to count. A sample at fault is counted, reported and left
    out. Raises `ConfigError` where the projects do not belong together, and lets the errors of Label Studio through;
    then nothing is written but images that were fetched whole.
    """
    projects = _projects(labels, audit, review)
    tally = Tally()
    with exclusive_pull(data_dir) as folder, Staging(folder) as staging:
        answers = answers or AnswerFilter()
        for origin, project in projects:
            tasks = door.iter_tasks(project, annotated_only=True, on_bad=tally.reject)
            if origin == "labels" and drafts is not None:
                tasks = _drafted(tasks, drafts(tally.reject))
            _read(tasks, project, origin, staging, tally, labels=labels, ignore=frozenset(ignore), answers=answers)
        for url, image in images.resolve(staging.urls()):
            staging.set_image(url, image)
        tally.linked = staging.link_by_image()
        with SnapshotWriter(folder / "snapshot", labels.control.classes) as writer:
            annotators = staging.annotators()
            for sample_id, said in staging.samples():
                _write(sample_id, _told(said, frozenset(ignore)), annotators, writer, tally)
            report = tally.report()
            snapshot, _ = writer.finish(
                data_dir,
                rejected=report.rejected,
                projects=[
                    ProjectSource(role=origin, project_id=project.project_id, title=project.title)
                    for origin, project in projects
                ],
                states=states,
            )
        before = read_latest(data_dir)
        is_new = before is None or before.snapshot_id != snapshot.snapshot_id
        write_latest(data_dir, Latest(snapshot_id=snapshot.snapshot_id))
    _tell(report, snapshot, is_new)
    return PullResult(snapshot=snapshot, is_new=is_new, report=report)


def _projects(labels: Project, audit: Project | None, review: Project | None) -> list[tuple[Origin, Project]]:
    """The projects with their roles; raises `ConfigError` where two are one, or their classes differ."""
    projects: list[tuple[Origin, Project]] = [("labels", labels)]
    if audit is not None:
        projects.append(("audit", audit))
    if review is not None:
        projects.append(("review", review))
    seen: dict[int, Origin] = {}
    for origin, project in projects:
        if project.project_id in seen:
            raise ConfigError(
                f"project {project.project_id} {project.title!r} is set both as the {seen[project.project_id]} and the "
                f"{origin} project; they must be different ones (FASTEN_{origin.upper()}_PROJECT)"
            )
        seen[project.project_id] = origin
        check_same_classes(labels, project, role=origin)
    return projects


def check_same_classes(labels: Project, other: Project, *, role: Origin) -> None:
    """Raise `ConfigError`, naming the differences, unless both projects have the same classes (in any order)."""
    expected, classes = set(labels.control.classes), set(other.control.classes)
    if classes == expected:
        return
    differences = [
        f"{said} {', '.join(map(repr, sorted(names)[:10]))}{', …' if len(names) > 10 else ''}"
        for said, names in (("lacks", expected - classes), ("has besides", classes - expected))
        if names
    ]
    raise ConfigError(
        f"the {role} project {other.project_id} {other.title!r} has other classes than the labels "
        f"project {labels.project_id} {labels.title!r}: it {' and '.join(differences)}; mend its label config"
    )


def _drafted(tasks: Iterator[Task], drafts: Iterable[Task]) -> Iterator[Task]:
    """`tasks` with their drafts, then those that have nothing else. Memory holds the drafts, of which there are few."""
    begun = {task.task_id: task for task in drafts}
    for task in tasks:
        own = begun.pop(task.task_id, None)
        yield task if own is None else with_drafts(task, own.annotations)
    yield from begun.values()


def _read(
    tasks: Iterator[Task],
    project: Project,
    origin: Origin,
    staging: Staging,
    tally: Tally,
    *,
    labels: Project,
    ignore: Collection[str],
    answers: AnswerFilter,
) -> None:
    field = project.control.image_field
    read = 0
    for task in tasks:
        where = f"task {task.task_id} of project {project.project_id}"
        if not is_sample_id(task.sample_id):
            tally.reject("sample_id is too long or not text", where)
            continue
        question: Question | None = Question()
        if origin == "review":
            question = read_question(task, labels_project_id=labels.project_id, classes=labels.control.classes)
        if question is None:
            tally.reject("review task was asked for another labels project", where)
            continue
        by_people = tuple(
            each
            for each in task.annotations
            if is_a_persons(each, ignore) and _counts(each, origin, answers, tally, where)
        )
        url = task.data.get(field)
        staging.add(
            replace(task, annotations=by_people), origin, url if isinstance(url, str) and url else None, question
        )
        for annotation in by_people:
            tally.annotations[origin] += 1
            if annotation.kind == "unknown_class":
                tally.reject("annotation names an unknown class", f"{where}: {str(annotation.label)[:80]!r}")
            elif annotation.kind == "several":
                tally.reject("annotation with several classes", where)
            elif annotation.kind == "empty":
                tally.reject("annotation is empty", where)
        read += 1
        if read % _PROGRESS == 0:
            logger.info("%d tasks of project %r read", read, project.title)
    logger.info("project %r: %d tasks with annotations", project.title, read)


def _counts(annotation: Annotation, origin: Origin, answers: AnswerFilter, tally: Tally, where: str) -> bool:
    reason = answers.reason_left_out(annotation, origin)
    if reason is not None:
        tally.reject(reason, where)
    return reason is None


def is_a_persons(annotation: Annotation, ignore: Collection[str]) -> bool:
    """Whether somebody said it: what a machine wrote counts once a person has marked it as ground truth or changed it.

    Label Studio keeps the author of an annotation that somebody else edits; a machine never edits its own.
    """
    edited = annotation.updated_at - annotation.created_at > _WRITTEN_IN_ONE_GO
    return annotation.annotator not in ignore or annotation.ground_truth or edited


def _told(said: list[Said], machines: Collection[str]) -> list[Said]:
    """`said`, where those of what the machines wrote that are a person's now are known as such."""
    return [
        replace(each, answer=replace(each.answer, led=True)) if each.answer.annotator in machines else each
        for each in said
    ]


def _write(sample_id: str, said: list[Said], annotators: Collection[str], writer: SnapshotWriter, tally: Tally) -> None:
    for each in said:
        writer.add("labels", _label_row(sample_id, each))
    settled = settle(sample_id, said, annotators)
    tally.samples[settled.fate] += 1
    tally.notes.update(settled.notes)
    tally.ground_truth += any(each.answer.origin == "labels" and each.answer.ground_truth for each in said)
    if settled.fate == "rejected":
        tally.reject(settled.reason, f"sample {sample_id[:80]!r}: {settled.particulars}")
    elif settled.row is not None:
        writer.add(TABLE[settled.fate], settled.row)


def _label_row(sample_id: str, said: Said) -> dict[str, Any]:
    answer = said.answer
    return {
        "sample_id": sample_id,
        "project_id": said.project_id,
        "task_id": said.task_id,
        "annotation_id": answer.annotation_id,
        "annotator": answer.annotator,
        "answer": answer.kind,
        "label": answer.label,
        "ground_truth": answer.ground_truth,
        "was_cancelled": said.was_cancelled,
        "lead_time_s": said.lead_time_s,
        "created_at": said.created_at,
        "updated_at": answer.updated_at,
        "origin": answer.origin,
        "asked_as": answer.asked_as,
        "suggestion": said.suggestion,
        "asked_by_run": said.asked_by_run,
    }


def _tell(report: PullReport, snapshot: Snapshot, is_new: bool) -> None:
    logger.info("snapshot %s (%s): %s", snapshot.snapshot_id, "new" if is_new else "as before", report.summary())
    for reason, count in report.rejected.items():
        logger.warning("left out, %d × %s; for example %s", count, reason, report.examples[reason][0])
    for note, count in report.notes.items():
        logger.warning("%s (%d)", note, count)
