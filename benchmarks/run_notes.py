"""What a run says on stderr of its rows: which it keeps although they were made elsewhere, and how many failed."""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import code_line, hardware_line
from benchmarks.report import Made, unique
from benchmarks.rows_file import Keyed


def warn_of_kept(path: Path, kept: Sequence[Made], device: str) -> None:
    """One line where some of the rows that `path` has already, and that are not run again, are of another commit or
    machine: their seconds, and perhaps their figures, are not those of the rows that join them now."""
    code, machine = _commit(code_line()), hardware_line(device)
    others = unique(commit for row in kept if (commit := _commit(row.code)) != code)
    said = []
    if others:
        count = sum(_commit(row.code) in others for row in kept)
        said.append(f"{count} of other code ({', '.join(others)}; now {code})")
    if moved := sum(row.machine != machine for row in kept):
        said.append(f"{moved} of another machine, device or version of torch")
    if said:
        print(
            f"warning: {path} keeps {len(kept)} of the rows asked for, {' and '.join(said)}; "
            "to make them anew, remove it or write elsewhere (--out)",
            file=sys.stderr,
        )


def _commit(code: str) -> str:
    return code.split(", ")[0] or "unknown code"


def failed_line(rows: Sequence[Keyed], tables: Path) -> str | None:
    """“2 of 9 rows failed; see “Failed” in a.md”; None where every row has its figures."""
    failed = sum(row.error is not None for row in rows)
    return f"{failed} of {len(rows)} rows failed; see “Failed” in {tables}" if failed else None


def exit_status(rows: Sequence[Keyed], tables: Path) -> int:
    """0, or 1 and that line on stderr."""
    line = failed_line(rows, tables)
    if line is None:
        return 0
    print(line, file=sys.stderr)
    return 1
