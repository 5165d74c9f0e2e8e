"""`fasten people`: who confuses what."""

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.console import out, printable, say
from pipeline.settings import load_settings


def people(
    labels: Annotated[
        str | None, typer.Option("--labels-project", help="Id or title; else FASTEN_LABELS_PROJECT.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that is known, as JSON.")] = False,
) -> None:
    """Show who confuses what: annotators and reviewers.

    As of the last round. Annotators: how many of their labels are wrong, and the classes that they take for others.
    Reviewers: how many answers, how fast, how often right on randomly audited samples, how often of one mind.
    """
    from pipeline import loop
    from pipeline.people import page, people_of_run, summary

    known = people_of_run(loop.last_run(load_settings(labels_project=labels)))
    if as_json:
        say(json.dumps(summary(known), ensure_ascii=False, indent=2))
        return
    if not known.annotators and not known.reviewers:
        say("nobody has voted or reviewed yet")
    if known.annotators:
        _show(page.ANNOTATOR_COLUMNS, [page.annotator_cells(each, printable) for each in known.annotators])
    if known.left_out:
        say(f"{known.left_out} more have fewer votes")
    if known.annotators and known.reviewers:
        say("")
    if known.reviewers:
        _show(page.REVIEWER_COLUMNS, [page.reviewer_cells(each, printable) for each in known.reviewers])


def _show(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)
