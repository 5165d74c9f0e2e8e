"""`TrainingRun`: what one training writes to MLflow while it runs."""

import json
import logging
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.tracking import MlflowClient
from numpy.typing import ArrayLike, NDArray
from pydantic import SecretStr

from pipeline.errors import DataError, ServiceError
from pipeline.tracking import registry
from pipeline.tracking.config import TrackingConfig
from pipeline.tracking.failures import translated, without_credentials
from pipeline.tracking.figures import heat_map
from pipeline.tracking.records import ModelVersion
from pipeline.tracking.references import DATASET

logger = logging.getLogger(__name__)

# Limits of one request and of one value, https://mlflow.org/docs/latest/api_reference/rest-api.html#request-limits
_METRICS_A_REQUEST = 1000
_PARAMS_A_REQUEST = 100
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
_FAILED_WITH = "fasten.failed_with"

_Item = TypeVar("_Item")


class TrainingRun:
    """An MLflow run under way. Use it as a context manager: it ends FINISHED, or FAILED when an exception passes.

    Only the exception's class is recorded, never its text: texts of other libraries may quote a token.
    Every method may be repeated with the same values, so a run that was interrupted can be taken up again.
    """

    def __init__(self, *, client: MlflowClient, config: TrackingConfig, run: Run, url: str, resumed: bool) -> None:
        self.run_id: str = run.info.run_id
        self.url = url
        """The run's page; a plain sentence where there is no server."""
        self.resumed = resumed
        """Whether an earlier, interrupted process began this run."""
        self._client = client
        self._config = config
        self._experiment_id: str = run.info.experiment_id
        self._logged_params: dict[str, str] = dict(run.data.params)
        self._failed_before = _FAILED_WITH in run.data.tags
        self._logged_points = self._points_of(run) if resumed else set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with translated("end the run", self._config.uri):
                if self._failed_before:
                    self._client.delete_tag(self.run_id, _FAILED_WITH)
                self._client.set_terminated(self.run_id, RunStatus.to_string(RunStatus.FINISHED))
            return
        status = RunStatus.FAILED if issubclass(kind, Exception) else RunStatus.KILLED
        try:
            self.set_tags({_FAILED_WITH: kind.__name__})
            with translated("end the run", self._config.uri):
                self._client.set_terminated(self.run_id, RunStatus.to_string(status))
        except ServiceError as second:  # the first error is the one to be told
            logger.warning("could not mark MLflow run %s as failed: %s", self.run_id, second)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags of the run."""
        with translated("set tags", self._config.uri):
            for chunk in _chunks([RunTag(k, v[:_TAG_LENGTH]) for k, v in tags.items()], _PARAMS_A_REQUEST):
                self._client.log_batch(self.run_id, tags=chunk)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log a flat configuration. Secrets (`SecretStr`) are left out.

        MLflow never changes a parameter: where a run that was taken up again is given another value, the first one
        stays, and the tag `fasten.changed_params` names what differs.
        """
        plain = {k: _param_value(v) for k, v in params.items() if not isinstance(v, SecretStr)}
        new = {k: v for k, v in plain.items() if k not in self._logged_params}
        changed = sorted(k for k, v in plain.items() if self._logged_params.get(k, v) != v)
        with translated("log parameters", self._config.uri):
            for chunk in _chunks([Param(_key(k), v) for k, v in new.items()], _PARAMS_A_REQUEST):
                self._client.log_batch(self.run_id, params=chunk)
        self._logged_params.update(new)
        if changed:
            logger.warning("MLflow run %s keeps its first values of: %s", self.run_id, ", ".join(changed))
            self.set_tags({"fasten.changed_params": ", ".join(changed)})

    def log_epoch(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one epoch's metrics in one request; a value that is not finite is left out."""
        now = int(time.time() * 1000)
        points = []
        for name, value in metrics.items():
            point = (_key(name), step, float(value))
            if not np.isfinite(point[2]):
                logger.debug("metric %s is %s at step %d: not logged", name, value, step)
            elif point not in self._logged_points:  # a run taken up again passes the same epochs once more
                self._logged_points.add(point)
                points.append(Metric(point[0], point[2], now, step))
        with translated("log metrics", self._config.uri):
            for chunk in _chunks(points, _METRICS_A_REQUEST):
                self._client.log_batch(self.run_id, metrics=chunk)

    def log_transition(self, matrix: ArrayLike, classes: Sequence[str], *, name: str = "transition") -> None:
        """Log T̂ as `{name}.json` and heat map `{name}.png`.

        Args:
            matrix: `[K,K]`, `T[i,j] = p(noisy=j | clean=i)`; rows sum to 1.
            classes: K class names.
            name: file name without its ending.
        """
        shares = _square(matrix, classes, f"transition matrix {name!r}")
        if (shares < 0).any() or np.abs(shares.sum(axis=1) - 1).max() > 1e-3:
            raise DataError(f"transition matrix {name!r} has rows that do not sum to 1; pass p(noisy=j | clean=i)")
        figure = heat_map(
            shares, classes, title=f"{_words(name).capitalize()} matrix: how each class is labelled",
            row_axis="true class", column_axis="given label",
        )  # fmt: skip
        document = {"rows": "true class", "columns": "given label", "classes": list(classes)}
        self._log_matrix(_file_name(name), document | {"matrix": np.round(shares, 6).tolist()}, figure)

    def log_confusion(self, matrix: ArrayLike, classes: Sequence[str], name: str) -> None:
        """Log counts of (true class, predicted class) as `confusion/{name}.json` and `.png`, coloured by row.

        Args:
            matrix: `[K,K]` counts, row = true class; a row without any sample is drawn grey.
            classes: K class names.
            name: what the samples are (`held_out_audited`): letters, digits, `_`, `-`.
        """
        counts = _square(matrix, classes, f"confusion matrix {name!r}")
        if (counts < 0).any():
            raise DataError(f"confusion matrix {name!r} has negative counts")
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
        texts = [[f"{value:.0f}" for value in row] for row in counts]
        figure = heat_map(
            shares, classes, title=f"Confusion, {_words(name)}: {counts.sum():.0f} samples",
            row_axis="true class", column_axis="predicted class", cell_texts=texts,
        )  # fmt: skip
        document = {"rows": "true class", "columns": "predicted class", "classes": list(classes)}
        self._log_matrix(f"confusion/{_file_name(name)}", document | {"matrix": counts.tolist()}, figure)

    def log_dataset(self, snapshot_path: str | Path, snapshot_id: str, counts: Mapping[str, int]) -> None:
        """Record the snapshot that this run was trained on as its dataset input.

        Args:
            snapshot_path: folder or `s3://` URL of the snapshot.
            snapshot_id: the snapshot's content id, logged as the dataset's digest.
            counts: rows of each of its files.
        """
        source = without_credentials(str(snapshot_path))
        dataset = Dataset(
            name=DATASET,
            digest=snapshot_id[:36],  # what MLflow's column holds
            source_type="s3" if source.startswith("s3://") else "local",
            source=json.dumps({"uri": source, "snapshot_id": snapshot_id}),
            profile=json.dumps(dict(counts)),
        )
        context = InputTag("mlflow.data.context", "training")
        with translated("log the dataset", self._config.uri):
            self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [context])])

    def log_report(self, markdown: str) -> None:
        """Log the run's report as `report.md` and as the description on the run's page."""
        log_report(self._client, self._config, self.run_id, markdown)

    def register(self, model_dir: Path, *, example_image: bytes) -> ModelVersion:
        """Log the model in `model_dir` with this run and register it, once per run however often it is called.

        Alias `challenger` moves to it unless a newer version has it; `champion` too where there is none.

        Args:
            model_dir: folder with `model.safetensors` and `model.json` (`fasten_model.model.save_model`).
            example_image: an encoded image (PNG, JPEG), stored with the model as its input example.

        Raises:
            DataError: the folder lacks a file, or the packaged model cannot label the example.
        """
        return registry.register(
            self._client,
            self._config,
            run_id=self.run_id,
            experiment_id=self._experiment_id,
            model_dir=model_dir,
            example_image=example_image,
        )

    def _log_matrix(self, stem: str, document: Mapping[str, Any], figure: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="fasten-") as folder:
            path = Path(folder) / Path(stem).name
            path.with_suffix(".json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
            path.with_suffix(".png").write_bytes(figure)
            parent = str(Path(stem).parent)
            with translated("log a matrix", self._config.uri):
                for ending in (".json", ".png"):
                    self._client.log_artifact(
                        self.run_id, str(path.with_suffix(ending)), None if parent == "." else parent
                    )

    def _points_of(self, run: Run) -> set[tuple[str, int, float]]:
        with translated("read the run's metrics", self._config.uri):
            return {
                (name, point.step, point.value)
                for name in run.data.metrics
                for point in self._client.get_metric_history(run.info.run_id, name)
            }


def log_report(client: MlflowClient, config: TrackingConfig, run_id: str, markdown: str) -> None:
    """`report.md` and the description on the run's page."""
    text = without_credentials(markdown)
    with translated("log the report", config.uri):
        client.log_text(run_id, text, "report.md")
        client.set_tag(run_id, "mlflow.note.content", text[:_TAG_LENGTH])


def _square(matrix: ArrayLike, classes: Sequence[str], what: str) -> NDArray[np.float64]:
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (len(classes), len(classes)) or not len(classes):
        raise DataError(f"{what} has shape {values.shape}, expected {len(classes)} × {len(classes)}, one row per class")
    if not np.isfinite(values).all():
        raise DataError(f"{what} holds values that are not finite")
    return values


def _key(name: str) -> str:
    """`name` with what MLflow does not take in a metric or parameter replaced."""
    return re.sub(r"[^\w.\- ]", "_", name)[:250]


def _file_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise DataError(f"artifact name {name!r} is not 1–100 letters, digits, '_' or '-'")
    return name


def _words(name: str) -> str:
    return name.replace("_", " ")


def _param_value(value: Any) -> str:
    text = without_credentials("none" if value is None else str(value))
    return text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"


def _chunks(items: Sequence[_Item], size: int) -> Iterator[list[_Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
