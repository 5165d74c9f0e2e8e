"""`fasten train` and `fasten score`: the method alone, from Parquet files, on CPU or GPU."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import out
from pipeline.settings import load_settings

CleanFile = Annotated[Path, typer.Option(help="Audited samples: sample_id, image, label (and given_label, if known).")]
NoisyFile = Annotated[Path, typer.Option(help="Bulk-labelled samples: sample_id, image, label.")]


def train(
    clean: CleanFile,
    noisy: NoisyFile,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the model.")],
    preset: Annotated[str | None, typer.Option(help="small, resnet18 or resnet34.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    rho: Annotated[float | None, typer.Option(min=0, help="Confidence from which the model corrects a label.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, …")] = None,
) -> None:
    """Train FasTEN on two Parquet files and write the calibrated model to a folder."""
    from pipeline.standalone import train_files

    settings = load_settings(preset=preset, epochs=epochs, rho=rho, seed=seed, device=device)
    fitted = train_files(clean=clean, noisy=noisy, out=out_dir, settings=settings)
    if fitted.accuracy is not None:
        out.print(f"accuracy on {fitted.held_out} held-out audited samples: {fitted.accuracy:.1%}")
    out.print(f"model: {out_dir}")


def score(
    model: Annotated[Path, typer.Option(help="Folder that `fasten train` wrote.")],
    noisy: NoisyFile,
    out_file: Annotated[Path, typer.Option("--out", help="Parquet file for the scores.")],
    rho: Annotated[float | None, typer.Option(min=0, help="Another ρ than the model was trained with.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, …")] = None,
) -> None:
    """Score every label of a Parquet file: keep, relabel, or low confidence."""
    from pipeline.standalone import score_file

    decisions = score_file(model=model, noisy=noisy, out=out_file, rho=rho, device=device or "auto")
    for decision, count in decisions.items():
        out.print(f"{decision:15} {count}")
    out.print(f"scores: {out_file}")
