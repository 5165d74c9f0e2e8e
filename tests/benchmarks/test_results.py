"""The results file keeps every row whatever happens, and the tables say what the rows do."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.report import ACCURACY, differences, markdown, settings_line, show, table
from benchmarks.results import SCHEMA, ResultsFile, Row, read_rows, write_rows
from fasten_model.errors import DataError

SETTINGS = {"dataset": "digits", "epochs": 3, "budget_seconds": None}


def row(seed: int = 0, method: str = "ce", accuracy: float | None = 0.5, noise: str = "sym:0.4") -> Row:
    return Row(noise=noise, seed=seed, method=method, dataset="digits", accuracy_last=accuracy, noisy=9, clean=3)


def test_every_field_survives_the_file(tmp_path: Path) -> None:
    full = replace(
        row(), validation_accuracy=[0.1, 0.2], best_epoch=2, passes=1.5, config='{"ρ": 0.8}', machine="a; b", epochs=3
    )
    failed = Row(noise="own", seed=7, method="x", error="RuntimeError: why")
    write_rows(tmp_path / "a.parquet", [full, failed], SETTINGS)
    assert read_rows(tmp_path / "a.parquet") == ([full, failed], SETTINGS)
    assert len(SCHEMA) == len(Row.__dataclass_fields__)


def test_a_row_takes_the_place_of_its_own_key_alone(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "deep" / "a.parquet", SETTINGS)
    file.add(replace(row(), error="ValueError: no"))
    assert not file.has(row().key)
    for each in (row(accuracy=0.7), row(seed=1), row(method="fasten"), row(noise="own")):
        file.add(each)
    assert file.has(row().key)
    assert file.rows() == [row(accuracy=0.7), row(seed=1), row(method="fasten"), row(noise="own")]


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    def write(method: str) -> None:
        file = ResultsFile(tmp_path / "a.parquet", SETTINGS)
        for seed in range(15):
            file.add(row(seed=seed, method=method))

    writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len({each.key for each in read_rows(tmp_path / "a.parquet")[0]}) == 45


def test_who_reads_while_another_writes_finds_whole_rows(tmp_path: Path) -> None:
    file, done = ResultsFile(tmp_path / "a.parquet", SETTINGS), threading.Event()
    file.add(row(seed=0))

    def look() -> list[int]:
        looks = []
        while not done.is_set():
            looks.append(len(ResultsFile(tmp_path / "a.parquet", SETTINGS).rows()))
        return looks

    with ThreadPoolExecutor(2) as readers:
        seen = [readers.submit(look) for _ in range(2)]
        for seed in range(1, 50):
            file.add(row(seed=seed))
        done.set()
        for looks in (each.result() for each in seen):
            assert looks == sorted(looks)


def test_a_kill_leaves_every_row_that_was_added(tmp_path: Path) -> None:
    """Killed right after it said so, while it goes on writing."""
    program = (
        "import sys; from pathlib import Path; from benchmarks.results import ResultsFile, Row\n"
        "file = ResultsFile(Path(sys.argv[1]), {})\n"
        "for seed in range(10**6):\n"
        "    file.add(Row(noise='own', seed=seed, method='ce'))\n"
        "    print(seed, flush=True)\n"
    )
    path = tmp_path / "a.parquet"
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout:
        said = [int(child.stdout.readline()) for _ in range(20)]
        child.send_signal(signal.SIGKILL)
        said += [int(line) for line in child.stdout if line.strip()]
    found = [each.seed for each in read_rows(path)[0]]
    assert found[: len(said)] == said
    ResultsFile(path, {}).add(Row(noise="own", seed=-1, method="ce"))  # the dead process's lock is gone


def test_a_folder_is_made_and_tried_before_there_is_a_row(tmp_path: Path) -> None:
    ResultsFile(tmp_path / "deep" / "er" / "a.parquet", SETTINGS)
    assert not list((tmp_path / "deep" / "er").iterdir())
    with pytest.raises(DataError, match=r"cannot be written \(.+\); write elsewhere \(--out\)"):
        ResultsFile(Path("/proc/x/y.parquet"), SETTINGS)


def test_other_settings_are_named(tmp_path: Path) -> None:
    ResultsFile(tmp_path / "a.parquet", SETTINGS).add(row())
    with pytest.raises(DataError, match="epochs 3, this run has 5"):
        ResultsFile(tmp_path / "a.parquet", {**SETTINGS, "epochs": 5})
    ResultsFile(tmp_path / "a.parquet", {**SETTINGS, "new": None})  # a setting of a later version, as it was before


def test_what_is_no_results_file_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"something of yours")
    with pytest.raises(DataError, match="not a results file"):
        ResultsFile(path, SETTINGS)
    assert path.read_bytes() == b"something of yours"
    with pytest.raises(DataError, match="no results file"):
        read_rows(tmp_path / "none.parquet")


def test_means_are_over_the_seeds_of_a_cell() -> None:
    rows = [row(seed, "ce", value) for seed, value in enumerate((0.5, 0.6, 0.7))] + [row(0, "ce", 0.9, "own")]
    text = markdown("Title", rows, ["`a.parquet`: epochs 3."])
    cells = next(line for line in text.splitlines() if line.startswith("| ce")).split("|")
    assert [cell.strip() for cell in cells[2:4]] == ["60.00 ± 24.84", "90.00"]  # t(0.975, 2) = 4.303, s/√3 = 0.0577
    assert text.startswith("# Title")


def test_means_over_different_seeds_are_told() -> None:
    said = "Not every method has every seed yet: their means are of different draws."
    whole = [row(seed, method) for seed in (0, 1) for method in ("ce", "fasten")]
    assert said not in markdown("Title", whole, [])
    assert said in markdown("Title", whole[:-1], [])
    failed = replace(row(1, "fasten"), error="RuntimeError: no")
    assert said in markdown("Title", [*whole[:-1], failed], [])


def test_what_rows_were_made_with_is_a_sentence() -> None:
    settings = {"dataset": "digits", "source": [1198, 599], "rho": 0.8, "lr": None}
    assert settings_line(Path("deep/a.parquet"), settings) == (
        "`a.parquet`: dataset digits, source of 1198 training and 599 test images, rho 0.8."
    )


def test_differences_are_paired_by_cell_and_seed() -> None:
    base = [row(seed, "base", value) for seed, value in enumerate((0.1, 0.5, 0.9))]
    variant = [row(seed, "variant", value) for seed, value in enumerate((0.12, 0.52, 0.92))]
    found = differences([*base, *variant, row(5, "variant", 0.0)], "variant", "base", ACCURACY)
    assert found is not None
    assert (found.count, show(found, ACCURACY, signed=True)) == (3, "+2.00 ± 0.00")
    assert differences(base, "variant", "base", ACCURACY) is None


def test_a_table_is_aligned_markdown() -> None:
    lines = table(["a", "long title"], [["x", "1"], ["yyyyyy", "22"]]).splitlines()
    assert lines[1] == "| ------ | ---------: |"
    assert len({len(line) for line in lines}) == 1
