"""Pull: everything that people have said of the samples becomes one snapshot.

*Audited* are the samples of the audit project and those with a `ground_truth` annotation in the labels project;
*reviewed* are those answered in the review project. Both leave the noisy samples for good, whatever people made of them
(`consensus.decide` says what). All other annotations of the labels project are votes. A sample of the
audit project is the labels project's one of the same `sample_id`, or else the only one with the very same image.

What Label Studio holds is kept in the workspace's mirror, of which only changes are read (`catch_up`). The snapshot is
made from the mirror alone: the same mirror gives the same snapshot, whatever was read when.
"""

import json
import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.answer_filter import AnswerFilter
from pipeline.errors import ConfigError, DataError
from pipeline.images import Images
from pipeline.records import (
    LONGEST_SAMPLE_ID,
    Annotation,
    Origin,
    Project,
    ProjectState,
    Task,
    TaskRead,
    is_sample_id,
)
from pipeline.schema import SCHEMA_VERSION
from pipeline.snapshot.catch_up import Source, catch_up
from pipeline.snapshot.comparing import ChangeSource
from pipeline.snapshot.folder import (
    Latest,
    ProjectSource,
    Snapshot,
    open_snapshot,
    read_latest,
    snapshot_folder,
    write_latest,
)
from pipeline.snapshot.mirror import Mirror, Row, mirror_path, reading_of
from pipeline.snapshot.pull_images import EarlyImages, fetch_images
from pipeline.snapshot.question import Question, read_question
from pipeline.snapshot.said import Said
from pipeline.snapshot.settle import TABLE, settle
from pipeline.snapshot.tally import PullReport, Tally
from pipeline.snapshot.writer import SnapshotWriter, exclusive_pull

logger = logging.getLogger(__name__)

OnBad = Callable[[str, str], None]
"""Told a reason, fit to be counted by, and where it was."""

