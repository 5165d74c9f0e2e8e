"""The embedded stack: Label Studio, Prefect, a worker and MLflow on loopback, in one folder."""

from pipeline.stack.install import ensure_label_studio
from pipeline.stack.lifecycle import StackState, down, up
from pipeline.stack.service_status import ServiceStatus, status
from pipeline.stack.state import StackConfig

__all__ = ["ServiceStatus", "StackConfig", "StackState", "down", "ensure_label_studio", "status", "up"]
