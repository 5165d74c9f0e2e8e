"""`fasten doctor`."""

import typer
from rich.table import Table
from rich.text import Text

from pipeline.cli.console import out, printable
from pipeline.settings import load_settings

_MARKS = {"ok": ("ok", "green"), "warning": ("note", "yellow"), "problem": ("PROBLEM", "red")}


def doctor() -> None:
    """Check servers, projects and this machine; say what to mend.

    Label Studio (reachable, token, projects, label control, classes), Prefect (deployment, worker), MLflow, device and
    disk. Exit code 1 where there is a problem; a note is none.
    """
    from pipeline.doctor import examine

    problems = 0
    for finding in examine(load_settings()):
        mark, colour = _MARKS[finding.level]
        line = Table.grid(padding=(0, 1))  # one for each, so that it shows as soon as it is known
        line.add_column(width=7)
        line.add_column(width=14)
        line.add_column(overflow="fold")
        line.add_row(Text(mark, style=colour), finding.what, Text(printable(finding.detail)))
        out.print(line)
        problems += finding.level == "problem"
    if problems:
        raise typer.Exit(1)
