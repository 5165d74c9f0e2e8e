"""The tables of docs/ablation.md hold what the rows in benchmarks/results say."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from benchmarks.report import (
    ACCURACY,
    CALIBRATION,
    CPU_SECONDS,
    DISTANCE,
    LABELS,
    PRECISION,
    RECALL,
    Column,
    average,
    differences,
    ratios,
    show,
)
from benchmarks.results import Row, read_rows
from benchmarks.variants import BASES, VARIANTS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LINES = [
    [cell.strip().replace("**", "").replace("−", "-") for cell in line.strip().strip("|").split("|")]
    for line in (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]


def rows_of(name: str, *, seeds: Iterable[int] = range(100), noises: Sequence[str] | None = None) -> list[Row]:
    rows, _ = read_rows(RESULTS / f"{name}.parquet")
    return [row for row in rows if row.seed in seeds and (noises is None or row.noise in noises)]


def table_with(head: Callable[[list[str]], bool]) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of the table whose head is that."""
    [start] = [number for number, line in enumerate(LINES) if head(line)]
    end = next((number for number in range(start + 2, len(LINES)) if set("".join(LINES[number])) <= set("-:")), None)
    return LINES[start], LINES[start + 2 : end and end - 1]


def mean(rows: list[Row], method: str, column: Column) -> str:
    found = average(rows, method, column)
    assert found is not None, method
    return f"{found.mean:.1f}"


@pytest.mark.parametrize(("name", "seeds"), [("digits", (0, 1, 2)), ("fashion-mnist", (0,)), ("cifar10n", (0,))])
def test_all_methods_on_the_same_work(name: str, seeds: tuple[int, ...]) -> None:
    head, lines = table_with(HEADS[name])
    assert [line[0] for line in lines] == [line[0] for line in lines if line[0]]
    rows = rows_of(name, seeds=seeds)
    column, noise = ACCURACY, "human:worst"
    for place, title in enumerate(head[1:], start=1):
        if title == "passes":
            continue
        column = LABELS if title.startswith("labels right") else ACCURACY if title.startswith("test") else column
        noise = next((part.strip("`") for part in title.split() if part.startswith("`")), noise)
        for line in lines:
            assert line[place] == mean([row for row in rows if row.noise == noise], line[0], column), (title, line[0])


HEADS: dict[str, Callable[[list[str]], bool]] = {
    "digits": lambda line: line[:2] == ["", "`sym:0.8`"] and line[-1] == "passes",
    "fashion-mnist": lambda line: line[1:2] == ["test % `sym:0.6`"],
    "cifar10n": lambda line: line == ["", "test %", "labels right %", "passes"],
}


def test_a_fifth_of_the_labels_wrong() -> None:
    head, lines = table_with(lambda line: line[:2] == ["test %", "ce"])
    rows = rows_of("digits")
    for line in lines:
        of = [row for row in rows if row.noise == line[0].strip("`") and row.seed < 3]
        assert line[1:] == [mean(of, method, ACCURACY) for method in head[1:]]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("digits", ["", "`sym:0.8`", "`sym:0.6`", "`asym:0.4`", "`annotators:3`", "`sym:0.4`", "`instance:0.4`"]),
        ("fashion-mnist", ["", "`sym:0.6`", "`asym:0.4`", "`instance:0.4`", "all"]),
    ],
)
def test_ours_against_the_paper(name: str, head: list[str]) -> None:
    _, lines = table_with(lambda line: line == head)
    rows = rows_of(name)
    columns = {"test": ACCURACY, "labels right": LABELS}
    for line in lines:
        for noise, said in zip(head[1:], line[1:], strict=True):
            of = rows if noise == "all" else [row for row in rows if row.noise == noise.strip("`")]
            found = differences(of, "fasten", "fasten-paper", columns[line[0]])
            assert said.partition(" (")[0] == show(found, columns[line[0]], signed=True), (line[0], noise)
            assert found is not None
            assert not said.endswith(")") or said.endswith(f"(n {found.count})"), (line[0], noise)


def test_what_else_is_measured() -> None:
    head, lines = table_with(lambda line: line[0] == "`paper` → ours")
    columns = {column.title: column for column in (PRECISION, RECALL, CALIBRATION, DISTANCE)}
    for line in lines:
        column = columns[line[0]]
        for noise, said in zip(head[1:], line[1:], strict=True):
            rows = rows_of("digits", noises=(noise.strip("`"),))
            found = [average(rows, method, column) for method in ("fasten-paper", "fasten")]
            digits = 4 if column is DISTANCE else 1
            shown = [f"{each.mean:.{digits}f}" for each in found if each is not None]
            assert said == " → ".join(text.lstrip("0") if digits == 4 else text for text in shown), (line[0], noise)


def test_each_remedy() -> None:
    _, lines = table_with(lambda line: line[0] == "change" and line[-2] == "predicted")
    rows = rows_of("ablation", noises=("asym:0.4", "sym:0.8"))
    assert {line[0] for line in lines} == {row.method for row in rows}
    for line in lines:
        variant = VARIANTS[line[0]]
        if variant.name in BASES:
            assert line[1:3] == [show(average(rows, variant.name, column), column) for column in (ACCURACY, LABELS)]
            continue
        changes = [show(differences(rows, variant.name, variant.base, c), c, signed=True) for c in (ACCURACY, LABELS)]
        time = ratios(rows, variant.name, variant.base, CPU_SECONDS)
        assert time is not None
        assert line[1:5] == [*changes, f"{time.mean:.2f}", variant.predicted.replace("−", "-")], line[0]
