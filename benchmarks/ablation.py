"""What each remedy is worth: FasTEN with one thing changed against the same without, on the same cells and seeds.

    python -m benchmarks.ablation --dataset digits --noise asym:0.4 sym:0.6 --seeds 5 --out benchmarks/results/ablation
    python -m benchmarks.ablation --variants paper/* "ours -pairs" …
    python -m benchmarks.ablation --list
    python -m benchmarks.ablation --report benchmarks/results/ablation.parquet …

The variants and what was predicted of them: `benchmarks.variants`. Rows are kept and gone on with as those of
`benchmarks.learn` are, with the same options.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.command import finish, parser, use_threads
from benchmarks.learn import add_options, gathered, run_and_report, show_report
from benchmarks.methods import fasten
from benchmarks.methods.base import Method
from benchmarks.report import (
    ACCURACY,
    CALIBRATION,
    CPU_SECONDS,
    DISTANCE,
    LABELS,
    PRECISION,
    average,
    cell_of,
    differences,
    markdown,
    ratios,
    show,
    table,
    unique,
)
from benchmarks.results import Row
from benchmarks.variants import BASES, VARIANTS, Variant, find_variants
from fasten_model.train import TrainConfig

COMPARED = (ACCURACY, LABELS, PRECISION, CALIBRATION, DISTANCE)
"""Figures whose difference to the base is shown."""


def as_method(variant: Variant) -> Method:
    """The variant as a method of the harness; its switches come with the config."""
    return {"p": fasten.run_by_network, "q": fasten.run_uncalibrated, "fitted": fasten.run}[variant.judged]


def configure(name: str, config: TrainConfig) -> TrainConfig:
    """`config` with the switches and the clean batch of the variant called `name`."""
    variant = VARIANTS[name]
    if variant.clean_share is not None:
        config = replace(config, clean_batch=max(2, round(variant.clean_share * config.settings().noisy_batch)))
    return replace(config, method=variant.method())


def report(subject: str, paths: Sequence[Path]) -> str:
    """Each variant against its base: over all cells, then in each; after that the figures themselves."""
    rows, lines = gathered(paths)
    good = [row for row in rows if row.error is None]
    cells = unique(cell_of(row) for row in good)
    parts = [f"# Ablation: {subject}", _LEGEND]
    if len(cells) > 1:
        parts += ["## All cells", _compared(good)]
    for cell in cells:
        parts += [f"## {cell}", _compared([row for row in good if cell_of(row) == cell])]
    return "\n\n".join(part.strip() for part in parts) + "\n\n" + markdown("The figures", rows, lines)


_LEGEND = """\
Each line is one change to its base: the difference to the base, paired by cell and seed, mean ± half of the 95 %
confidence interval (Student's t; over several cells the spread between cells is in it). %: percentage points. The
base's own line has its own figures. time: CPU seconds ÷ the base's.
"""


def _compared(rows: Sequence[Row]) -> str:
    names = unique(row.method for row in rows)
    body = []
    for variant in (VARIANTS[name] for name in VARIANTS if name in names):
        if variant.name in BASES:
            own = [show(average(rows, variant.name, column), column) for column in COMPARED]
            body.append([f"**{variant.name}**", *own, "1", ""])
            continue
        changes = [show(differences(rows, variant.name, variant.base, c), c, signed=True) for c in COMPARED]
        time = ratios(rows, variant.name, variant.base, CPU_SECONDS)
        body.append([variant.name, *changes, f"{time.mean:.2f}" if time else "–", variant.predicted])
    return table(
        ["variant", *(column.title for column in COMPARED), "time", "predicted"], body, texts=(0, len(COMPARED) + 2)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report or list."""
    made = parser("benchmarks.ablation", __doc__)
    add_options(made, out="ablation-")
    made.add_argument("--variants", nargs="+", metavar="NAME", help="default all; paper/* and ours/* take one base's")
    made.add_argument("--list", action="store_true", help="print the variants and what is predicted of each")
    options = made.parse_args(arguments)
    use_threads(options.threads)
    if options.list:
        print(table(["variant", "predicted"], ([v.name, v.predicted] for v in VARIANTS.values()), texts=(0, 1)))
        return 0
    if options.report:
        return show_report(options, report)
    chosen = find_variants(options.variants)
    return run_and_report(options, {variant.name: as_method(variant) for variant in chosen}, report, configure)


if __name__ == "__main__":
    finish(main)
