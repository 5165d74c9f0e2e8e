"""`fasten doctor`."""

import typer

from pipeline.cli.console import out
from pipeline.settings import load_settings

_MARKS = {"ok": ("ok", "green"), "warning": ("note", "yellow"), "problem": ("PROBLEM", "red")}


def doctor() -> None:
    """Check Label Studio, projects, Prefect, MLflow, device and disk, and say what to do about each problem."""
    from pipeline.doctor import examine

    problems = 0
    for finding in examine(load_settings()):
        mark, colour = _MARKS[finding.level]
        out.print(f"{mark:8}", style=colour, end="")
        out.print(f"{finding.what:15} {finding.detail}", markup=False)
        problems += finding.level == "problem"
    if problems:
        raise typer.Exit(1)
