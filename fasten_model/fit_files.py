"""Training from two Parquet files to a model folder: what `fasten train` and `python -m fasten_model.train` share."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from fasten_model.before_decoding import check_files, check_network, check_places, check_some
from fasten_model.device import resolve_device
from fasten_model.fitting import Fitted, check_promise, fit, summary
from fasten_model.holding_out import check_folds
from fasten_model.labelled import LabelledImages
from fasten_model.labelled_files import load_files
from fasten_model.model import save_model
from fasten_model.relabel import CERTAINTY, TARGET_PRECISION
from fasten_model.train import EpochMetrics, TrainConfig
from fasten_model.train.checkpoint import CheckpointConfig, remove_checkpoint
from fasten_model.train.process import this_process
from fasten_model.train.stopping import Stop
from fasten_model.whole_file import write_whole

_log = logging.getLogger(__name__)

FITTED_FILE = "fitted.json"

_Sets = tuple[LabelledImages, LabelledImages, tuple[str, ...]]
"""Noisy, clean, classes."""


def fit_files(
    *,
    clean: str | Path,
    noisy: str | Path,
    out: str | Path,
    config: TrainConfig,
    holdout: float | None = None,
    folds: int = 1,
    target_precision: float = TARGET_PRECISION,
    certainty: float = CERTAINTY,
    rho: float | None = None,
    cache: str | Path | None = None,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    checkpoint: CheckpointConfig | None = None,
    stop: Stop | None = None,
) -> Fitted:
    """Train on the two files (`fit`) and leave the model and `fitted.json` in `out`; then the checkpoint is removed.

    cache: as for `load_files`. Processes that train together all call this, and the first one writes.
    Raises `DataError` on files that cannot be trained on, or a folder that cannot be written to; then nothing is.
    """
    out = Path(out)
    process = this_process()
    resolve_device(config.device)

    def check() -> None:
        check_promise(target_precision=target_precision, certainty=certainty, rho=rho)
        check_folds(holdout=holdout, folds=folds)
        check_places(out, checkpoint)
        check_network(config)
        check_files(clean, noisy, size=config.settings().image_size)

    def read() -> _Sets:
        return _read(clean, noisy, config, cache)

    process.first(check)  # now, and not after images have been decoded for hours

    # The first process fills the cache, so that the others need not decode the same images at the same time.
    decoded = process.each(lambda: read() if process.is_first or cache is None else None)
    noisy_set, clean_set, classes = process.each(lambda: decoded or read())
    _log.info(
        "training on %d noisy and %d audited samples, %d classes, device %s%s",
        len(noisy_set),
        len(clean_set),
        len(classes),
        resolve_device(config.device),
        f", {process.world} processes" if process.world > 1 else "",
    )
    fitted = fit(
        noisy_set,
        clean_set,
        classes,
        config,
        holdout=holdout,
        folds=folds,
        target_precision=target_precision,
        certainty=certainty,
        rho=rho,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        stop=stop,
    )
    process.first(lambda: _save(fitted, out, checkpoint))
    return fitted


def _read(clean: str | Path, noisy: str | Path, config: TrainConfig, cache: str | Path | None) -> _Sets:
    _log.info("reading %s and %s", clean, noisy)
    noisy_set, clean_set, classes = load_files(clean, noisy, size=config.settings().image_size, cache=cache)
    for path, samples in ((clean, clean_set), (noisy, noisy_set)):
        check_some(path, len(samples))
    return noisy_set, clean_set, classes


def _save(fitted: Fitted, out: Path, checkpoint: CheckpointConfig | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / FITTED_FILE, json.dumps(summary(fitted)).encode())
    save_model(fitted.model, out)
    if checkpoint is not None:
        remove_checkpoint(checkpoint.folder)
