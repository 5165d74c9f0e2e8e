"""Versions and aliases of the registered model.

Functions here take the client and raise MLflow's own errors; `client.py` and `run.py` translate them.
"""

import logging
import tempfile
from collections.abc import Collection
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion as RegistryVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.failures import translated
from pipeline.tracking.package import ARTIFACTS, complete_package, package
from pipeline.tracking.records import ModelVersion

logger = logging.getLogger(__name__)

CHALLENGER = "challenger"
CHAMPION = "champion"
_PROJECT_TAGS = ("label_studio.url", "label_studio.project")
"""Tags of a run that tell which labels project it was trained for."""
_LOGGED_MODEL = "fasten"
_WAIT_S = 60


def register(
    client: MlflowClient,
    config: TrackingConfig,
    *,
    run_id: str,
    experiment_id: str,
    model_dir: Path,
    example_image: bytes,
) -> ModelVersion:
    """Package, upload, register, point the aliases; each step is skipped where an earlier attempt has done it."""
    with translated("look up the model version", config.uri):
        known = version_of_run(client, config.model_name, run_id)
    if known is None:
        with tempfile.TemporaryDirectory(prefix="fasten-model-") as scratch:
            packaged = package(model_dir, Path(scratch) / "model", example_image=example_image)
            with translated("register the model", config.uri):
                known = _upload(client, config, run_id=run_id, experiment_id=experiment_id, packaged=packaged)
        logger.info("registered %s from run %s", known.uri, run_id)
    with translated("set the model's aliases", config.uri):
        return _point_aliases(client, known)


def version_of_run(client: MlflowClient, name: str, run_id: str) -> ModelVersion | None:
    """The version that this run registered, its aliases included; None where there is none."""
    found = client.search_model_versions(f"name = '{name}' AND run_id = '{run_id}'", max_results=10)
    if not found:
        return None
    # Search results leave the aliases out.
    return _plain(client.get_model_version(name, min((v.version for v in found), key=int)))


def find_version(client: MlflowClient, name: str, reference: str) -> ModelVersion | None:
    """The version behind an alias or a number; None where there is none."""
    try:
        if reference.isdecimal():
            return _plain(client.get_model_version(name, reference))
        return _plain(client.get_model_version_by_alias(name, reference))
    except MlflowException as error:
        # An alias that is not set is INVALID_PARAMETER_VALUE, a model that is not there RESOURCE_DOES_NOT_EXIST.
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise


def download(client: MlflowClient, version: ModelVersion, folder: Path) -> Path:
    """Copy the version's weights and description into `folder` (made if missing), the description last."""
    source = client.get_model_version_download_uri(version.name, version.version)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fasten-download-", dir=folder) as scratch:
        for file in ARTIFACTS.values():
            download_artifacts(
                artifact_uri=f"{source}/artifacts/{file}", dst_path=scratch, tracking_uri=client.tracking_uri
            )
        for file in ARTIFACTS.values():
            next(Path(scratch).rglob(file)).replace(folder / file)
    return folder


def _upload(
    client: MlflowClient, config: TrackingConfig, *, run_id: str, experiment_id: str, packaged: Path
) -> ModelVersion:
    _drop_unregistered(client, run_id=run_id, experiment_id=experiment_id)
    params = client.get_run(run_id).data.params
    logged = client.create_logged_model(
        experiment_id, name=_LOGGED_MODEL, source_run_id=run_id, params=params, model_type="image classifier"
    )
    complete_package(packaged, run_id=run_id, model_id=logged.model_id, location=logged.artifact_location)
    client.log_model_artifacts(logged.model_id, str(packaged))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    try:
        client.create_registered_model(
            config.model_name, description="FasTEN: image bytes in, label and calibrated probabilities out."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        config.model_name,
        source=f"models:/{logged.model_id}",
        run_id=run_id,
        model_id=logged.model_id,
        await_creation_for=_WAIT_S,
    )
    return _plain(created)


def _drop_unregistered(client: MlflowClient, *, run_id: str, experiment_id: str) -> None:
    """Delete what an earlier attempt of this run had uploaded, whole or in part, when it died."""
    for left in client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'"):
        logger.info("deleting logged model %s, which was never registered", left.model_id)
        client.delete_logged_model(left.model_id)


def _point_aliases(client: MlflowClient, version: ModelVersion) -> ModelVersion:
    challenger = find_version(client, version.name, CHALLENGER)
    # A run that is taken up late must not push back the challenger that came after it.
    if challenger is None or int(challenger.version) < int(version.version):
        client.set_registered_model_alias(version.name, CHALLENGER, version.version)
    if find_version(client, version.name, CHAMPION) is None:
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
    return _plain(client.get_model_version(version.name, version.version))


def step_back(
    client: MlflowClient, name: str, version: str, *, reverted: Collection[str], dry_run: bool
) -> dict[str, str]:
    """Point the aliases that are at `version` to the newest earlier version that nobody has reverted.

    → alias: the version it points at now. An alias stays, and is not in the answer, where there is no such version:
    what serves the champion must find one. Several labels projects may share a registered model; the version of another
    one, which has other classes, is none to go back to.
    """
    pointing = [alias for alias in (CHAMPION, CHALLENGER) if _points_at(client, name, alias, version)]
    if not pointing:
        return {}
    run_of = {int(found.version): found.run_id for found in client.search_model_versions(f"name = '{name}'")}
    earlier = sorted((one for one in run_of if one < int(version) and str(one) not in reverted), reverse=True)
    ours = _labels_project(client, run_of.get(int(version)))
    target = next((number for number in earlier if _labels_project(client, run_of[number]) == ours), None)
    if target is None:
        return {}
    moved = dict.fromkeys(pointing, str(target))
    if not dry_run:
        for alias in moved:
            client.set_registered_model_alias(name, alias, str(target))
            logger.info("%s is version %d again, no longer %s", alias, target, version)
    return moved


def _labels_project(client: MlflowClient, run_id: str | None) -> tuple[str | None, ...]:
    """Which labels project the model of this run was trained for; nothing of one that was not trained here."""
    try:
        tags = client.get_run(run_id).data.tags if run_id else {}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # the run was deleted for good
            raise
        tags = {}
    return tuple(tags.get(name) for name in _PROJECT_TAGS)


def _points_at(client: MlflowClient, name: str, alias: str, version: str) -> bool:
    found = find_version(client, name, alias)
    return found is not None and found.version == version


def _plain(version: RegistryVersion) -> ModelVersion:
    return ModelVersion(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id or "",
        aliases=tuple(sorted(version.aliases or ())),
    )
