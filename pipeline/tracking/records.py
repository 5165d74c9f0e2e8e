"""Plain values that the MLflow door hands out."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """What `Tracking.check` found."""

    version: str
    """The server's MLflow version; the client's own where there is no server (`sqlite:///…`)."""
    experiment_id: str | None
    """Id of the configured experiment; None when no run has made it yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """One version of the registered model."""

    name: str
    version: str
    run_id: str
    """Run that trained it."""
    aliases: tuple[str, ...]
    """Sorted; `challenger`, `champion`, or what people have given it."""

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes: `models:/fasten/3`."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """A run that came to its end: the same work need not be done again."""

    run_id: str
    run_key: str
    url: str
    metrics: Mapping[str, float]
    """Last value of each metric."""
    model: ModelVersion | None
    """Version that this run registered, where it did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotUse:
    """A run that a snapshot must stay for."""

    snapshot_id: str
    run_id: str
    run_name: str
    under_way: bool
    """Whether the run has not come to its end yet."""
    aliases: tuple[str, ...]
    """Of the model version that the run registered: `challenger`, `champion`, or what people have given it."""
