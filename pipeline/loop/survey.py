"""The first stages of a round: find the projects, see whether anything is new, pull it into a snapshot."""

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pipeline import trail
from pipeline.answer_filter import AnswerFilter
from pipeline.errors import ConfigError
from pipeline.export import machine_users
from pipeline.images import Images
from pipeline.label_config import ControlChoice
from pipeline.label_studio import LabelStudio, MissingProjectError
from pipeline.records import Project, ProjectState
from pipeline.review_screen import REVIEW_CONTROL
from pipeline.settings import Settings
from pipeline.snapshot.catch_up import reconciliation_is_due
from pipeline.snapshot.folder import Snapshot
from pipeline.snapshot.pull import projects_by_role, pull
from pipeline.snapshot_store import fetch_shared, share
from pipeline.workspace import Completed, Workspace, config_digest, fingerprint

logger = logging.getLogger(__name__)

LONGEST_TITLE = 50
"""Characters: Label Studio refuses longer titles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the survey found."""

    labels: Project
    audit: Project | None
    review: Project | None
    states: tuple[ProjectState, ...]
    """How the projects looked just before the pull."""
    fingerprint: str
    nothing_new: str
    """Why this round has nothing to do; empty where it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """The snapshot that the round works on."""

    labels: Project
    snapshot: Path
    snapshot_id: str
    fingerprint: str
    nothing_new: str


def find_projects(settings: Settings, door: LabelStudio) -> tuple[Project, Project | None, Project | None]:
    """(labels, audit, review) projects; the review project is None until a round has made it.

    Raises `ConfigError` where one is missing, or the workspace is that of another labels project of the same number.
    """
    if settings.labels_project is None:
        raise ConfigError(
            "no labels project is set: set FASTEN_LABELS_PROJECT to the id or title of the project with the bulk labels"
        )
    labels = _find(door, settings.labels_project, role="labels", control=settings.control)
    Workspace.of(settings, labels.project_id).check_project(labels)  # first: its queue is the other's, too
    audit = None
    if settings.audit_project is not None:
        audit = _find(door, settings.audit_project, role="audit", control=settings.control)
    return labels, audit, find_review_project(settings, door, labels)


def _find(door: LabelStudio, reference: str, *, role: str, control: ControlChoice) -> Project:
    try:
        return door.find_project(reference, control=control)
    except MissingProjectError as error:
        raise ConfigError(f"{error}; set FASTEN_{role.upper()}_PROJECT") from None


def review_title(settings: Settings, labels: Project) -> str:
    """Title of the reviewers' project: each labels project has its own, unless one is set.

    A long one is cut; the labels project's id tells it from others that begin alike.
    """
    if settings.review_project:
        return settings.review_project
    whole = f"{labels.title}, review"
    if len(whole) <= LONGEST_TITLE:
        return whole
    end = f"… {labels.project_id}, review"
    return labels.title[: LONGEST_TITLE - len(end)].rstrip() + end


def find_review_project(settings: Settings, door: LabelStudio, labels: Project) -> Project | None:
    """The reviewers' project, or None where it has yet to be made.

    Raises `ConfigError` where the one that earlier rounds filled is gone, or an id is set that does not exist.
    """
    workspace = Workspace.of(settings, labels.project_id)
    known = workspace.review_queue()
    if known is not None and known.setting == (settings.review_project or ""):
        try:
            return door.find_project(known.project_id, control=REVIEW_CONTROL)
        except MissingProjectError:
            raise ConfigError(
                f"review project {known.project_id} is gone, and people's decisions with it: restore it, or remove "
                f"{workspace.review_queue_file} to start an empty queue"
            ) from None
    title = review_title(settings, labels)
    try:
        found = door.find_project(title, control=REVIEW_CONTROL)
    except MissingProjectError:
        if title.isdecimal():
            raise
        found = None
    if known is not None and (found is None or found.project_id != known.project_id):
        logger.warning("reviews made in project %d are no longer pulled: another queue is set", known.project_id)
    return found


def survey(settings: Settings) -> Found:
    """Find the projects and see, in a handful of requests, whether anything has changed since the last round."""
    with LabelStudio(settings.label_studio) as door:
        door.list_projects()
        labels, audit, review = find_projects(settings, door)
        states = {"labels": door.project_state(labels, drafts=settings.drafts == "count")}
        if audit is not None:
            states["audit"] = door.project_state(audit)
        if review is not None:
            states["review"] = door.project_state(review, answers_only=True)
    now = fingerprint(states, labels.control)
    workspace = Workspace.of(settings, labels.project_id)
    last = workspace.completed()
    unchanged = last is not None and last.fingerprint == now and last.config == config_digest(settings)
    if unchanged and reconciliation_is_due(workspace.folder, datetime.now(UTC), there=door.server_time):
        unchanged = False
    return Found(
        labels=labels,
        audit=audit,
        review=review,
        states=tuple(states.values()),
        fingerprint=now,
        nothing_new=f"nothing new in “{labels.title}” since snapshot {last.snapshot_id}" if unchanged and last else "",
    )


def answer_filter(settings: Settings, door: LabelStudio) -> AnswerFilter:
    """Which annotations are left out; raises `ConfigError` where one of the people on the list is unknown."""
    return AnswerFilter(
        annotators=door.find_annotators(settings.leave_out_annotators), skipped=settings.skipped, drafts=settings.drafts
    )


def pull_labels(settings: Settings, found: Found) -> Pulled:
    """Pull labels, audits, reviews and new images into a snapshot."""
    workspace = Workspace.of(settings, found.labels.project_id)
    projects_by_role(found.labels, found.audit, found.review)  # refused before anything is written
    workspace.remember_project(found.labels, settings.label_studio.url)
    fetch_shared(settings, workspace)
    trail.keep_people(workspace, datetime.now(UTC))  # what a round saw that died right after its pull
    with (
        LabelStudio(settings.label_studio) as door,
        Images(
            settings.images,
            root=workspace.folder,
            base_url=settings.label_studio.url,
            authorization=door.authorization,
        ) as images,
    ):
        result = pull(
            door,
            images,
            labels=found.labels,
            audit=found.audit,
            review=found.review,
            data_dir=workspace.folder,
            states=found.states,
            ignore=machine_users(workspace),
            answers=answer_filter(settings, door),
            drafts=partial(door.iter_drafts, found.labels) if settings.drafts == "count" else None,
        )
    snapshot = result.snapshot
    share(settings, workspace, snapshot)
    trail.keep_people(workspace, datetime.now(UTC))
    last = workspace.completed()
    same = last is not None and last.snapshot_id == snapshot.snapshot_id and last.config == config_digest(settings)
    # Where a server failed over an image or a task, the next round has to look again, whatever the projects say.
    seen = "" if result.report.unsettled else found.fingerprint
    if same and last is not None:
        # The projects were touched, but no label changed: remember how they look now, so that the next survey knows.
        workspace.remember(replace(last, fingerprint=seen))
    return Pulled(
        labels=found.labels,
        snapshot=snapshot.path,
        snapshot_id=snapshot.snapshot_id,
        fingerprint=seen,
        nothing_new=_nothing_to_do(found.labels, snapshot, last, same=same),
    )


def _nothing_to_do(labels: Project, snapshot: Snapshot, last: Completed | None, *, same: bool) -> str:
    """Why there is nothing to learn or to ask; empty where there is."""
    if same:
        return f"every label of “{labels.title}” is as in snapshot {snapshot.snapshot_id}"
    rows = snapshot.manifest.rows
    if last is not None and rows["clean"] > 0 and rows["noisy"] == 0:  # before a first round it is an audit alone
        return f"people have decided every labelled sample of “{labels.title}” (snapshot {snapshot.snapshot_id})"
    return ""
