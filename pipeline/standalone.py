"""Training and scoring from Parquet files alone: no server, no flow."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from fasten_model.device import resolve_device
from fasten_model.fitting import Fitted, fit, summary
from fasten_model.images.parquet import read_samples
from fasten_model.labelled import from_samples, load_files
from fasten_model.model import JSON_FILE, load_model, save_model
from fasten_model.presets import find_preset
from pipeline import scoring
from pipeline.errors import DataError
from pipeline.settings import Settings
from pipeline.triage import count_decisions
from pipeline.workspace import write_whole

logger = logging.getLogger(__name__)


def train_files(*, clean: Path, noisy: Path, out: Path, settings: Settings) -> Fitted:
    """Train on the two files and leave the model and `fitted.json` in `out`.

    Raises `DataError` on files that cannot be trained on, or a folder that cannot be written to; then nothing is.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: give --out a folder")
    _check_writable(out)
    config = settings.training
    resolve_device(config.device)
    logger.info("reading %s and %s", clean, noisy)
    noisy_set, clean_set, classes = load_files(clean, noisy, size=find_preset(config.preset).image_size)
    for path, samples in ((clean, clean_set), (noisy, noisy_set)):
        if len(samples) == 0:
            raise DataError(f"{path} has no sample that can be trained on")
    if len(classes) < 2:
        raise DataError(f"{clean} and {noisy} know only one class (“{classes[0]}”): there is nothing to tell apart")
    logger.info(
        "training on %d noisy and %d audited samples, %d classes, device %s",
        len(noisy_set),
        len(clean_set),
        len(classes),
        resolve_device(config.device),
    )
    fitted = fit(
        noisy_set,
        clean_set,
        classes,
        config,
        holdout=settings.holdout,
        target_precision=settings.target_precision,
        rho=settings.rho,
    )
    write_whole(out / "fitted.json", json.dumps(summary(fitted)).encode())
    save_model(fitted.model, out)
    return fitted


def score_file(
    *, model: Path, noisy: Path, out: Path, rho: float | None, target_precision: float, device: str
) -> dict[str, int]:
    """Score the file's labels into `out`; how many were kept, relabeled, left to people.

    Raises `DataError` on a model or file that cannot be used, and where `out` is anything but an older scores file: it
    might hold labels that people made.
    """
    if out.is_dir():
        raise DataError(f"{out} is a folder: give --out the name of a file")
    if out.exists() and not scoring.is_scores_file(out):
        raise DataError(f"{out} exists and is no scores file: give --out another name")
    _check_writable(out.parent)
    loaded = load_model(model, device=device)
    samples = from_samples(read_samples(noisy, size=loaded.image_size, classes=loaded.classes), noisy)
    if len(samples) == 0:
        raise DataError(f"{noisy} has no sample that can be scored: the model knows {_some(loaded.classes)}")
    logger.info("scoring %d labels, device %s", len(samples), resolve_device(device))
    digest = hashlib.sha256((model / JSON_FILE).read_bytes()).hexdigest()[:12]
    scores = scoring.score(
        loaded,
        samples,
        rho=rho,
        target_precision=target_precision,
        model_version=f"{model.absolute().name}@{digest}",
    )
    scoring.write_scores(scores, out)
    return count_decisions(scoring.decisions_of(scores))


def _check_writable(folder: Path) -> None:
    """Better said now than after the training."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise DataError(f"nothing can be written to {folder}: {place} is no folder that you may write to")


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names[:10]) + (" …" if len(names) > 10 else "")
