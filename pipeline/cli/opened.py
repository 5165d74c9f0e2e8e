"""What the commands about the trail open first: the labels project's workspace and its latest snapshot."""

from pipeline.errors import ConfigError, DataError
from pipeline.settings import Settings
from pipeline.snapshot import Snapshot, latest_snapshot
from pipeline.workspace import Workspace


def labels_project_id(settings: Settings) -> int:
    """The labels project's id; Label Studio is asked only where a title is set."""
    if settings.labels_project is None:
        raise ConfigError("no labels project is set: set FASTEN_LABELS_PROJECT, or give --labels-project")
    if settings.labels_project.isdecimal():
        return int(settings.labels_project)
    from pipeline.label_studio import LabelStudio

    with LabelStudio(settings.label_studio) as door:
        return door.find_project(settings.labels_project, control=settings.control).project_id


def open_latest(settings: Settings) -> tuple[Workspace, Snapshot]:
    """The workspace and its latest snapshot; raises `DataError` before the first pull."""
    workspace = Workspace.of(settings, labels_project_id(settings))
    snapshot = latest_snapshot(workspace.folder)
    if snapshot is None:
        raise DataError(f"nothing of project {settings.labels_project} has been pulled yet: run `fasten retrain`")
    return workspace, snapshot
