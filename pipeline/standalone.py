"""Training and scoring from Parquet files alone: no server, no flow."""

import hashlib
import json
import logging
from pathlib import Path

from fasten_model.checkpoint import JSON_FILE, load_model, save_model
from fasten_model.data import read_samples
from fasten_model.presets import find_preset
from pipeline import scoring
from pipeline.errors import DataError
from pipeline.settings import Settings
from pipeline.training import Fitted, fit, summary
from pipeline.training_data import from_samples, load_files
from pipeline.triage import count_decisions
from pipeline.workspace import write_whole

logger = logging.getLogger(__name__)


def train_files(*, clean: Path, noisy: Path, out: Path, settings: Settings) -> Fitted:
    """Train on the two files and leave the model and `fitted.json` in `out`. Raises `DataError` on bad files."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: give --out a folder")
    size = find_preset(settings.preset).image_size
    noisy_set, clean_set, classes = load_files(clean, noisy, size=size)
    logger.info("training on %d noisy and %d audited samples, %d classes", len(noisy_set), len(clean_set), len(classes))
    fitted = fit(noisy_set, clean_set, classes, settings.training, holdout=settings.holdout)
    save_model(fitted.model, out)
    write_whole(out / "fitted.json", json.dumps(summary(fitted)).encode())
    return fitted


def score_file(*, model: Path, noisy: Path, out: Path, rho: float | None, device: str) -> dict[str, int]:
    """Score the file's labels into `out`; how many were kept, relabeled, left to people."""
    loaded = load_model(model, device=device)
    samples = from_samples(read_samples(noisy, size=loaded.image_size, classes=loaded.classes), noisy)
    if len(samples) == 0:
        raise DataError(f"{noisy} has no sample that can be scored")
    digest = hashlib.sha256((model / JSON_FILE).read_bytes()).hexdigest()[:12]
    scores = scoring.score(
        loaded, samples, rho=loaded.rho if rho is None else rho, model_version=f"{model.name}@{digest}"
    )
    scoring.write_scores(scores, out)
    return count_decisions(scoring.decisions_of(scores))
