"""What the benchmarks' commands share on the command line: one line for whatever is wrong, and torch's threads."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from fasten_model.errors import DataError, FastenError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, and ends with status 2."""

    def error(self, message: str) -> NoReturn:
        """Print `message`, without the usage, which is long."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def parser(module: str, description: str | None, *, device: bool = True) -> Parser:
    """A parser for `python -m module` with the options that every benchmark has; --device where one is computed on."""
    made = Parser(prog=f"python -m {module}", description=str(description).splitlines()[0])
    if device:
        made.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    made.add_argument(
        "--threads", type=positive, default=1, help="of torch on the CPU; with 1, two runs side by side stay fair"
    )
    return made


def positive(text: str) -> int:
    """A whole number from 1; for `type=`."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def belief(text: str) -> float:
    """ρ, from 0; no belief reaches one above 1, which so means never. For `type=`."""
    return _at_least(0, text)


def ratio(text: str) -> float:
    """How much more there is of one than of another, from 1; for `type=`."""
    return _at_least(1, text)


def above_zero(text: str) -> float:
    """A number above 0 that is not infinite. For `type=`."""
    number = float(text)
    if not 0 < number < math.inf:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def share(text: str) -> float:
    """A share or a probability, between 0 and 1. For `type=`."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def _at_least(lowest: int, text: str) -> float:
    number = float(text)
    if not lowest <= number < math.inf:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text} is no number from {lowest}")
    return number


def results_path(out: Path) -> Path:
    """The Parquet file that `--out` names, with or without its ending; `DataError` where it names a folder."""
    try:
        is_folder = out.is_dir()
    except OSError:  # a name too long, a folder that is closed: `check_writable` says so
        is_folder = False
    if is_folder:
        raise DataError(f"{out} is a folder; name the results in it: --out {out / 'NAME'}")
    return out.with_name(f"{out.name.removesuffix('.parquet')}.parquet")  # “a.1” has no ending


def finish(run: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process: 2 and one line on stderr for an error that the user can cause, 130 for ^C.

    1, if the command says so: it ran to its end, and something of it failed.
    """
    try:
        sys.exit(run(arguments))
    except FastenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; run it again to go on", file=sys.stderr)
        sys.exit(130)


def use_threads(count: int) -> None:
    """Let torch compute with `count` threads."""
    torch.set_num_threads(count)
