"""Training and scoring from Parquet files alone: no server, no flow."""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from fasten_model.device import resolve_device
from fasten_model.fit_files import fit_files
from fasten_model.fitting import Fitted
from fasten_model.labelled_files import load_to_score
from fasten_model.model import JSON_FILE, load_model
from fasten_model.train.checkpoint import CheckpointConfig
from fasten_model.whole_file import check_writable
from pipeline import scoring
from pipeline.errors import DataError
from pipeline.records import Mode
from pipeline.saved_first import saved_first
from pipeline.settings import Settings
from pipeline.triage import count_decisions

logger = logging.getLogger(__name__)


def train_files(
    *,
    clean: Path,
    noisy: Path,
    out: Path,
    settings: Settings,
    trunk: str | None = None,
    cache: Path | None = None,
    checkpoint: Path | None = None,
) -> Fitted:
    """Train on the two files and leave the model and `fitted.json` in `out`.

    trunk: another one with the preset's settings. cache: a folder where decoded images are kept, and read from.
    checkpoint: a folder where progress is kept until the model is written, and saved once more on SIGTERM and Ctrl-C;
    the same training goes on from it.
    Raises `DataError` on files that cannot be trained on, or a folder that cannot be written to; then nothing is.
    """
    with saved_first() if checkpoint else nullcontext() as stop:
        return fit_files(
            clean=clean,
            noisy=noisy,
            out=out,
            config=replace(settings.training, trunk=trunk),
            holdout=settings.holdout,
            folds=settings.audit_folds,
            target_precision=settings.target_precision,
            certainty=settings.certainty,
            rho=settings.rho,
            cache=cache,
            checkpoint=CheckpointConfig(folder=checkpoint) if checkpoint else None,
            stop=stop,
        )


def score_file(
    *,
    model: Path,
    noisy: Path,
    out: Path,
    rho: float | None,
    target_precision: float,
    device: str,
    mode: Mode = "suggest",
) -> dict[str, int]:
    """Score the file's labels into `out`; how many were kept, relabeled, left to people.

    Raises `DataError` on a model or file that cannot be used, and where `out` is anything but an older scores file: it
    might hold labels that people made.
    """
    if out.is_dir():
        raise DataError(f"{out} is a folder: give --out the name of a file")
    if out.exists() and not scoring.is_scores_file(out):
        raise DataError(f"{out} exists and is no scores file: give --out another name")
    check_writable(out.parent)
    loaded = load_model(model, device=device)
    samples = load_to_score(noisy, size=loaded.image_size, classes=loaded.classes, annotators=loaded.annotators)
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
        mode=mode,
    ).table
    scoring.write_scores(scores, out)
    return count_decisions(scoring.decisions_of(scores))


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names[:10]) + (" …" if len(names) > 10 else "")
