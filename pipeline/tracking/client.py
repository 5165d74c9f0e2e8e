"""`Tracking`: the experiment, its runs by key, and the registered model.

Everything goes through `MlflowClient` with the URI given, never through MLflow's process-wide active run and
tracking URI, so that flows in one process cannot write into each other's runs.
"""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import mlflow
from mlflow.entities import Experiment, Run, RunStatus
from mlflow.entities.lifecycle_stage import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.errors import ConfigError, ServiceError
from pipeline.tracking import references, registry
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.failures import translated, without_credentials
from pipeline.tracking.records import FinishedRun, ModelVersion, ServerInfo, SnapshotUse
from pipeline.tracking.run import TrainingRun, log_report

logger = logging.getLogger(__name__)

RUN_KEY_TAG = "fasten.run_key"
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Opens MLflow's pages on training runs; without it they guess, and may show those for language models."""
_RUN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


class Tracking:
    """One experiment on one MLflow server. Raises `ServiceUnavailable` when it does not answer."""

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self._client = MlflowClient(tracking_uri=config.uri, registry_uri=config.uri)

    def check(self) -> ServerInfo:
        """Ask the server for its version and our experiment, with the credentials that runs will use."""
        with translated("look up the experiment", self.config.uri):
            experiment = self._client.get_experiment_by_name(self.config.experiment)
        if experiment is not None:
            self._refuse_deleted(experiment)
        return ServerInfo(
            version=self._server_version(), experiment_id=None if experiment is None else experiment.experiment_id
        )

    def find_finished(self, run_key: str) -> FinishedRun | None:
        """The latest run of this key that came to its end, with the model version it registered."""
        for run in self._runs(run_key):
            if run.info.status == RunStatus.to_string(RunStatus.FINISHED):
                with translated("look up the model version", self.config.uri):
                    model = registry.version_of_run(self._client, self.config.model_name, run.info.run_id)
                return FinishedRun(
                    run_id=run.info.run_id,
                    run_key=run_key,
                    url=self._url(run),
                    metrics=dict(run.data.metrics),
                    model=model,
                )
        return None

    def start(self, run_key: str, *, tags: Mapping[str, str], name: str | None = None) -> TrainingRun:
        """The run of this key, to be used as a context manager.

        A run of the same key that never came to its end is taken up again, so that a retry of the same work leaves
        one run behind, not two. Two processes must not work on one key at once (the deployment's limit is 1).

        Args:
            run_key: what makes this run's work the same work: 1–200 of letters, digits, `.`, `_`, `:`, `-`.
            tags: Prefect run id, Label Studio project and the like; never a secret.
            name: title of a new run; the start of the key where None.
        """
        all_tags = {key: without_credentials(str(value)) for key, value in tags.items()} | {RUN_KEY_TAG: run_key}
        unfinished = [run for run in self._runs(run_key) if run.info.status != RunStatus.to_string(RunStatus.FINISHED)]
        with translated("start a run", self.config.uri):
            if unfinished:
                run = unfinished[0]
                logger.info("taking up MLflow run %s (%s) again", run.info.run_id, run.info.status.lower())
                self._client.update_run(run.info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            else:
                run = self._client.create_run(
                    self._experiment_id(), tags={RUN_KEY_TAG: run_key}, run_name=name or run_key[:32]
                )
        training_run = TrainingRun(
            client=self._client, config=self.config, run=run, url=self._url(run), resumed=bool(unfinished)
        )
        training_run.set_tags(all_tags)
        logger.info("MLflow run %s", training_run.url)
        return training_run

    def log_report(self, run_id: str, markdown: str) -> None:
        """Log a report with a run that has ended, as `TrainingRun.log_report` does with one under way."""
        log_report(self._client, self.config, run_id, markdown)

    def find_model(self, reference: str) -> ModelVersion | None:
        """The version behind an alias (`champion`) or a number (`3`); None where there is none."""
        with translated("look up the model", self.config.uri):
            return registry.find_version(self._client, self.config.model_name, reference)

    def download_model(self, version: ModelVersion, folder: Path) -> Path:
        """Bring a version's weights and description into `folder`; returns the folder `load_model` takes."""
        with translated(f"download {version.uri}", self.config.uri):
            return registry.download(self._client, version, folder)

    def snapshot_uses(self) -> list[SnapshotUse]:
        """Every run of the server that refers to a snapshot, of whatever experiment; the latest first."""
        with translated("look up what refers to snapshots", self.config.uri):
            return references.snapshot_uses(self._client, self.config.model_name)

    def step_back(self, version: str, *, reverted: Collection[str], dry_run: bool = False) -> dict[str, str]:
        """Point the aliases that are at `version` to the newest earlier one not in `reverted`; → alias: version.

        With `dry_run` nothing is moved, and the answer is what would be.
        """
        with translated("move the model's aliases", self.config.uri):
            return registry.step_back(self._client, self.config.model_name, version, reverted=reverted, dry_run=dry_run)

    def _runs(self, run_key: str) -> list[Run]:
        """Runs of this key, the latest first."""
        if not _RUN_KEY.fullmatch(run_key):
            raise ConfigError(f"run key {run_key!r} is not 1–200 letters, digits, '.', '_', ':' or '-'")
        with translated("look up runs", self.config.uri):
            experiment = self._client.get_experiment_by_name(self.config.experiment)
            if experiment is None:
                return []
            self._refuse_deleted(experiment)
            return list(
                self._client.search_runs(
                    [experiment.experiment_id],
                    filter_string=f"tags.`{RUN_KEY_TAG}` = '{run_key}'",
                    order_by=["attributes.start_time DESC"],
                    max_results=100,
                )
            )

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self.config.experiment)
        if experiment is None:
            try:
                return str(self._client.create_experiment(self.config.experiment, tags=_EXPERIMENT_TAGS))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(self.config.experiment)  # another was quicker
                if experiment is None:
                    raise
        self._refuse_deleted(experiment)
        return str(experiment.experiment_id)

    def _refuse_deleted(self, experiment: Experiment) -> None:
        if experiment.lifecycle_stage == LifecycleStage.DELETED:
            raise ServiceError(
                f"MLflow experiment {experiment.name!r} (id {experiment.experiment_id}) was deleted; restore it with "
                f"`mlflow experiments restore -x {experiment.experiment_id}` or set FASTEN_MLFLOW_EXPERIMENT"
            )

    def _server_version(self) -> str:
        if not self.config.uri.startswith("http"):
            return str(mlflow.__version__)
        with translated("tell its version", self.config.uri):
            try:
                answer = httpx.get(f"{self.config.uri.rstrip('/')}/version", timeout=10.0)
            except httpx.HTTPError as error:
                raise OSError(str(error)) from error
        # Servers behind a gateway may hide this page; the look-up before has already proved that we may work there.
        return answer.text.strip() if answer.status_code == 200 and len(answer.text) < 40 else "unknown"

    def _url(self, run: Run) -> str:
        if urlsplit(self.config.uri).scheme not in ("http", "https"):
            return f"mlflow run {run.info.run_id}"
        base = self.config.uri.rstrip("/")
        return f"{base}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
