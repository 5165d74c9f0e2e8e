"""`fasten export`: the corrected labels, as a data set and back into Label Studio."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import say
from pipeline.cli.rounds import Labels
from pipeline.errors import ConfigError
from pipeline.records import Mode
from pipeline.settings import load_settings


def export(
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for Parquet shards, new or an earlier export.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="suggest: people's changes only; auto: relabels too; else FASTEN_MODE.")
    ] = None,
    labels: Labels = None,
) -> None:
    """Write the corrected labels of now: people's decisions first, then the model's where it may, else as given.

    `datasets.load_dataset("DIR")` opens the folder, with images and class names.
    """
    from pipeline.cli.opened import open_latest
    from pipeline.export import write_dataset

    if out_dir is None:
        raise ConfigError("nothing to do: give --out DIR")
    settings = load_settings(labels_project=labels, mode=mode)
    workspace, snapshot = open_latest(settings)
    exported, new = write_dataset(out_dir, workspace, snapshot, mode=settings.mode)
    say(f"{exported.rows:,} labels in {out_dir}{'' if new else ', as they were'}")
    for source, count in exported.by_source.items():
        say(f"  {source:8} {count:,}")
