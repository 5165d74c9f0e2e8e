"""Corrected labels, put down on disk to be taken up again in the order in which the images are stored.

Labels come by sample, images by the part they were fetched into. Looking every image up by its sample would read each
part many times over; so the labels, which are small, are looked up by image, in a SQLite file that goes when it is
closed.
"""

import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any

_TABLE = """
CREATE TABLE label (sample_id TEXT PRIMARY KEY, sha256 TEXT, changed INT, row TEXT, soft_label BLOB) WITHOUT ROWID;
CREATE INDEX by_image ON label (sha256, sample_id);
"""


class LabelsOnDisk:
    """The rows of `pipeline.corrected.corrected_rows`, by sample and by image. Close it after use."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.executescript(_TABLE)
        self._database.executemany("INSERT INTO label VALUES (?, ?, ?, ?, ?)", map(_packed, rows))

    def close(self) -> None:
        self._database.close()

    def hashes(self) -> Iterator[str]:
        """Every image, once."""
        with closing(self._database.execute("SELECT DISTINCT sha256 FROM label ORDER BY sha256")) as found:
            yield from (str(sha256) for (sha256,) in found)

    def of_image(self, sha256: str) -> list[dict[str, Any]]:
        """The rows of all samples that show this image."""
        query = "SELECT row, soft_label FROM label WHERE sha256 = ? ORDER BY sample_id"
        return [_unpacked(*found) for found in self._database.execute(query, (sha256,))]

    def of_sample(self, sample_id: str) -> dict[str, Any] | None:
        """The row of one sample; None where no label is handed out for it."""
        query = "SELECT row, soft_label FROM label WHERE sample_id = ?"
        found = self._database.execute(query, (sample_id,)).fetchone()
        return None if found is None else _unpacked(*found)

    def is_changed(self, sample_id: str) -> bool:
        """Whether the sample's label is another than the given one."""
        query = "SELECT 1 FROM label WHERE sample_id = ? AND changed"
        return self._database.execute(query, (sample_id,)).fetchone() is not None


def _packed(row: Mapping[str, Any]) -> tuple[str, str, bool, str, bytes]:
    rest = {name: value for name, value in row.items() if name != "soft_label"}
    text = json.dumps(rest, default=datetime.isoformat)
    changed = row["given_label"] not in (None, row["label"])
    return row["sample_id"], row["image_sha256"], changed, text, array("f", row["soft_label"]).tobytes()


def _unpacked(text: str, soft_label: bytes) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(text)
    if row["decided_at"] is not None:
        row["decided_at"] = datetime.fromisoformat(row["decided_at"])
    return row | {"soft_label": array("f", soft_label).tolist()}
