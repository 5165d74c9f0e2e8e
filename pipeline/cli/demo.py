"""`fasten demo`."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.console import err, out, say
from pipeline.settings import load_settings, user_chosen_services

Dataset = Literal["digits", "fashion-mnist", "cifar10n", "parquet"]


def demo(
    dataset: Annotated[
        Dataset, typer.Option(metavar="NAME", help="digits (no file needed), fashion-mnist, cifar10n or parquet.")
    ] = "digits",
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with the files of fashion-mnist or cifar10n.")
    ] = None,
    clean: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Audited samples, for `--dataset parquet`.")
    ] = None,
    noisy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bulk-labelled samples, for `--dataset parquet`.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many tasks.")] = None,
    reviews: Annotated[int, typer.Option(min=1, help="Tasks that the simulated reviewers take a round.")] = 150,
) -> None:
    """Play the loop on real images: label, retrain, review, retrain.

    Everything enters and leaves through the real Label Studio, Prefect and MLflow, which are started if they do not
    run. They stay up until `fasten down`; another `fasten demo` plays one more round.
    """
    started = time.monotonic()
    from pipeline.demo.datasets import load_dataset
    from pipeline.demo.play import phase, play
    from pipeline.demo.scoreboard import scoreboard
    from pipeline.embedded import start

    with phase(f"reading {dataset}"):
        data = load_dataset(dataset, root=root, clean=clean, noisy=noisy, limit=limit)
    with phase("starting Label Studio, Prefect and MLflow"):
        start(load_settings(), external=user_chosen_services())
    settings = load_settings()
    played = play(settings, data, reviews=reviews)
    err.print()
    out.print(scoreboard(played.rows))
    for name, url in played.links.items():
        say(f"{name:13} {url}")
    if settings.label_studio_username and settings.label_studio_password:
        login = f"{settings.label_studio_username} / {settings.label_studio_password.get_secret_value()}"
        say(f"{'login':13} {login}  (Label Studio; Prefect and MLflow need none)")
    say(f"\nAll of it took {time.monotonic() - started:.0f} s. The servers stay up until `fasten down`.")
