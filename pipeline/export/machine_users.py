"""Which users of Label Studio are machines: what they say is nobody's vote.

`<workspace>/machine_users.json` lists them. The pull leaves their annotations out; else the model would learn from
itself, as if people had agreed with it.
"""

import json

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, DataError
from pipeline.snapshot import Snapshot
from pipeline.trail import people_rows
from pipeline.workspace import Workspace, write_whole


def machine_users(workspace: Workspace) -> frozenset[str]:
    """The users (`user:7`) that are machines; raises `DataError` where the list cannot be read."""
    path = workspace.folder / "machine_users.json"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(f'{path} is damaged: list the machine users in it, such as ["user:7"]')
    return frozenset(found)


def declare_machine(workspace: Workspace, snapshot: Snapshot, annotator: str, *, dry_run: bool = False) -> None:
    """Note that `annotator` is a machine; with `dry_run`, only see whether it could be.

    Raises `ConfigError` where that user has ever answered anything as a person: those answers would be lost.
    """
    known = machine_users(workspace)
    if annotator in known:
        return
    answered = pc.any(pc.equal(pq.read_table(snapshot.labels_path, columns=["annotator"])["annotator"], annotator))
    if answered.as_py() or any(row["annotator"] == annotator for row in people_rows(workspace)):
        raise ConfigError(
            f"{annotator} has answered as a person, and what a machine says is not counted: invite a user to Label "
            "Studio that nobody works as, and name that one"
        )
    if not dry_run:
        write_whole(workspace.folder / "machine_users.json", json.dumps(sorted({*known, annotator})).encode())