_WRITTEN_IN_ONE_GO = timedelta(seconds=1)
_REPORT = TypeAdapter(PullReport)
RULES = 1
"""Raised whenever the same mirror gives another snapshot than before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PullResult:
    """A snapshot, and whether it says anything that the pull before did not."""

    snapshot: Snapshot
    is_new: bool
    report: PullReport


def pull(
    door: ChangeSource,
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
    now: datetime | None = None,
) -> PullResult:
    """Read what has changed, fetch new images, write the snapshot below `data_dir` unless it is the one of before.

    `images` keeps its store below `data_dir` too; `states` are the projects' states just before: a project that looks
    as it did at the end of the last pull is not read. What the annotators in `ignore` (as `user:7`) wrote is a
    machine's own, and no answer of anybody. `answers` says what else is left out, and counted. `drafts` reads the tasks
    of the labels project whose answers were begun there (`label_studio.LabelStudio.iter_drafts`), where those are to
    count. A sample at fault is counted, reported and left out. Raises `ConfigError` where the projects do not belong
    together, and lets the errors of Label Studio through; then no snapshot is written, and what was read and fetched is
    kept for the next pull.
    """
    projects = projects_by_role(labels, audit, review)
    known = {state.project_id: state for state in states}
    leave_out = _LeaveOut(frozenset(ignore), answers or AnswerFilter())
    tally = Tally()
    with exclusive_pull(data_dir) as folder, Mirror(mirror_path(data_dir)) as mirror:
        mark = mirror.noted("mark") or uuid.uuid4().hex[:8]
        mirror.note("mark", mark)
        mirror.keep_only([project.project_id for _, project in projects])
        # Before the answers: one that is sent in between is then both, and counts once.
        begun = list(drafts(tally.reject)) if drafts is not None else []
        early = EarlyImages(images, mirror, now or datetime.now(UTC))
        for origin, project in projects:
            source = Source(
                project=project,
                origin=origin,
                reading=_reading(project, labels),
                state=known.get(project.project_id),
            )
            catch_up(door, mirror, source, _Reader(project, labels, origin), mark=mark, meanwhile=early, now=now)
        mirror.put_drafts(labels.project_id, map(_Reader(labels, labels, "labels").begun, begun))
        fetch_images(images, mirror, now or datetime.now(UTC))
        inputs = _inputs(mirror, projects, leave_out)
        if (unchanged := _as_before(mirror, data_dir, inputs)) is not None:
            logger.info("snapshot %s: nothing has changed", unchanged.snapshot.snapshot_id)
            return unchanged
        tally.linked, tally.unsettled = mirror.link_by_image(), mirror.unsettled()
        for reason, where in mirror.problems():
            tally.reject(reason, where)
        with SnapshotWriter(folder / "snapshot", labels.control.classes) as writer:
            annotators = mirror.annotators()
            for sample_id, said in mirror.samples():
                _write(sample_id, leave_out.of(said, tally), annotators, writer, tally)
            report = tally.report()
            snapshot, _ = writer.finish(
                data_dir,
                rejected=report.rejected,
                projects=[
                    ProjectSource(role=origin, project_id=project.project_id, title=project.title)
                    for origin, project in projects
                ],
                states=states,
                cursors={str(project.project_id): _cursor(mirror, project) for _, project in projects},
            )
        before = read_latest(data_dir)
        is_new = before is None or before.snapshot_id != snapshot.snapshot_id
        write_latest(data_dir, Latest(snapshot_id=snapshot.snapshot_id))
        # Linking touched nothing that the inputs are made of.
        mirror.note("written", json.dumps([inputs, snapshot.snapshot_id, asdict(report)]))
    _tell(report, snapshot, is_new)
    return PullResult(snapshot=snapshot, is_new=is_new, report=report)


def _reading(project: Project, labels: Project) -> str:
    return reading_of(asdict(project.control), labels.project_id, labels.control.classes, LONGEST_SAMPLE_ID)


def _cursor(mirror: Mirror, project: Project) -> str:
    standing = mirror.standing(project.project_id)
    return standing.cursor if standing is not None else ""


def _inputs(mirror: Mirror, projects: Sequence[tuple[Origin, Project]], leave_out: "_LeaveOut") -> str:
    """Digest of everything that a snapshot is made from."""
    used = [(origin, project.project_id, project.title, project.control.classes) for origin, project in projects]
    return reading_of(mirror.generation, used, leave_out.digest, SCHEMA_VERSION, RULES)


def _as_before(mirror: Mirror, data_dir: Path, inputs: str) -> PullResult | None:
    """The last pull's snapshot, where it was made from the same and is there."""
    noted, latest = mirror.noted("written"), read_latest(data_dir)
    if noted is None or latest is None:
        return None
    try:
        made_from, snapshot_id, report = json.loads(noted)
        if (made_from, snapshot_id) != (inputs, latest.snapshot_id):
            return None
        snapshot = open_snapshot(snapshot_folder(data_dir, snapshot_id))
        return PullResult(snapshot=snapshot, is_new=False, report=_REPORT.validate_python(report))
    except (ValueError, ValidationError, DataError) as error:
        logger.warning("the last snapshot is written anew: %s", str(error).partition("\n")[0])
        return None


def projects_by_role(labels: Project, audit: Project | None, review: Project | None) -> list[tuple[Origin, Project]]:
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


class _Reader:
    """Makes of a task of one project what the mirror keeps of it."""

    def __init__(self, project: Project, labels: Project, origin: Origin) -> None:
        self._project, self._labels, self._origin = project, labels, origin

    def __call__(self, read: TaskRead) -> Row:
        where = f"task {read.task_id} of project {self._project.project_id}"
        problems, task = list(read.problems), read.task
        question: Question | None = Question()
        usable = task is not None and is_sample_id(task.sample_id)
        if task is not None and not usable:
            problems.append(("sample_id is too long or not text", where))
        if task is not None and usable and self._origin == "review":
            labels = self._labels
            question = read_question(task, labels_project_id=labels.project_id, classes=labels.control.classes)
            if question is None:
                problems.append(("review task was asked for another labels project", where))
        readable = task is not None and usable and question is not None
        url = task.data.get(self._project.control.image_field) if task is not None else None
        return Row(
            project_id=self._project.project_id,
            task_id=read.task_id,
            sample_id=task.sample_id if task is not None and usable else "",
            annotations=task.annotations if task is not None and readable else (),
            image_url=url if readable and isinstance(url, str) and url else None,
            question=question or Question(),
            updated_at=read.updated_at,
            answers=read.answers,
            entries=read.entries,
            problems=tuple(problems),
        )

    def begun(self, task: Task) -> Row:
        """Of a task with drafts for annotations."""
        return self(TaskRead(task_id=task.task_id, task=task, updated_at="", answers=0, entries=0))


