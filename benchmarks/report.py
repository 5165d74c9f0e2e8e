"""Rows of results as Markdown tables that are also readable in a terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.measures import Mean, mean_with_interval
from benchmarks.results import Row
from benchmarks.switches import EXPLAINED, switch_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One figure of a row, and how it is shown."""

    title: str
    of: Callable[[Row], float | None]
    digits: int = 2
    scale: float = 1.0


def _percent(title: str, of: Callable[[Row], float | None]) -> Column:
    return Column(title=title, of=of, scale=100)


ACCURACY = _percent("test %", lambda row: row.accuracy_last)
LABELS = _percent("labels right %", lambda row: row.labels_correct)
PRECISION = _percent("relabels right %", lambda row: row.relabel_precision)
RECALL = _percent("wrong set right %", lambda row: row.relabel_recall)
CALIBRATION = _percent("ECE %", lambda row: row.ece)
DISTANCE = Column(title="T̂ abs. error", of=lambda row: row.transition_absolute, digits=4)
SECONDS = Column(title="seconds", of=lambda row: row.seconds, digits=1)
CPU_SECONDS = Column(title="CPU s", of=lambda row: row.cpu_seconds, digits=1)

LEARNING = (
    ACCURACY,
    _percent("test %, best val.", lambda row: row.accuracy_best),
    CALIBRATION,
    LABELS,
    _percent("of the wrong %", lambda row: row.labels_correct_of_wrong),
    PRECISION,
    RECALL,
)
COST = (
    DISTANCE,
    Column(title="χ²", of=lambda row: row.transition_chi2, digits=4),
    Column(title="diagonal of T̂", of=lambda row: row.estimated_diagonal, digits=3),
    Column(title="of T", of=lambda row: row.true_diagonal, digits=3),
    SECONDS,
    CPU_SECONDS,
    Column(title="images/s", of=lambda row: row.images_per_second, digits=0),
    Column(title="peak MiB", of=lambda row: row.peak_memory_mib, digits=0),
    Column(title="passes", of=lambda row: row.passes),
    Column(title="epochs", of=lambda row: row.epochs, digits=0),
)

LEGEND = """\
Mean ± half of the 95 % confidence interval over the seeds (Student's t). test %: accuracy on the held-out test set
after the last epoch, and at the epoch that was best on the clean validation set. ECE: expected calibration error of p
on the test set, at the temperature where a method fits one, 15 bins. labels right %: share of the noisy set whose
likeliest class, as the method believes, is the truth; then the same among those whose given label is wrong. relabels
right %: precision of the labels changed at ρ; wrong set right %: share of the wrong labels that this sets right. T̂
abs. error: mean |T̂ − T| over all entries; χ²: mean over rows of Σ (T̂ − T)²/T where T > 0. T is that of the given
labels, counted; for a T̂ of labels as corrected (the paper's) that of those. CPU s: the process's own time. images/s:
noisy images × epochs ÷ seconds. passes: images through the trunk, forward and backward, ÷ those of plain training on
the noisy set. peak MiB: GPU memory allocated, or growth of the resident set on a CPU.
"""


