"""Where MLflow is and what our things are called there."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Server, experiment and registered model. A server's password is MLflow's own MLFLOW_TRACKING_PASSWORD."""

    uri: str
    """Tracking server (`http://127.0.0.1:5000`), or a database URL without a server (`sqlite:///mlflow.db`)."""
    experiment: str = "fasten"
    """Experiment that the runs are found under; made when missing."""
    model_name: str = "fasten"
    """Registered model that the versions belong to; made when missing."""

    @property
    def shown_uri(self) -> str:
        """The URI as people may see it: a database's may hold a password."""
        return re.sub(r"(?<=://)[^/\s@]+@", "", self.uri)

    def __post_init__(self) -> None:
        parts = urlsplit(self.uri)
        if parts.scheme not in ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks"):
            raise ConfigError(
                f"MLflow tracking URI has the scheme {parts.scheme!r}; set FASTEN_MLFLOW_TRACKING_URI to the server's "
                "http(s):// address"
            )
        if parts.scheme in ("http", "https") and not parts.hostname:
            raise ConfigError(
                "MLflow tracking URI names no host; set FASTEN_MLFLOW_TRACKING_URI to http(s)://HOST[:PORT]"
            )
        # Links, error messages and model metadata all carry the URI: a password in it would end up in each.
        if parts.scheme in ("http", "https") and "@" in parts.netloc:
            raise ConfigError(
                f"MLflow tracking URI for {parts.hostname} holds a user name or password; take it out and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
            )
        if not self.experiment.strip():
            raise ConfigError("the MLflow experiment has no name; set FASTEN_MLFLOW_EXPERIMENT")
        if not re.fullmatch(r"[^/:%'\"\x00-\x1f]{1,200}", self.model_name):
            raise ConfigError(
                f"the MLflow model name {self.model_name!r} is empty or holds one of / : % ' \"; "
                "set FASTEN_MLFLOW_MODEL_NAME"
            )
