"""Which snapshots the runs of MLflow refer to.

Functions here take the client and raise MLflow's own errors; `client.py` translates them.
"""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.tracking.records import SnapshotUse

DATASET = "fasten-snapshot"
"""Name of the dataset input that a snapshot is logged as."""
SNAPSHOT_TAG = "fasten.snapshot_id"
_PAGE = 200
_UNDER_WAY = ("RUNNING", "SCHEDULED")


def snapshot_uses(client: MlflowClient, model_name: str) -> list[SnapshotUse]:
    """Every run of any experiment that has a snapshot as its input or its tag, the latest first.

    A run that somebody has deleted refers to nothing, unless a version of the model comes from it.
    """
    experiments = [one.experiment_id for one in _pages(client.search_experiments, view_type=ViewType.ACTIVE_ONLY)]
    aliases = _aliases(client, model_name)
    found: dict[str, Run] = {}
    for condition in (f"dataset.name = '{DATASET}'", f"tags.`{SNAPSHOT_TAG}` LIKE '%'"):
        if experiments:
            for run in _pages(client.search_runs, experiment_ids=experiments, filter_string=condition):
                found[run.info.run_id] = run
    versions: dict[str, list[str]] = {}  # people may register the model of a run once more
    for version in _versions(client, model_name):
        if version.run_id:
            versions.setdefault(version.run_id, []).append(str(version.version))
    for run_id in versions.keys() - found.keys():
        if (run := _run(client, run_id)) is not None:
            found[run_id] = run
    return [
        SnapshotUse(
            snapshot_id=snapshot_id,
            run_id=run.info.run_id,
            run_name=run.info.run_name or "",
            under_way=run.info.status in _UNDER_WAY,
            aliases=tuple(chain.from_iterable(aliases.get(each, ()) for each in versions.get(run.info.run_id, ()))),
        )
        for run in sorted(found.values(), key=lambda run: run.info.start_time, reverse=True)
        for snapshot_id in sorted(_snapshots_of(run))
    ]


def _snapshots_of(run: Run) -> set[str]:
    ids = {run.data.tags[SNAPSHOT_TAG]} if SNAPSHOT_TAG in run.data.tags else set()
    for given in run.inputs.dataset_inputs if run.inputs else ():
        if given.dataset.name == DATASET:
            ids.add(_logged_id(given.dataset.source) or given.dataset.digest)
    return ids


def _logged_id(source: str) -> str | None:
    """The whole id; a digest is cut at 36 characters."""
    try:
        return str(json.loads(source)["snapshot_id"])
    except (ValueError, TypeError, KeyError):
        return None


def _versions(client: MlflowClient, model_name: str) -> Iterator[Any]:
    return _pages(client.search_model_versions, filter_string=f"name = '{model_name}'")


def _aliases(client: MlflowClient, model_name: str) -> dict[str, tuple[str, ...]]:
    """Version → its aliases."""
    try:
        given = client.get_registered_model(model_name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    of: dict[str, tuple[str, ...]] = {}
    for alias, version in sorted(given.items()):
        of[str(version)] = (*of.get(str(version), ()), alias)
    return of


def _run(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id)  # deleted ones too
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _pages(search: Any, **how: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(**how, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
