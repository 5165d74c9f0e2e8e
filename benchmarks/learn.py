"""Every method on the same data, trunk, schedule, clean set, augmentation and seeds: one row for each method and seed.

    python -m benchmarks.learn --dataset fashion-mnist --noise sym:0.4 human:worst --seeds 3 --budget 15epochs \\
        --out benchmarks/results/fashion
    python -m benchmarks.learn --report benchmarks/results/a.parquet benchmarks/results/b.parquet

Rows are written as they come (`--out`.parquet) and what is there is not run again, so a run that was stopped is simply
started again; the tables are in `--out`.md. Figures: `benchmarks.report.LEGEND`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.command import belief, finish, parser, positive, ratio, results_path, use_threads
from benchmarks.data import DATASETS, KINDS, NoiseSpec, load_source, parse_noise
from benchmarks.experiment import Budget, parse_budget
from benchmarks.methods import METHODS, Method, Observer, Outcome, Problem
from benchmarks.plan import HANDED, SIZES, Configure, Plan, own_switches, run
from benchmarks.report import markdown, settings_line
from benchmarks.results import ResultsFile, Row, read_rows
from benchmarks.rows_file import check_writable
from benchmarks.run_notes import exit_status
from fasten_model.device import resolve_device
from fasten_model.errors import DataError
from fasten_model.network import build_network
from fasten_model.presets import PRESETS
from fasten_model.train import TrainConfig

RESULTS = Path(__file__).parent / "results"
OWN_LABELS = ("clothing1m", "parquet")
"""Data sets whose noisy labels are what they came with."""


def gathered(paths: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """(the rows of all `paths`, a line on how each file was made); of two of one run, the good or the later one."""
    rows: dict[tuple[str, str, int, str], Row] = {}
    lines = []
    for path in paths:
        found, settings = read_rows(path)
        lines.append(settings_line(path, settings))
        for row in found:
            key = (row.dataset, *row.key)
            if key not in rows or row.error is None:
                rows[key] = row
    return sorted(rows.values(), key=lambda row: row.seed), lines  # stable: methods and cells as they were run


def report(title: str, paths: Sequence[Path]) -> str:
    """The rows of all `paths` as Markdown."""
    rows, lines = gathered(paths)
    return markdown(title, rows, lines)


def run_and_report(
    options: argparse.Namespace,
    methods: Mapping[str, Method],
    reported: Callable[[str, Sequence[Path]], str],
    configure: Configure = own_switches,
) -> int:
    """Run what `options` ask for and write the tables beside the rows, whatever ends the run; print them.

    1 and a line on stderr where rows failed, else 0.
    """
    plan = plan_from(options)
    results = open_results(options, plan)
    tables = results.path.with_suffix(".md")
    try:
        rows = run(plan, methods, results, configure)
    finally:
        if results.path.exists():
            text = reported(plan.dataset, [results.path])
            tables.write_text(text, encoding="utf-8")
    print(f"{text}\nThis is {tables}, its rows are {results.path}.")
    return exit_status(rows, tables)


def show_report(options: argparse.Namespace, reported: Callable[[str, Sequence[Path]], str]) -> int:
    """Print the tables of `--report`'s files, and write them to `--out`.md where that is given."""
    tables = results_path(options.out).with_suffix(".md") if options.out else None
    if tables:
        check_writable(tables)
    text = reported("all files", options.report)
    print(text)
    if tables:
        tables.write_text(text, encoding="utf-8")
    return 0


