"""Every step of a pull takes time in proportion to the tasks."""

import sqlite3

import pytest

from pipeline.snapshot.mirror.file import TABLES
from pipeline.snapshot.mirror.images import WANTED
from pipeline.snapshot.mirror.said import EVERYTHING


@pytest.mark.parametrize("query", [WANTED, EVERYTHING])
def test_no_query_scans_the_annotations_for_each_task(query: str) -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(TABLES)
    plan = [row[3] for row in database.execute("EXPLAIN QUERY PLAN " + query, (b"", False) if "?" in query else ())]
    database.close()
    assert "SEARCH annotation USING PRIMARY KEY (project_id=? AND task_id=?)" in plan
