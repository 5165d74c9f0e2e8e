"""Full and incremental pulls of a filled project, held against the bare reads of the same one."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from statistics import median

import pyarrow.parquet as pq

from benchmarks.plane.doors import Wire, doors_for
from benchmarks.plane.figure import Figure
from benchmarks.plane.projects import CLASSES, Filled, answer
from benchmarks.plane.pull_process import TOKEN, Pulled
from benchmarks.plane.server import Server
from fasten_model.errors import DataError

EDITED = 40
_ROUNDS_OF_ALL = 3
WITH_IMAGES = "pull, with its images from disk"
LABELS_ONLY = "pull, images there already"
UNCHANGED, CHANGED, DELETED = "nothing changed", f"{EDITED} answers changed", "one task deleted"
Tell = Callable[[Figure], None]


def pull_once(server: Server, filled: Filled, root: Path) -> Pulled:
    """One pull into `root` in a process of its own."""
    asked = {"url": server.url, "project_id": filled.project_id, "root": str(root), "files": str(server.files)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plane.pull_process"],
        input=json.dumps(asked),
        env={**os.environ, TOKEN: server.token},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DataError(f"the pull of {filled.size} tasks failed: {done.stderr.strip()[-500:]}")
    return Pulled(**json.loads(done.stdout))


def read_bare(server: Server, filled: Filled, name: str) -> tuple[float, Wire]:
    """(seconds, what came) of one bare read."""
    with server.bare() as client:
        wire = Wire(client)
        started = time.perf_counter()
        doors_for(filled.size)[name](wire, filled)
        return time.perf_counter() - started, wire


def measure_full(server: Server, filled: Filled, folder: Path, *, rounds: int, tell: Tell) -> Path:
    """Every door and both kinds of full pull, each round in another order; → the folder of the last pull with images.

    Nobody is read in the wake of the same one every time: the server is not as fast after every request. After
    `_ROUNDS_OF_ALL` only the two doors that were fastest until then go on. The fastest one is read once more at the
    end: of a single round the machine's mood would decide.
    """
    pulls = _Pulls(server, filled, folder)
    times: dict[str, list[float]] = {name: [] for name in (*doors_for(filled.size), WITH_IMAGES, LABELS_ONLY)}
    wires: dict[str, Wire] = {}
    order = Random(filled.size)

    def fastest(count: int) -> list[str]:
        return sorted(doors_for(filled.size), key=lambda name: median(times[name]))[:count]

    for number in range(rounds):
        doors = list(doors_for(filled.size)) if number < _ROUNDS_OF_ALL else fastest(2)
        turns = order.sample([*doors, WITH_IMAGES, LABELS_ONLY], len(doors) + 2)
        if not number:  # the first images are fetched before a pull has them already
            turns.sort(key=LABELS_ONLY.__eq__)
        for name in turns:
            if name in doors:
                seconds, wires[name] = read_bare(server, filled, name)
            else:
                seconds = pulls.one_more(name)
            times[name].append(seconds)
    for name in fastest(1):
        times[name].append(read_bare(server, filled, name)[0])
    for name, wire in wires.items():
        tell(
            Figure(
                part="doors", server=server.database, size=filled.size, what=name, seconds=times[name],
                requests=wire.requests, received=wire.received,
            )
        )  # fmt: skip
    for name, pulled in pulls.last.items():
        tell(figure(server, filled, "pull", name, pulled, times[name]))
    return pulls.root


class _Pulls:
    """Full pulls, each into a folder of its own."""

    def __init__(self, server: Server, filled: Filled, folder: Path) -> None:
        self._server, self._filled, self._folder, self._count = server, filled, folder, 0
        self.root = folder
        """Of the last pull with images."""
        self.last: dict[str, Pulled] = {}
        """By kind."""

    def one_more(self, name: str) -> float:
        """The seconds of a pull of one kind."""
        self._count += 1
        root = self._folder / f"{self._filled.size}-{self._count}"
        if name == WITH_IMAGES:
            self.root = root
        else:
            root.mkdir()
            shutil.copytree(self.root / "images", root / "images")
        self.last[name] = _full(self._server, self._filled, root, images=self._filled.size)
        return self.last[name].seconds


def _full(server: Server, filled: Filled, root: Path, *, images: int) -> Pulled:
    pulled = pull_once(server, filled, root)
    got = (pulled.samples, pulled.rejected, pulled.images, pulled.is_new)
    if got != (filled.size, 0, images, True):
        raise DataError(f"a pull of {filled.size} tasks gave {got} (samples, rejected, images asked for, new)")
    return pulled


def measure_once(server: Server, filled: Filled, folder: Path, *, tell: Tell) -> Path:
    """One full pull with images, for its memory."""
    root = folder / f"{filled.size}-0"
    pulled = _full(server, filled, root, images=filled.size)
    tell(figure(server, filled, "pull", WITH_IMAGES, pulled, [pulled.seconds]))
    return root


def measure_again(server: Server, filled: Filled, root: Path, *, tell: Tell) -> None:
    """Pulls after nothing, a few edits and a deleted task. The project is a task smaller afterwards."""
    rounds = [pull_once(server, filled, root) for _ in range(3)]
    if any(each.is_new or each.images for each in rounds):
        raise DataError("a pull of an unchanged project made a snapshot or asked for images")
    times = [each.seconds for each in rounds]
    note = "no image asked for, no snapshot written"
    tell(figure(server, filled, "again", UNCHANGED, rounds[-1], times, note=note))
    labels = pq.read_table(Path(rounds[-1].snapshot) / "labels.parquet", columns=["task_id", "annotation_id", "label"])
    some = labels.take(list(range(0, filled.size, max(1, filled.size // EDITED)))[:EDITED]).to_pylist()
    with server.bare() as client:
        for row in some:
            label = CLASSES[(CLASSES.index(row["label"]) + 1) % len(CLASSES)]
            client.patch(f"/api/annotations/{row['annotation_id']}/", json=answer(label)).raise_for_status()
        changed = pull_once(server, filled, root)
        after = pq.read_table(Path(changed.snapshot) / "labels.parquet", columns=["annotation_id", "label"]).to_pylist()
        before = dict(zip(labels["annotation_id"].to_pylist(), labels["label"].to_pylist(), strict=True))
        moved = sum(before[row["annotation_id"]] != row["label"] for row in after)
        if moved != len(some) or not changed.is_new:
            raise DataError(f"{len(some)} answers were changed, the pull found {moved}")
        note = f"{len(some)} other labels in the new snapshot, {changed.images} images asked for"
        tell(figure(server, filled, "again", CHANGED, changed, [changed.seconds], note=note))
        client.delete(f"/api/tasks/{some[0]['task_id']}/").raise_for_status()
    deleted = pull_once(server, filled, root)
    if deleted.samples != filled.size - 1:
        raise DataError(f"a task was deleted; the pull has {deleted.samples} of {filled.size} samples")
    tell(figure(server, filled, "again", DELETED, deleted, [deleted.seconds], note="found by halving ranges of ids"))


def figure(
    server: Server, filled: Filled, part: str, what: str, pulled: Pulled, seconds: list[float], *, note: str = ""
) -> Figure:
    """A pull's row."""
    return Figure(
        part=part, server=server.database, size=filled.size, what=what, seconds=seconds, note=note,
        **{
            name: value
            for name, value in asdict(pulled).items()
            if name in ("requests", "received", "peak_mib", "start_mib", "tail_s")
        },
    )  # fmt: skip
