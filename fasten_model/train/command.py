"""`python -m fasten_model.train`: training from two Parquet files, in one process or in several that torchrun starts.

Exit codes: 0 trained, 1 input that cannot be trained on, 2 a wrong command line, 143 (SIGTERM) or 130 (Ctrl-C) stopped.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from torch import distributed as dist

from fasten_model.errors import FastenError
from fasten_model.fit_files import fit_files
from fasten_model.holding_out import MOST_FOLDS
from fasten_model.presets import PRESETS
from fasten_model.relabel import CERTAINTY, TARGET_PRECISION
from fasten_model.train.checkpoint import CheckpointConfig
from fasten_model.train.config import TrainConfig
from fasten_model.train.join import joined_processes
from fasten_model.train.process import ALONE, SharedError
from fasten_model.train.stopping import StopOn, Stopped

_CONFIG = (
    "preset",
    "trunk",
    "trunk_weights",
    "image_size",
    "epochs",
    "noisy_batch",
    "clean_batch",
    "lr",
    "weight_decay",
    "horizontal_flip",
    "compile",
    "cuda_graphs",
    "seed",
    "device",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    options = training_parser().parse_args(arguments)
    checkpoint = options.checkpoint or options.out / "checkpoint"
    asked = signal.SIGTERM
    process = ALONE

    def heard(number: signal.Signals) -> None:
        nonlocal asked
        asked = number

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        config = TrainConfig(**{name: getattr(options, name) for name in _CONFIG})
        with joined_processes(config.device) as (process, device):
            _log_to_stderr(logging.INFO if process.is_first else logging.ERROR)
            fitted = fit_files(
                clean=options.clean,
                noisy=options.noisy,
                out=options.out,
                config=replace(config, device=device),
                holdout=options.holdout,
                folds=options.folds,
                target_precision=options.target_precision,
                certainty=options.certainty,
                rho=options.rho,
                cache=options.cache,
                checkpoint=CheckpointConfig(folder=checkpoint, every_seconds=options.checkpoint_seconds),
                stop=StopOn(signal.SIGTERM, signal.SIGINT, heard=heard),
            )
    except Stopped as stopped:
        _tell(f"{stopped}; the same command goes on from the checkpoint in {checkpoint}")
        return 128 + asked
    except (_Terminated, KeyboardInterrupt) as signalled:
        _tell(f"stopped; the same command goes on from the checkpoint in {checkpoint}, if there is one")
        return 128 + (signal.SIGTERM if isinstance(signalled, _Terminated) else signal.SIGINT)
    except SharedError as error:
        _tell(str(error))
        return 1
    except FastenError as error:
        _tell(str(error), of_all=False)
        return 1
    except OSError as error:
        _tell(f"{error.filename or options.out}: {error.strerror or error}", of_all=False)
        return 1
    except RuntimeError as error:
        if process.world == 1 or not _is_of_the_network(error):
            raise
        _tell(f"another process has gone; started again, all go on from the checkpoint in {checkpoint}", of_all=False)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    if process.is_first:
        if fitted.accuracy is not None:
            print(f"accuracy on {fitted.held_out} held-out audited samples: {fitted.accuracy:.1%}")
        print(f"the model {fitted.choice.sentence()}")
        print(f"model: {options.out}")
    return 0


class _Terminated(BaseException):
    """SIGTERM where no step is being made."""


def training_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fasten_model.train",
        description=(
            "Train FasTEN on two Parquet files with the images inline; write the calibrated model. In several "
            "processes: torchrun --nproc-per-node N -m fasten_model.train …"
        ),
        epilog="Killed or stopped, the same command goes on from the last checkpoint and ends as if nothing had been.",
        allow_abbrev=False,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--clean", type=Path, required=True, metavar="FILE", help="audited samples")
    files.add_argument("--noisy", type=Path, required=True, metavar="FILE", help="bulk-labelled samples")
    files.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model")
    files.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep the decoded images here, and read them from here"
    )
    files.add_argument("--checkpoint", type=Path, metavar="DIR", help="folder for checkpoints; else DIR/checkpoint")
    files.add_argument(
        "--checkpoint-seconds", type=float, default=60.0, metavar="S", help="time between two of them (default: 60)"
    )
    training = parser.add_argument_group("training; what is not given comes from the preset")
    training.add_argument("--preset", default="small", choices=sorted(PRESETS))
    training.add_argument("--trunk", metavar="NAME", help="ours, torchvision:NAME or timm:NAME")
    training.add_argument("--trunk-weights", metavar="FILE", help="weights that the trunk starts from")
    training.add_argument("--image-size", type=int, metavar="S", help="side of the square images")
    training.add_argument("--epochs", type=int, metavar="N")
    training.add_argument("--noisy-batch", type=int, metavar="N", help="noisy samples in a step, of all processes")
    training.add_argument("--clean-batch", type=int, metavar="N", help="clean samples in a step, of all processes")
    training.add_argument("--lr", type=float, metavar="RATE", help="largest learning rate")
    training.add_argument("--weight-decay", type=float, metavar="W")
    training.add_argument("--horizontal-flip", action=argparse.BooleanOptionalAction, help="mirror images at random")
    training.add_argument("--compile", action="store_true", help="compile the network")
    training.add_argument("--cuda-graphs", action="store_true", help="with --compile: replay it as CUDA graphs")
    training.add_argument("--seed", type=int, default=0, metavar="N")
    training.add_argument(
        "--device", default="auto", metavar="NAME", help="auto (a GPU where there is one), cpu, cuda …"
    )
    judging = parser.add_argument_group("judging labels")
    out = judging.add_mutually_exclusive_group()
    out.add_argument("--holdout", type=_share, metavar="SHARE", help="audited samples held out, else 0.25")
    out.add_argument(
        "--folds", type=_folds, default=1, metavar="N", help="train N models, each without another Nth of them, instead"
    )
    judging.add_argument(
        "--target-precision", type=float, default=TARGET_PRECISION, metavar="SHARE", help="of the relabels to be right"
    )
    judging.add_argument(
        "--certainty", type=float, default=CERTAINTY, metavar="SHARE", help="probability that they are"
    )
    judging.add_argument("--rho", type=_rho, metavar="RHO", help="fix ρ instead; auto: choose it for that precision")
    return parser


def _rho(text: str) -> float | None:
    return None if text == "auto" else float(text)


def _folds(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_FOLDS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MOST_FOLDS}, got {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return value


def _log_to_stderr(level: int) -> None:
    logging.basicConfig(level=max(level, logging.WARNING), format="%(message)s", stream=sys.stderr)
    logging.getLogger("fasten_model").setLevel(level)


def _tell(line: str, *, of_all: bool = True) -> None:
    """One line for whoever started this; `of_all`: every process would say it, so only the first one does."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        print(line, file=sys.stderr)
    elif not of_all:
        print(f"process {rank}: {line}", file=sys.stderr)


def _is_of_the_network(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "Connection"))
