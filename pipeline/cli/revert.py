"""`fasten revert RUN`: undo what one run changed."""

import getpass
import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from pipeline.cli.console import say
from pipeline.cli.rounds import Labels, Review
from pipeline.settings import load_settings


def revert(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run key or its start, MLflow run id, or model version (fasten/3).")
    ],
    by: Annotated[str | None, typer.Option("--by", help="Who reverts, for the record; else your user name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be undone.")] = False,
    labels: Labels = None,
    review: Review = None,
) -> None:
    """Undo what one run changed.

    Its relabels, its unanswered questions, its model's place. What people have said stays, answers to the run's
    questions too. Its questions are served no longer; who has one open may still answer it, and a push removes it a day
    later. A run stays reverted; the next round trains anew where its labels or settings differ.
    """
    from pipeline.label_studio import LabelStudio
    from pipeline.loop import find_projects
    from pipeline.tracking import Tracking
    from pipeline.trail.undo import find_run, undo_run
    from pipeline.workspace import Workspace

    settings = load_settings(labels_project=labels, review_project=review)
    with LabelStudio(settings.label_studio) as door:
        project, _, queue = find_projects(settings, door)
        workspace = Workspace.of(settings, project.project_id)
        done = undo_run(
            workspace,
            find_run(workspace, run),
            door=door,
            review=queue,
            registry=Tracking(settings.tracking),
            by=by or _user_name(),
            at=datetime.now(UTC),
            dry_run=dry_run,
        )
    if done.before:
        say(f"run {done.run.run_key} was reverted before")
    if dry_run:
        say("a dry run: this is what would be undone")
    say(f"relabels that count no longer: {done.relabels:,}")
    say(f"unanswered questions served no longer: {done.withdrawn:,} (answered ones, which stay: {done.answered:,})")
    if not done.aliases and not done.before:
        say("no alias of the registered model points at it, or this project has no earlier version to go back to")
    for alias, version in done.aliases.items():
        say(f"{alias}: version {version} again")


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may be no more than a number
        return f"uid {os.getuid()}"
