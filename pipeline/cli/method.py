"""`fasten train` and `fasten score`: the method alone, from Parquet files, on CPU or GPU."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.console import say
from pipeline.settings import Settings, load_settings

Preset = Literal["small", "resnet18", "resnet34", "paper", "fast"]
_TARGET = Settings.model_fields["target_precision"].default
_CERTAINTY = Settings.model_fields["certainty"].default

CleanFile = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="Audited samples: sample_id, image, label (and given_label, provenance, votes, where known).",
    ),
]
NoisyFile = Annotated[
    Path, typer.Option(metavar="FILE", help="Bulk-labelled samples: sample_id, image, label (and votes, where known).")
]


def _check_rho(value: str | None) -> str | None:
    """The text as it came: settings read it once more."""
    try:
        fits = value in (None, "auto") or 0 <= float(value) < math.inf
    except ValueError:
        fits = False
    if not fits:
        raise typer.BadParameter(f"{value!r} is neither “auto” nor a number from 0")
    return value


Device = Annotated[str | None, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1, …")]


def train(
    clean: CleanFile,
    noisy: NoisyFile,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the model.")],
    preset: Annotated[
        Preset | None,
        typer.Option(metavar="NAME", help="small (8×8–32×32 images, on a CPU), resnet18, resnet34, paper or fast."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data; the preset's unless given.")] = None,
    target_precision: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help=f"Share of the changed labels that are to be right; else {_TARGET}."),
    ] = None,
    certainty: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help=f"Probability that this promise is kept; else {_CERTAINTY}."),
    ] = None,
    rho: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            callback=_check_rho,
            help="Fix the probability from which labels are changed (the paper's: 0.8); auto: choose it for that "
            "precision, on held-out audited samples.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=20,
            metavar="N",
            help="Train N models, each without another Nth of the audited samples, instead of one without a quarter.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, metavar="N", help="The same seed repeats a training, on a CPU.")
    ] = None,
    device: Device = None,
    trunk: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another trunk: ours, torchvision:NAME or timm:NAME.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the decoded images here, and read them from here.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep progress here; the same command goes on from it after an interruption."),
    ] = None,
) -> None:
    """Train FasTEN on two Parquet files; write the calibrated model.

    Images lie in the files (`image: struct<bytes, path>`). A quarter of the audited samples is held out, to calibrate
    the model and to tell its accuracy, or each of them once, where several models are trained. What is not given here
    comes from `FASTEN_…` or `fasten.toml`.
    """
    from pipeline.standalone import train_files

    settings = load_settings(
        preset=preset,
        epochs=epochs,
        rho=rho,
        target_precision=target_precision,
        certainty=certainty,
        folds=folds,
        seed=seed,
        device=device,
    )
    fitted = train_files(
        clean=clean, noisy=noisy, out=out_dir, settings=settings, trunk=trunk, cache=cache, checkpoint=checkpoint
    )
    if fitted.accuracy is not None:
        say(f"accuracy on {fitted.held_out} held-out audited samples: {fitted.accuracy:.1%}")
    say(f"the model {fitted.choice.sentence()}")
    say(f"model: {out_dir}")


def score(
    model: Annotated[Path, typer.Option(metavar="DIR", help="Folder that `fasten train` wrote.")],
    noisy: NoisyFile,
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Parquet file for the scores.")],
    rho: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            callback=_check_rho,
            help="Probability from which a label is changed; auto: the model's own. Else FASTEN_RHO, else auto.",
        ),
    ] = None,
    target_precision: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help=f"Be less sure of a label, and a person is asked about it; else {_TARGET}."),
    ] = None,
    device: Device = None,
) -> None:
    """Score each label of a Parquet file: keep, relabel or doubt.

    One row per sample: the suggested label (below ρ always the given one), how sure the model is, and how probably the
    given label is wrong. `fasten triage --scores FILE` lists the most doubtful.
    """
    from pipeline.standalone import score_file

    settings = load_settings(device=device, rho=rho, target_precision=target_precision)
    decisions = score_file(
        model=model,
        noisy=noisy,
        out=out_file,
        rho=settings.rho,
        target_precision=settings.target_precision,
        device=settings.device,
        mode=settings.mode,
    )
    for decision, count in decisions.items():
        say(f"{decision:15} {count:,}")
    say(f"scores: {out_file}")
