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
        Mode | None, typer.Option(help="suggest: people's changes only; auto: the model's too; else FASTEN_MODE.")
    ] = None,
    to_project: Annotated[
        str | None,
        typer.Option(
            "--to-project", metavar="TITLE", help="Also as a Label Studio project of its own, made if missing."
        ),
    ] = None,
    as_user: Annotated[
        str | None,
        typer.Option("--as-user", metavar="EMAIL", help="Also what the model changed, as this user's annotations."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    labels: Labels = None,
) -> None:
    """Write the corrected labels, as they are now.

    People's decisions first, then the model's where it may, else the label as it was given.
    `datasets.load_dataset("DIR")` opens the folder, with images and class names. A user that is named for the model's
    annotations must be one that nobody works as: what it says is not pulled.
    """
    from pipeline.cli.opened import open_latest
    from pipeline.corrected import corrected_rows, deciding_run
    from pipeline.export import write_as_user, write_dataset, write_project

    if out_dir is None and to_project is None and as_user is None:
        raise ConfigError("nothing to do: give --out DIR, --to-project TITLE or --as-user EMAIL")
    settings = load_settings(labels_project=labels, mode=mode)
    if as_user is not None and settings.mode != "auto":
        raise ConfigError(
            "--as-user writes what the model changed, and in mode suggest it changes nothing: --mode auto"
        )
    workspace, snapshot = open_latest(settings)
    if out_dir is not None and dry_run:
        count = sum(1 for _ in corrected_rows(workspace, snapshot, mode=settings.mode))
        say(f"{count:,} labels would be written to {out_dir}")
    elif out_dir is not None:
        exported, new = write_dataset(out_dir, workspace, snapshot, mode=settings.mode)
        say(f"{exported.rows:,} labels in {out_dir}{'' if new else ', as they were'}")
        for source, count in exported.by_source.items():
            say(f"  {source:8} {count:,}")
    if deciding_run(workspace, snapshot) is None:
        say("no round counts (none is completed, or all are reverted): what people have not decided is as it was given")
    if to_project is None and as_user is None:
        return
    from pipeline.label_studio import LabelStudio
    from pipeline.label_studio.machine_user import MachineUser
    from pipeline.loop import find_projects

    verb = "would be added" if dry_run else "added"
    with LabelStudio(settings.label_studio) as door:
        project, _, _ = find_projects(settings, door)
        if to_project is not None:
            done = write_project(door, to_project, project, workspace, snapshot, mode=settings.mode, dry_run=dry_run)
            say(f"{done.added:,} labels {verb} to “{to_project}”, {done.there:,} were there")
            if done.different:
                say(f"{done.different:,} differ there and stay: give another title to have all of today's")
        if as_user is not None:
            with MachineUser(settings.label_studio, as_user) as machine:
                done = write_as_user(door, machine, project, workspace, snapshot, dry_run=dry_run)
            say(f"{done.added:,} annotations {verb} as {as_user}, {done.there:,} were there, {done.removed:,} removed")
