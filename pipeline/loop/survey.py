"""The first stages of a round: find the projects, see whether anything is new, pull it into a snapshot."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.images import Images
from pipeline.label_studio import LabelStudio, MissingProjectError
from pipeline.records import Project, ProjectState
from pipeline.review_screen import REVIEW_CONTROL
from pipeline.settings import Settings
from pipeline.snapshot.pull import pull
from pipeline.workspace import Workspace, config_digest, fingerprint


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
    """(labels, audit, review) projects; the review project is None until a round has made it."""
    if settings.labels_project is None:
        raise ConfigError(
            "no labels project is set: set FASTEN_LABELS_PROJECT to the id or title of the project with the bulk labels"
        )
    labels = door.find_project(settings.labels_project, control=settings.label_control)
    audit = None
    if settings.audit_project is not None:
        audit = door.find_project(settings.audit_project, control=settings.label_control)
    return labels, audit, find_review_project(settings, door)


def find_review_project(settings: Settings, door: LabelStudio) -> Project | None:
    """The reviewers' project, or None where it has yet to be made. An id that does not exist is an error."""
    try:
        return door.find_project(settings.review_project, control=REVIEW_CONTROL)
    except MissingProjectError:
        if settings.review_project.isdecimal():
            raise
        return None


def survey(settings: Settings) -> Found:
    """Find the projects and see, in a handful of requests, whether anything has changed since the last round."""
    with LabelStudio(settings.label_studio) as door:
        labels, audit, review = find_projects(settings, door)
        states = {"labels": door.project_state(labels)}
        if audit is not None:
            states["audit"] = door.project_state(audit)
        if review is not None:
            states["review"] = door.project_state(review, answers_only=True)
    now = fingerprint(states)
    last = Workspace.of(settings, labels.project_id).completed()
    unchanged = last is not None and last.fingerprint == now and last.config == config_digest(settings)
    return Found(
        labels=labels,
        audit=audit,
        review=review,
        states=tuple(states.values()),
        fingerprint=now,
        nothing_new=f"nothing new in “{labels.title}” since snapshot {last.snapshot_id}" if unchanged and last else "",
    )


def pull_labels(settings: Settings, found: Found) -> Pulled:
    """Pull labels, audits, reviews and new images into a snapshot."""
    workspace = Workspace.of(settings, found.labels.project_id)
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
        )
    snapshot = result.snapshot
    last = workspace.completed()
    same = last is not None and last.snapshot_id == snapshot.snapshot_id and last.config == config_digest(settings)
    if same and last is not None:
        # The projects were touched, but no label changed: remember how they look now, so that the next survey knows.
        workspace.remember(replace(last, fingerprint=found.fingerprint))
    return Pulled(
        labels=found.labels,
        snapshot=snapshot.path,
        snapshot_id=snapshot.snapshot_id,
        fingerprint=found.fingerprint,
        nothing_new=f"every label of “{found.labels.title}” is as in snapshot {snapshot.snapshot_id}" if same else "",
    )
