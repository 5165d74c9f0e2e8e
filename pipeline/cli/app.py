"""The map of all commands, and how each of them ends."""

import sys

import typer

from pipeline.cli import demo, doctor, method, rounds, stack
from pipeline.cli.console import complain, log_to_terminal
from pipeline.errors import FastenError

app = typer.Typer(
    name="fasten",
    help="Correct labels per minute of human attention: find wrong labels, and put them before people.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for title, commands in (
    ("Start here", (demo.demo, doctor.doctor)),
    ("The embedded stack", (stack.up, stack.status, stack.down, stack.env)),
    ("The loop, whole and step by step", (rounds.retrain, rounds.pull, rounds.triage, rounds.push, rounds.report)),
    ("The method alone, from Parquet files", (method.train, method.score)),
):
    for command in commands:
        app.command(rich_help_panel=title)(command)


def main() -> None:
    """Entry point of the console script."""
    log_to_terminal()
    try:
        app()
    except FastenError as error:
        complain(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        complain("interrupted; what was finished is kept, run it again to go on")
        sys.exit(130)
