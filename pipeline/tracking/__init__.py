"""The one door to MLflow: runs, metrics, figures, the model registry.

Importing this package is cheap: `Tracking` (and with it `mlflow`, seconds) loads on first use.
"""

import os
from typing import TYPE_CHECKING, Any

from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.records import FinishedRun, ModelVersion, ServerInfo, SnapshotUse

if TYPE_CHECKING:
    from pipeline.tracking.client import Tracking
    from pipeline.tracking.run import TrainingRun

__all__ = ["FinishedRun", "ModelVersion", "ServerInfo", "SnapshotUse", "Tracking", "TrackingConfig", "TrainingRun"]

# mlflow reads these once, when it is imported; what a person has set stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # The default of 7 retries with a growing pause blocks four minutes on a dead server.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    # The model's requirements are given; looking for a uv project would log ours instead.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    if name == "Tracking":
        from pipeline.tracking.client import Tracking

        return Tracking
    if name == "TrainingRun":
        from pipeline.tracking.run import TrainingRun

        return TrainingRun
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
