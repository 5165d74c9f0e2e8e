"""The map of all commands, and how each of them ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.cli import demo, doctor, export, history, method, people, revert, rounds, snapshots, stack
from pipeline.cli.console import complain, log_to_terminal, say
from pipeline.errors import FastenError

# What all wrong arguments are; Typer exports this kind of it alone.
_WrongArguments = cast(type[Exception], typer.BadParameter.__base__)


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Wrong arguments are told as everything else that its user can mend, and not in a frame below the usage."""
    try:
        yield
    except _WrongArguments as error:
        told: Any = error
        said = str(told.format_message()).replace("Value error, ", "").rstrip(".")
        complain(
            f"{said}{' ' if said.endswith('?') else '; '}see `{told.ctx.command_path if told.ctx else name} --help`"
        )
        raise typer.Exit(told.exit_code) from None


def _flags_bare(parameters: list[Any]) -> list[Any]:
    """Parameters for the help to show: Typer writes `<bool>` behind a flag, as if it took a value."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class _Command(TyperCommand):
    """A command whose help shows its flags as flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _flags_bare(super().get_params(ctx))


class _Commands(TyperGroup):
    """Commands that end in one line, not in a traceback, on whatever their user can mend."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _flags_bare(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:  # the map is shown, by an error of the same kind
            return super().parse_args(ctx, args)
        with _one_line(ctx.command_path):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _one_line(ctx.command_path):
                return super().invoke(ctx)
        except FastenError as error:
            complain(str(error))
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever was reading has had enough
                raise
            complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        except KeyboardInterrupt:
            complain("interrupted; what was finished is kept, run it again to go on")
            raise typer.Exit(130) from None
        raise typer.Exit(1)


app = typer.Typer(
    name="fasten",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        say(version("fasten"))
        raise typer.Exit


@app.callback()
def fasten(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Correct labels per minute of human attention: find wrong labels, and put them before people."""


for title, commands in (
    ("Start here", (demo.demo, doctor.doctor)),
    ("The embedded stack", (stack.up, stack.status, stack.down, stack.env)),
    ("The loop, whole and step by step", (rounds.retrain, rounds.pull, rounds.triage, rounds.push)),
    ("What came of it", (rounds.report, people.people, history.history, export.export, revert.revert)),
    ("Snapshots", (snapshots.snapshots, snapshots.diff, snapshots.gc)),
    ("The method alone, from Parquet files", (method.train, method.score)),
):
    for command in commands:
        app.command(rich_help_panel=title, cls=_Command)(command)


def main() -> None:
    """Entry point of the console script."""
    log_to_terminal()
    app()