def is_a_persons(annotation: Annotation, ignore: Collection[str]) -> bool:
    """Whether somebody said it: what a machine wrote counts once a person has marked it as ground truth or changed it.

    Label Studio keeps the author of an annotation that somebody else edits; a machine never edits its own.
    """
    return annotation.annotator not in ignore or _taken_over(
        annotation.ground_truth, annotation.created_at, annotation.updated_at
    )


def _taken_over(ground_truth: bool, created_at: datetime, updated_at: datetime) -> bool:
    return ground_truth or updated_at - created_at > _WRITTEN_IN_ONE_GO


class _LeaveOut:
    """Which annotations of the mirror a snapshot is made of."""

    def __init__(self, machines: frozenset[str], answers: AnswerFilter) -> None:
        self._machines, self._answers = machines, answers
        self._all_count = not machines and answers == AnswerFilter()
        self.digest = reading_of(sorted(machines), sorted(answers.annotators), answers.skipped, answers.drafts)

    def of(self, said: list[Said], tally: Tally) -> list[Said]:
        """What people said; what a machine wrote and a person made theirs is known as such."""
        if self._all_count:
            return said
        submitted = {(each.task_id, each.answer.annotator) for each in said if not each.answer.is_draft}
        return [self._known(each) for each in said if self._counts(each, submitted, tally)]

    def _known(self, said: Said) -> Said:
        if said.answer.annotator not in self._machines:
            return said
        return replace(said, answer=replace(said.answer, led=True))

    def _counts(self, said: Said, submitted: Collection[tuple[int, str]], tally: Tally) -> bool:
        answer = said.answer
        if answer.annotator in self._machines and not _taken_over(
            answer.ground_truth, said.created_at, answer.updated_at
        ):
            return False
        if answer.is_draft and (said.task_id, answer.annotator) in submitted:
            return False  # a draft of somebody who has submitted or skipped says nothing more
        reason = self._answers.reason_left_out(answer, answer.origin)
        if reason is not None:
            tally.reject(reason, f"task {said.task_id} of project {said.project_id}")
        return reason is None


def _write(sample_id: str, said: list[Said], annotators: Collection[str], writer: SnapshotWriter, tally: Tally) -> None:
    if not said:
        return
    for each in said:
        writer.add("labels", _label_row(sample_id, each))
        tally.heard(each)
    settled = settle(sample_id, said, annotators)
    tally.samples[settled.fate] += 1
    tally.notes.update(settled.notes)
    tally.ground_truth += any(each.answer.origin == "labels" and each.answer.ground_truth for each in said)
    if settled.fate == "rejected":
        tally.reject(settled.reason, f"sample {sample_id[:80]!r}: {settled.particulars}")
    elif settled.row is not None:
        writer.add(TABLE[settled.fate], settled.row)


def _label_row(sample_id: str, said: Said) -> tuple[Any, ...]:
    """In the order of `schema.LABELS`."""
    answer = said.answer
    return (
        sample_id,
        said.project_id,
        said.task_id,
        answer.annotation_id,
        answer.annotator,
        answer.kind,
        answer.label,
        answer.ground_truth,
        said.was_cancelled,
        said.lead_time_s,
        said.created_at,
        answer.updated_at,
        answer.origin,
        answer.asked_as,
        said.suggestion,
        said.asked_by_run,
    )


def _tell(report: PullReport, snapshot: Snapshot, is_new: bool) -> None:
    logger.info("snapshot %s (%s): %s", snapshot.snapshot_id, "new" if is_new else "as before", report.summary())
    for reason, count in report.rejected.items():
        logger.warning("left out, %d × %s; for example %s", count, reason, report.examples[reason][0])
    for note, count in report.notes.items():
        logger.warning("%s (%d)", note, count)