def markdown(title: str, rows: Sequence[Row], settings: Sequence[str]) -> str:
    """Everything about `rows`: an overview of all cells, each cell by itself, how each method was configured, and what
    failed.

    settings: lines that say how the rows were made.
    """
    good = [row for row in rows if row.error is None]
    parts = [f"# {title}", *settings, *made_lines(rows), LEGEND]
    cells = unique(cell_of(row) for row in good)
    if len(cells) > 1:
        for column in (ACCURACY, LABELS):
            parts += [f"## {column.title}, all cells", _overview(good, cells, column)]
    for cell in cells:
        inside = [row for row in good if cell_of(row) == cell]
        parts += [f"## {cell}", _given(inside), _by_method(inside, LEARNING), _by_method(inside, COST)]
    if lines := switch_lines(good):
        parts += ["## Configured", EXPLAINED, "\n".join(lines)]
    failed = [row for row in rows if row.error is not None]
    if failed:
        lines = [f"- {cell_of(row)}, seed {row.seed}, {row.method}: {row.error}" for row in failed]
        parts += ["## Failed", "\n".join(lines)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def differences(rows: Iterable[Row], method: str, base: str, column: Column) -> Mean | None:
    """`method` − `base` in `column`, paired by data set, cell and seed; None where no pair has both figures."""
    found = [column.scale * (value - other) for value, other in _pairs(rows, method, base, column)]
    return mean_with_interval(found) if found else None


def ratios(rows: Iterable[Row], method: str, base: str, column: Column) -> Mean | None:
    """`method` ÷ `base` in `column`, in the same way."""
    found = [value / other for value, other in _pairs(rows, method, base, column) if other]
    return mean_with_interval(found) if found else None


def _pairs(rows: Iterable[Row], method: str, base: str, column: Column) -> list[tuple[float, float]]:
    values = {(cell_of(row), row.seed, row.method): column.of(row) for row in rows if row.error is None}
    pairs = [(value, values.get((cell, seed, base))) for (cell, seed, name), value in values.items() if name == method]
    return [(value, other) for value, other in pairs if value is not None and other is not None]


def show(mean: Mean | None, column: Column, *, signed: bool = False) -> str:
    """“91.20 ± 0.31”, without the interval where there is a single value; “–” where there is none."""
    if mean is None:
        return "–"
    text = f"{mean.mean:{'+' if signed else ''}.{column.digits}f}"
    return text if mean.half_width is None else f"{text} ± {mean.half_width:.{column.digits}f}"


def table(head: Sequence[str], body: Iterable[Sequence[str]], *, texts: Sequence[int] = (0,)) -> str:
    """A Markdown table with its columns aligned: those of `texts` to the left, the others to the right."""
    lines = [list(head), *(list(line) for line in body)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(head))]
    rule = ["-" * width if place in texts else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    lines.insert(1, rule)
    return "\n".join(
        "| " + " | ".join(f"{t:{'<' if place in texts else '>'}{widths[place]}}" for place, t in enumerate(line)) + " |"
        for line in lines
    )


def settings_line(path: Path, settings: Mapping[str, object]) -> str:
    """“`a.parquet`: dataset digits, …”: what all its rows were made with."""
    said = []
    for name, value in settings.items():
        if name == "source" and isinstance(value, list):
            said.append(f"source of {value[0]} training and {value[-1]} test images")
        elif value is not None:
            said.append(f"{name} {value}")
    return f"`{path.name}`: {', '.join(said)}."


class Made(Protocol):
    """A row that knows where it was made."""

    @property
    def machine(self) -> str:
        """`benchmarks.machine.hardware_line`."""

    @property
    def code(self) -> str:
        """`benchmarks.machine.code_line`."""


def made_lines(rows: Sequence[Made]) -> list[str]:
    """The machines, one a line, each with the commits and the first and last moment of its rows."""
    lines = []
    for machine in unique(row.machine for row in rows if row.machine):
        codes = [row.code.split(", ", 1) for row in rows if row.machine == machine and row.code]
        commits, dates = unique(code[0] for code in codes), sorted(code[-1] for code in codes)
        when = "" if not dates else dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        lines.append("; ".join(part for part in (machine, ", ".join(commits), when) if part) + ".")
    return lines


def cell_of(row: Row) -> str:
    """“digits, sym:0.4”."""
    return f"{row.dataset}, {row.noise}"


def unique(values: Iterable[str]) -> list[str]:
    """Each value once, in the order of its first."""
    return list(dict.fromkeys(values))


def average(rows: Iterable[Row], method: str, column: Column) -> Mean | None:
    """Over the rows of `method` that have the figure."""
    return _mean((row for row in rows if row.method == method), column)


def _mean(rows: Iterable[Row], column: Column) -> Mean | None:
    values = [value * column.scale for row in rows if (value := column.of(row)) is not None]
    return mean_with_interval(values) if values else None


def _overview(rows: Sequence[Row], cells: Sequence[str], column: Column) -> str:
    methods = unique(row.method for row in rows)
    return table(
        ["method", *cells],
        (
            [
                name,
                *(
                    show(_mean((r for r in rows if r.method == name and cell_of(r) == cell), column), column)
                    for cell in cells
                ),
            ]
            for name in methods
        ),
    )


def _by_method(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    body = []
    for name in unique(row.method for row in rows):
        own = [row for row in rows if row.method == name]
        body.append([name, *(show(_mean(own, column), column) for column in columns), str(len(own))])
    return table(["method", *(column.title for column in columns), "n"], body)


def _given(rows: Sequence[Row]) -> str:
    """What the cell's methods were given."""
    noise, first = _mean(rows, _percent("", lambda row: row.noise_rate)), rows[0]
    wrong = f"{noise.mean:.1f} % of them labelled wrong" if noise else "whose true labels nobody knows"
    seeds = {frozenset(row.seed for row in rows if row.method == name) for name in {row.method for row in rows}}
    uneven = " Not every method has every seed yet: their means are of different draws." if len(seeds) > 1 else ""
    return f"{first.noisy} noisy samples, {wrong}; {first.clean} clean.{uneven}"
