"""`fasten snapshots | diff | gc`: which snapshots there are, how two of them differ, and which may go."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.console import err, out, printable, say
from pipeline.cli.rounds import Labels
from pipeline.errors import FastenError
from pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from pipeline.lineage import Catalogue
    from pipeline.tracking import SnapshotUse
    from pipeline.workspace import Workspace

_FIGURES = ("NOISY", "CLEAN", "UNDECIDED", "LEFT OUT")
AsJson = Annotated[bool, typer.Option("--json", help="Print everything that is known, as JSON.")]


def snapshots(as_json: AsJson = False, labels: Labels = None) -> None:
    """List the snapshots: what is in each, and what refers to it.

    The newest first, of this machine and of the store that is set. Where MLflow does not answer its runs are not told.
    """
    from pipeline.lineage import page, usage_of

    settings, workspace, catalogue = _catalogue(labels)
    uses: list[SnapshotUse] = []
    asked = True
    try:
        uses = _mlflow(settings)
    except FastenError as error:
        asked = False
        _warn(f"runs of MLflow are not told: {error}")
    usage = usage_of(catalogue, workspace, uses)
    for where in catalogue.damaged:
        _warn(f"{where} is damaged: pull again, or remove it")
    if as_json:
        rows = [page.snapshot_values(entry, usage[one], asked=asked) for one, entry in catalogue.entries.items()]
        say(json.dumps(rows, ensure_ascii=False, indent=2))
    elif catalogue.entries:
        _show(page.SNAPSHOT_COLUMNS, (page.snapshot_cells(each, usage[one]) for one, each in catalogue.entries.items()))
    else:
        say("nothing has been pulled yet: run `fasten retrain`")


def diff(
    before: Annotated[
        str | None, typer.Argument(metavar="A", help="Snapshot id or its start, latest, latest~1; else B's parent.")
    ] = None,
    after: Annotated[str | None, typer.Argument(metavar="B", help="The same; else the latest.")] = None,
    top: Annotated[
        int | None, typer.Option(min=0, help="How many samples to tell one by one; else 20, and with --json all.")
    ] = None,
    as_json: AsJson = False,
    labels: Labels = None,
) -> None:
    """Show which labels differ between two snapshots, and by whom.

    What a person decided is told with who and when; else everybody whose answer on the sample was added, changed or
    withdrawn. Label Studio keeps the author of an annotation that somebody else edits.
    """
    from pipeline.lineage import compare, page

    _, _, catalogue = _catalogue(labels)
    new = catalogue.find(after or "latest")
    old = catalogue.find(before) if before is not None else catalogue.parent_of(new)
    limit = top if top is not None else None if as_json else 20
    difference = compare(catalogue.open(old), catalogue.open(new), top=limit)
    difference.changes = difference.changes[:limit]
    if as_json:
        say(json.dumps(page.difference_values(old, new, difference), ensure_ascii=False, indent=2))
        return
    for line in page.difference_lines(old, new, difference):
        say(_one_line(line))
    if difference.changes:
        say("")
        _show(page.CHANGE_COLUMNS, map(page.change_cells, difference.changes))
    if more := difference.changed - len(difference.changes):
        say(f"… and {more:,} more: --top {difference.changed}")


def gc(
    keep: Annotated[int, typer.Option(min=0, metavar="N", help="The newest N snapshots stay.")] = 10,
    days: Annotated[float, typer.Option(min=0, max=36_500, help="What is younger stays.")] = 7,
    referenced: Annotated[
        bool, typer.Option("--referenced", help="Also what MLflow runs refer to; never the latest or a champion's.")
    ] = False,
    images: Annotated[
        bool, typer.Option("--images", help="Also image files of which no snapshot that stays has an image.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why the rest stays.")] = False,
    labels: Labels = None,
) -> None:
    """Remove snapshots that nothing refers to, here and in the store.

    The latest stays, what a run of MLflow refers to or an unfinished one of this machine, the newest, the young. It
    does nothing where MLflow does not answer.
    """
    from pipeline.lineage import collect, page, plan_removal, remove_parts, unused_parts, usage_of
    from pipeline.snapshot.writer import pull_lock

    settings, workspace = _workspace(labels)
    now, younger_than = datetime.now(UTC), timedelta(days=days)
    with pull_lock(workspace.folder):
        _, _, catalogue = _catalogue(labels)
        usage = usage_of(catalogue, workspace, _mlflow(settings))
        plan = plan_removal(catalogue, usage, keep=keep, younger_than=younger_than, now=now, referenced=referenced)
        gone = {removal.entry.snapshot_id for removal in plan.removals}
        parts = unused_parts(catalogue, gone, younger_than=younger_than, now=now) if images else ()
        for line in page.plan_lines(catalogue, plan, dry_run=dry_run):
            say(_one_line(line))
        if images:
            size = sum(part.size * (part.local + part.stored) for part in parts)
            say(f"{'would remove' if dry_run else 'removing'} {len(parts):,} image files, {size / 1e6:,.1f} MB")
        if not dry_run:
            collect(catalogue, plan)
            remove_parts(catalogue, parts)


def _workspace(labels: str | None) -> "tuple[Settings, Workspace]":
    from pipeline.cli.opened import labels_project_id
    from pipeline.workspace import Workspace

    settings = load_settings(labels_project=labels)
    return settings, Workspace.of(settings, labels_project_id(settings))


def _catalogue(labels: str | None) -> "tuple[Settings, Workspace, Catalogue]":
    from pipeline.lineage import catalogue_of
    from pipeline.snapshot_store.share import store_of

    settings, workspace = _workspace(labels)
    return settings, workspace, catalogue_of(workspace.folder, store_of(settings, workspace))


def _mlflow(settings: Settings) -> "list[SnapshotUse]":
    from pipeline.tracking import Tracking

    return Tracking(settings.tracking).snapshot_uses()


def _warn(line: str) -> None:
    err.print(_one_line(line), markup=False)


def _show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in _FIGURES else "left")
    for row in rows:
        table.add_row(*(escape(_one_line(cell)) for cell in row))
    out.print(table)


def _one_line(text: str) -> str:
    """Text from outside: a class name with a line end in it is no row of its own."""
    return printable(text).replace("\n", " ")
