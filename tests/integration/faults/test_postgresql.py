"""Label Studio on PostgreSQL: everything comes as from the same entries in SQLite."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.plane.postgresql import postgres
from pipeline.stack.install import LabelStudioInstall
from tests.integration.conftest import REPOSITORY
from tests.integration.faults.bench import QUEUE, Bench
from tests.integration.faults.changes import people_work
from tests.integration.faults.commands import Commands
from tests.integration.faults.server import KillableServer, killable
from tests.integration.faults.world import World, complete_round, queued

OF_THE_SERVER = {
    "project_id", "task_id", "annotation_id", "annotator", "created_at", "updated_at", "auditor", "audited_at"
}  # fmt: skip
"""What two servers cannot have in common."""


@pytest.fixture(scope="module")
def on_postgresql(
    label_studio_install: LabelStudioInstall, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KillableServer]:
    """A server whose tables are in PostgreSQL."""
    with (
        postgres(label_studio_install, REPOSITORY / ".fasten" / "cache") as database,
        killable(label_studio_install, tmp_path_factory.mktemp("on-postgresql"), database.environment) as server,
    ):
        # The file that Label Studio is started with elsewhere: nothing can come from it.
        (server.data_dir / "label_studio.sqlite3").unlink()
        yield server


def content(bench: Bench, home: Path) -> dict[str, list[Any]]:
    """Every table without what is the server's own."""
    snapshot = bench.world.snapshot(home)
    found: dict[str, list[Any]] = {}
    for name in ("labels", "noisy", "clean", "undecided"):
        rows = pq.read_table(snapshot.path / f"{name}.parquet").to_pylist()
        for row in rows:
            for vote in row.get("votes", ()):
                vote["annotator"] = vote["annotator"] == f"user:{bench.world.people[0]}"
        bare = [{key: value for key, value in row.items() if key not in OF_THE_SERVER} for row in rows]
        found[name] = sorted(bare, key=repr)
    return found


def test_postgresql_gives_what_sqlite_gives(
    on_postgresql: KillableServer, mortal: KillableServer, fasten: Commands, tmp_path: Path
) -> None:
    mortal.start()
    told: list[list[dict[str, list[Any]]]] = []
    for server in (on_postgresql, mortal):
        with server.door() as door:
            bench = Bench(World(server, door, name="twins"), fasten, tmp_path / str(len(told)))
            home = bench.home()
            bench.complete("pull", home)
            full = content(bench, home)
            people_work(bench.world, door)
            bench.complete("pull", home)
            changed = content(bench, home)
            complete_round(bench.world, home)
            bench.complete("push", home, title="twins, review")
            assert len(queued(bench.world, home, door, "twins, review").tasks) == QUEUE
            told.append([full, changed])
    assert told[0] == told[1]
    assert told[0][0] != told[0][1]
    shutil.rmtree(tmp_path)