def add_options(made: argparse.ArgumentParser, *, out: str = "") -> None:
    """What says on which data, how long and how to train (`plan_from`), and where to keep it.

    out: what the name of the results begins with, where the command line gives none.
    """
    made.set_defaults(out_begins=out)
    made.add_argument("--dataset", choices=DATASETS, default="digits")
    made.add_argument(
        "--root", type=Path, help="folder of the data's files (parquet: with clean.parquet, noisy.parquet)"
    )
    made.add_argument("--limit", type=positive, help="keep at most so many images of each part in memory")
    kinds = "; ".join(KINDS.values()).replace("%", "%%")
    made.add_argument(
        "--noise", nargs="+", type=parse_noise, metavar="KIND",
        help=f"one or several cells (default: asym:0.4; {' and '.join(OWN_LABELS)}: own): {kinds}",
    )  # fmt: skip
    for place, name in enumerate(("noisy", "clean", "validation")):
        usual = ", ".join(f"{dataset} {SIZES[dataset][place]}" for dataset in DATASETS)
        made.add_argument(f"--{name}", type=positive, help=f"{name} samples (default: {usual})")
    made.add_argument("--imbalance", type=ratio, default=1.0, help="how much the first class outnumbers the last")
    made.add_argument("--seeds", type=positive, default=3, help="how many (default 3: 0, 1 and 2)")
    made.add_argument("--first-seed", type=int, default=0)
    made.add_argument("--budget", type=parse_budget, default=Budget(epochs=15),
                      help="15epochs or 60s, of each method (default: 15epochs)")  # fmt: skip
    made.add_argument("--preset", choices=tuple(PRESETS), help="trunk, optimiser, schedule, batches (default: small)")
    made.add_argument("--trunk", help="another trunk in the preset's place; a preset's name alone means that preset")
    made.add_argument("--compile", action="store_true", help="compile the network (torch.compile)")
    made.add_argument("--noisy-batch", type=positive)
    made.add_argument("--clean-batch", type=positive)
    made.add_argument("--lr", type=float)
    made.add_argument("--flip", action=argparse.BooleanOptionalAction, help="mirror pictures (default: by data set)")
    made.add_argument("--rho", type=belief, default=0.8, help="belief from which on a label counts as changed")
    made.add_argument("--out", type=Path, help=f"where to, without ending (default: benchmarks/results/{out}DATASET)")
    made.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True,
                      help="go on with what --out has (default); --no-resume: end where it is there")  # fmt: skip
    made.add_argument("--report", nargs="+", type=Path, metavar="PARQUET", help="run nothing; show these files' rows")


def plan_from(options: argparse.Namespace) -> Plan:
    """Read the data and settle every choice; `DataError` for one that cannot be."""
    noisy, clean, validation = SIZES[options.dataset]
    flip = options.flip if options.flip is not None else options.dataset not in HANDED
    named = options.trunk in PRESETS and options.preset is None
    config = TrainConfig(
        preset=options.preset or (options.trunk if named else "small"),
        trunk=None if named else options.trunk,
        noisy_batch=options.noisy_batch,
        clean_batch=options.clean_batch,
        lr=options.lr,
        horizontal_flip=flip,
        compile=options.compile,
        device=str(resolve_device(options.device)),
    )
    settings = config.settings()
    build_network(settings.trunk, 2, image_size=settings.image_size)  # says now what is wrong with it, not in each row
    files = {}
    if options.dataset == "parquet":
        if options.root is None:
            raise DataError("--dataset parquet needs --root, the folder with clean.parquet and noisy.parquet")
        files = {name: options.root / f"{name}.parquet" for name in ("clean", "noisy")}
    source = load_source(options.dataset, root=options.root, size=settings.image_size, limit=options.limit, **files)
    return Plan(
        dataset=options.dataset,
        source=source,
        noises=noises_of(options),
        seeds=tuple(range(options.first_seed, options.first_seed + options.seeds)),
        noisy=options.noisy or noisy,
        clean=options.clean or clean,
        validation=options.validation or validation,
        imbalance=options.imbalance,
        budget=options.budget,
        config=config,
        rho=options.rho,
    )


def noises_of(options: argparse.Namespace) -> tuple[NoiseSpec, ...]:
    """Those of `--noise`. Data that came with labels of its own is about them: other noise would be in their place."""
    usual = NoiseSpec(kind="own") if options.dataset in OWN_LABELS else NoiseSpec(kind="asym", rate=0.4)
    return tuple(options.noise or [usual])


def open_results(options: argparse.Namespace, plan: Plan) -> ResultsFile:
    """The file of `--out`; `DataError` where it cannot be written or `--no-resume` meets one that is there."""
    path = results_path(options.out or RESULTS / f"{options.out_begins}{options.dataset}")
    return ResultsFile(path, plan.settings(), fresh=not options.resume)


def chosen_methods(names: Sequence[str] | None) -> dict[str, Method]:
    """The named methods, or all, in the harness' order; `DataError` lists those there are."""
    unknown = [name for name in names or () if name not in METHODS]
    if unknown:
        raise DataError(f"no method is called {unknown[0]!r}; there are {', '.join(METHODS)}")
    return {name: _when_run(name) for name in METHODS if names is None or name in names}


def _when_run(name: str) -> Method:
    """The method, imported when it is first run: one whose library is missing fails by itself."""

    def method(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        return METHODS[name](problem, config, observer)

    return method


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, or report."""
    made = parser("benchmarks.learn", __doc__)
    add_options(made)
    made.add_argument("--methods", nargs="+", metavar="NAME", help=f"default all: {' '.join(METHODS)}")
    options = made.parse_args(arguments)
    use_threads(options.threads)

    def reported(subject: str, paths: Sequence[Path]) -> str:
        return report(f"Methods of the harness: {subject}", paths)

    if options.report:
        return show_report(options, reported)
    return run_and_report(options, chosen_methods(options.methods), reported)


if __name__ == "__main__":
    finish(main)
