"""Every step of a pull takes time in proportion to the tasks, and a damaged file is said to be one."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.images.check import ImageError
from pipeline.snapshot.mirror import Mirror
from pipeline.snapshot.mirror.file import TABLES
from pipeline.snapshot.mirror.images import UNSETTLED, WANTED
from pipeline.snapshot.mirror.said import EVERYTHING
from tests.pipeline.snapshot.followed import follow, seven_tasks


@pytest.mark.parametrize("query", [WANTED.format("passing > 0"), UNSETTLED, EVERYTHING])
def test_no_query_scans_the_annotations_for_each_task(query: str) -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(TABLES)
    plan = [row[3] for row in database.execute("EXPLAIN QUERY PLAN " + query, (b"",)[: query.count("?")])]
    database.close()
    assert any("annotation USING PRIMARY KEY (project_id=? AND task_id=?)" in step for step in plan), plan


def test_an_image_that_nobody_needs_any_more_keeps_nothing_open(mirror: Mirror) -> None:
    server = seven_tasks()
    follow(server, mirror)
    silent = ImageError("image host does not answer", "no route", passing=True)
    mirror.set_images([("/data/1.png", silent)], now=datetime(2026, 3, 1, tzinfo=UTC))
    assert mirror.unsettled() == 1
    assert ("/data/1.png", 1) in mirror.failing()
    assert ("/data/1.png", 1) not in mirror.wanted()
    server.delete(1)
    follow(server, mirror)
    assert mirror.unsettled() == 0
    assert list(mirror.failing(everything=True)) == []


def test_whatever_is_asked_of_a_damaged_mirror_is_told_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "mirror.sqlite"
    server = seven_tasks()
    for _ in range(300):
        server.add("cat")
    with Mirror(path) as mirror:
        follow(server, mirror)
    pages = bytearray(path.read_bytes())
    pages[4096 * 2 :] = b"\xa5" * (len(pages) - 4096 * 2)
    path.write_bytes(pages)
    with Mirror(path) as mirror:
        for ask in (
            lambda: mirror.counts(1),
            lambda: list(mirror.listed(1)),
            lambda: list(mirror.wanted()),
            lambda: list(mirror.samples()),
            mirror.annotators,
        ):
            with pytest.raises(DataError, match=r"is damaged .* remove it: the next pull reads it anew"):
                ask()


def test_a_mirror_that_is_not_this_users_is_no_damage_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(PermissionError, match=r"may this user write there\?.*folder\.sqlite"):
        Mirror(tmp_path / "folder.sqlite")
    with Mirror(tmp_path / "mirror.sqlite") as mirror:
        mirror._database.execute("PRAGMA query_only = ON")  # fails as a file of another user's does
        with pytest.raises(PermissionError, match=r"readonly database"):
            mirror.note("name", "value")
