"""Label Studio ⇄ Parquet on a real server, each figure beside what a bare client, disk or Parquet takes for the same.

    python -m benchmarks.data_plane --tasks 1000 10000 60000 --memory 1000 10000 100000 --postgres 10000
    python -m benchmarks.data_plane --report benchmarks/results/data_plane.parquet

Starts a Label Studio of its own in a temporary folder, fills projects by import, and reads them: every door of the
server with a bare client, then the product's full pull, pulls after nothing, after 40 edits and after a deletion. Then
questions are pushed, images taken in, and a snapshot's tables written and read. 60,000 tasks take a quarter of an hour.
The server and the pull each want a core: on a machine with other work the ratios say little. The load is noted.
"""

import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.command import finish, parser, positive, results_path, use_threads
from benchmarks.machine import code_line, hardware_line
from benchmarks.plane import ingest, pulling, pushing, tables
from benchmarks.plane.figure import Figure
from benchmarks.plane.projects import fill, make_pictures, serve_pictures
from benchmarks.plane.report import markdown
from benchmarks.plane.server import label_studio
from benchmarks.rows_file import RowsFile, read_file
from fasten_model.errors import DataError
from pipeline.label_studio import LabelStudio

PARTS = ("pull", "push", "images", "tables")
_RESULTS = Path(__file__).parent / "results"
_MOST_ROUNDS = 9


def rounds_for(size: int) -> int:
    """More rounds where they are cheap."""
    return max(1, min(_MOST_ROUNDS, 60_000 // size))


class Run:
    """One run of the command: what is asked for, and where its figures go."""

    def __init__(
        self, *, tasks: Sequence[int], memory: Sequence[int], postgres: Sequence[int], questions: Sequence[int],
        pictures: int, served: int, parts: Sequence[str], results: RowsFile[Figure],
        command: str,
    ) -> None:  # fmt: skip
        self.tasks, self.memory, self.postgres = tasks, memory, postgres
        self.questions, self.pictures, self.served, self.parts = questions, pictures, served, parts
        self._results, self._command = results, command
        self._machine = hardware_line()

    def tell(self, figure: Figure) -> None:
        """Keep a figure, and say that it is there."""
        made = {"command": self._command, "machine": self._machine, "code": code_line(), "load": os.getloadavg()[0]}
        self._results.add(replace(figure, **made))  # type: ignore[arg-type]
        where = f"{figure.server}, {figure.size:,}" if figure.server else f"{figure.size:,}"
        print(f"{figure.part}: {where}, {figure.what}: {figure.spread(3)} s", flush=True)

    def everything(self) -> None:
        """SQLite first, then PostgreSQL."""
        with tempfile.TemporaryDirectory(prefix="data-plane-") as name:
            self._on_sqlite(Path(name))
        if self.postgres and "pull" in self.parts:
            with tempfile.TemporaryDirectory(prefix="data-plane-") as name:
                self._on_postgresql(Path(name))

    def _on_sqlite(self, folder: Path) -> None:
        sizes = sorted({*self.tasks, *self.memory})
        snapshot = None
        with label_studio(folder) as server, LabelStudio(server.config) as door:
            reading = "pull" in self.parts
            if not reading:  # the tables are those of the largest snapshot
                sizes = sizes[-1:] if "tables" in self.parts else []
            make_pictures(server.files, max([self.pictures, *sizes]))
            for size, filled in fill(server, door, sizes).items():
                if not reading:
                    snapshot = Path(pulling.pull_once(server, filled, folder / "once").snapshot)
                    break
                if size in self.tasks:
                    root = pulling.measure_full(server, filled, folder, rounds=rounds_for(size), tell=self.tell)
                else:
                    root = pulling.measure_once(server, filled, folder, tell=self.tell)
                [snapshot] = (root / "snapshots").iterdir()
                pulling.measure_again(server, filled, root, tell=self.tell)
            if "push" in self.parts:
                for count in self.questions:
                    pushing.measure(server, count, rounds=max(3, min(25, 5_000 // count)), tell=self.tell)
            if "images" in self.parts:
                serve_pictures(server, door)
                ingest.measure(server, small=self.pictures, served=self.served, rounds=3, tell=self.tell)
        if snapshot is not None and "tables" in self.parts:
            tables.measure(snapshot, rounds=7, tell=self.tell)

    def _on_postgresql(self, folder: Path) -> None:
        with label_studio(folder, postgresql=True) as server, LabelStudio(server.config) as door:
            make_pictures(server.files, max(self.postgres))
            for size, filled in fill(server, door, self.postgres).items():
                root = pulling.measure_full(server, filled, folder, rounds=rounds_for(size), tell=self.tell)
                pulling.measure_again(server, filled, root, tell=self.tell)


def report(path: Path) -> str:
    """The file's figures as Markdown."""
    return markdown(read_file(path, Figure)[0])


def command_line(arguments: Sequence[str] | None) -> str:
    """As it was typed, but for where the results go."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    kept = [each for at, each in enumerate(typed) if each != "--out" and typed[at - 1 : at] != ["--out"]]
    return shlex.join(["python", "-m", "benchmarks.data_plane", *kept])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or report."""
    made = parser("benchmarks.data_plane", __doc__, device=False)
    made.add_argument("--tasks", type=positive, nargs="*", default=[1000, 10_000, 60_000], help="sizes of projects")
    made.add_argument(
        "--memory", type=positive, nargs="*", default=[], help="further sizes, pulled once for the memory"
    )
    made.add_argument("--postgres", type=positive, nargs="*", default=[], help="sizes tried on PostgreSQL, too")
    made.add_argument("--questions", type=positive, nargs="+", default=[200, 1000, 5000], help="pushed at once")
    made.add_argument("--pictures", type=positive, default=4000, help="images taken in from disk and data: URIs")
    made.add_argument("--served", type=positive, default=300, help="images taken in from S3 and through Label Studio")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    made.add_argument("--out", type=Path, default=_RESULTS / "data_plane", help="name of the results, without its end")
    made.add_argument("--report", type=Path, help="print this results file and measure nothing")
    options = made.parse_args(arguments)
    use_threads(options.threads)
    if options.report:
        print(report(options.report))
        return 0
    if "pull" in options.parts and not (options.tasks or options.memory or options.postgres):
        raise DataError("there is nothing to pull: give --tasks, --memory or --postgres")
    if options.served > options.pictures:
        raise DataError(f"--served {options.served} is more than the {options.pictures} that --pictures makes")
    results = RowsFile(results_path(options.out), Figure, {})
    run = Run(
        tasks=options.tasks, memory=options.memory, postgres=options.postgres, questions=options.questions,
        pictures=options.pictures, served=options.served, parts=options.parts, results=results,
        command=command_line(arguments),
    )  # fmt: skip
    # However it is stopped, the servers end with it; started in the background, a shell lets it ignore ^C.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        run.everything()
    finally:
        if results.path.exists():
            text = report(results.path)
            results.path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    finish(main)
