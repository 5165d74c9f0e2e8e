"""A snapshot is whole, named by its content, and checked when it is opened."""

import json
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.schema import CLEAN, LABELS, check_columns
from pipeline.snapshot import (
    Latest,
    Snapshot,
    latest_snapshot,
    open_snapshot,
    read_latest,
    write_latest,
)
from pipeline.snapshot import writer as snapshot_writer
from pipeline.snapshot.writer import SnapshotWriter, exclusive_pull

TIME = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
CLASSES = ("cat", "dog")


def noisy(sample_id: str, label: str = "cat") -> dict[str, Any]:
    votes = [{"annotator": "user:1", "label": label}]
    return {"sample_id": sample_id, "image_sha256": "0" * 64, "image_url": "/a", "label": label, "votes": votes}


def clean(sample_id: str, label: str = "cat", provenance: str = "audit", time: datetime = TIME) -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "image_sha256": "1" * 64,
        "image_url": None,
        "label": label,
        "given_label": None,
        "votes": [],
        "provenance": provenance,
        "auditor": "user:9",
        "audited_at": time,
    }


def undecided(sample_id: str, state: str = "disputed") -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "image_sha256": None,
        "image_url": "/e",
        "label": None,
        "votes": [],
        "state": state,
        "answers": [
            {"annotator": "user:1", "answer": "class", "label": "cat"},
            {"annotator": "user:2", "answer": "unusable", "label": None},
        ],
    }


def write(data_dir: Path, rows: list[dict[str, Any]], classes: tuple[str, ...] = CLASSES) -> tuple[Snapshot, bool]:
    with exclusive_pull(data_dir) as folder, SnapshotWriter(folder / "snapshot", classes) as writer:
        for row in rows:
            writer.add("clean" if "provenance" in row else "undecided" if "state" in row else "noisy", row)
        return writer.finish(data_dir, rejected={"image host answered 404": 2}, projects=(), states=())


def test_addresses_that_are_whole_images_end_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_writer, "_LETTERS_IN_GROUP", 100)
    rows = [noisy(f"{number}") | {"image_url": "data:" + "x" * size} for number, size in enumerate((45, 45, 9, 200, 1))]
    snapshot, _ = write(tmp_path, [*rows, clean("c"), undecided("e")])
    with pq.ParquetFile(snapshot.noisy_path) as file:
        assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [2, 2, 1]
    assert pq.read_table(snapshot.noisy_path)["image_url"].to_pylist() == [row["image_url"] for row in rows]


def test_a_snapshot_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [noisy("a"), noisy("b", "dog"), clean("c"), clean("d", "dog", "review"), undecided("e")]
    snapshot, is_new = write(tmp_path, rows)
    assert is_new
    assert snapshot.path == tmp_path / "snapshots" / snapshot.snapshot_id
    assert sorted(file.name for file in snapshot.path.iterdir()) == [
        "clean.parquet",
        "labels.parquet",
        "manifest.json",
        "noisy.parquet",
        "undecided.parquet",
    ]
    again = open_snapshot(snapshot.path)
    assert again == snapshot
    assert again.manifest.rows == {"labels": 0, "noisy": 2, "clean": 2, "undecided": 1}
    assert again.manifest.noisy_per_class == {"cat": 1, "dog": 1}
    assert again.manifest.audit_per_class == {"cat": 1, "dog": 0}
    assert again.manifest.review_per_class == {"cat": 0, "dog": 1}
    assert again.manifest.rejected == {"image host answered 404": 2}
    assert pq.read_table(again.noisy_path).to_pylist() == rows[:2]
    assert pq.read_table(again.clean_path).to_pylist() == rows[2:4]
    assert pq.read_table(again.undecided_path).to_pylist() == rows[4:]
    assert pq.read_schema(again.clean_path).equals(CLEAN)


def test_the_same_content_is_the_same_snapshot_and_writes_nothing(tmp_path: Path) -> None:
    first, _ = write(tmp_path, [noisy("a")])
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in first.path.iterdir()}
    second, is_new = write(tmp_path, [noisy("a")])
    assert (second, is_new) == (first, False)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in first.path.iterdir()} == before
    assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_the_id_of_the_same_rows_is_the_same_in_every_release(tmp_path: Path) -> None:
    """A pull by a newer release must not make other snapshots of what has not changed."""
    rows = [noisy("ä"), noisy("b", "dog"), clean("c"), clean("d", "dog", "review"), undecided("e")]
    assert write(tmp_path, rows)[0].snapshot_id == "d17b6926a4a1a993"


def test_a_time_is_the_same_in_every_zone(tmp_path: Path) -> None:
    elsewhere = TIME.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert write(tmp_path, [clean("a")])[0].snapshot_id == write(tmp_path, [clean("a", time=elsewhere)])[0].snapshot_id


@pytest.mark.parametrize(
    "rows",
    [
        [noisy("a", "dog")],
        [noisy("b")],
        [noisy("a"), noisy("b")],
        [noisy("a"), clean("c")],
        [noisy("a"), undecided("c")],
        [clean("a")],
        [],
        [noisy("a") | {"votes": []}],
        [noisy("a") | {"image_sha256": "2" * 64}],
    ],
)
def test_any_other_content_is_another_snapshot(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert write(tmp_path, [noisy("a")])[0].snapshot_id != write(tmp_path, rows)[0].snapshot_id


def test_the_order_of_classes_is_content(tmp_path: Path) -> None:
    assert write(tmp_path, [noisy("a")])[0].snapshot_id != write(tmp_path, [noisy("a")], ("dog", "cat"))[0].snapshot_id


@given(st.lists(st.tuples(st.text(max_size=5), st.sampled_from(CLASSES)), max_size=4, unique=True))
def test_ids_are_names_of_folders(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    snapshot, _ = write(tmp_path_factory.mktemp("data"), [noisy(sample, label) for sample, label in pairs])
    assert len(snapshot.snapshot_id) == 16
    int(snapshot.snapshot_id, 16)


def test_a_pull_that_fails_leaves_neither_snapshot_nor_staging(tmp_path: Path) -> None:
    def cut_short() -> None:
        with exclusive_pull(tmp_path) as folder, SnapshotWriter(folder / "snapshot", CLASSES) as writer:
            writer.add("noisy", noisy("a"))
            raise RuntimeError("cut short")

    with pytest.raises(RuntimeError, match="cut short"):
        cut_short()
    assert [entry.name for entry in tmp_path.iterdir()] == [".pull.lock"]


def test_what_a_killed_pull_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".staging" / "snapshot").mkdir(parents=True)
    (tmp_path / ".staging" / "snapshot" / "noisy.parquet").write_bytes(b"half")
    snapshot, _ = write(tmp_path, [noisy("a")])
    assert open_snapshot(snapshot.path).manifest.rows["noisy"] == 1
    assert not (tmp_path / ".staging").exists()


def test_two_pulls_into_one_folder_take_turns(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with exclusive_pull(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with exclusive_pull(tmp_path) as folder:
        thread.start()
        waiting.wait()
        (folder / "still mine").touch()
        thread.join(timeout=0.1)
        order.append("first")
        assert (folder / "still mine").exists()
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "noisy.parquet").unlink(), "lacks noisy.parquet"),
        (lambda path: (path / "noisy.parquet").write_bytes(b"PAR1"), "not the file its manifest describes"),
        (lambda path: (path / "manifest.json").unlink(), "not a snapshot"),
        (lambda path: (path / "manifest.json").write_text("{"), "damaged"),
        (lambda path: (path / "manifest.json").write_text("[]"), "damaged"),
        (lambda path: edit(path, schema_version=99), "schema version 99"),
        (lambda path: edit(path, snapshot_id="../../etc"), "no snapshot id"),
        (lambda path: edit(path, rows={"labels": 0, "noisy": 5, "clean": 0, "undecided": 0}), "1 rows"),
        (lambda path: edit(path, classes="cat"), "classes"),
    ],
)
def test_a_damaged_snapshot_is_one_clear_line(tmp_path: Path, damage: Any, message: str) -> None:
    snapshot, _ = write(tmp_path, [noisy("a")])
    damage(snapshot.path)
    with pytest.raises(DataError, match=message) as caught:
        open_snapshot(snapshot.path)
    assert "\n" not in str(caught.value)


def edit(path: Path, **values: Any) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_damaged_snapshot_is_replaced_by_the_next_pull(tmp_path: Path) -> None:
    snapshot, _ = write(tmp_path, [noisy("a")])
    (snapshot.path / "noisy.parquet").write_bytes(b"half")
    again, is_new = write(tmp_path, [noisy("a")])
    assert is_new
    assert open_snapshot(again.path) == again
    assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_latest_is_the_snapshot_that_was_pointed_at(tmp_path: Path) -> None:
    assert latest_snapshot(tmp_path) is None
    first, _ = write(tmp_path, [noisy("a")])
    write_latest(tmp_path, Latest(snapshot_id=first.snapshot_id))
    second, _ = write(tmp_path, [noisy("b")])
    assert latest_snapshot(tmp_path) == first
    assert second.manifest.parent == first.snapshot_id
    write_latest(tmp_path, Latest(snapshot_id=second.snapshot_id))
    assert latest_snapshot(tmp_path) == second


@pytest.mark.parametrize("text", ["", "{}", '{"snapshot_id": "../../../etc"}', '{"snapshot_id": 7}', "\xff"])
def test_a_damaged_pointer_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "latest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="pull again"):
        read_latest(tmp_path)


def test_columns_that_differ_are_named(tmp_path: Path) -> None:
    snapshot, _ = write(tmp_path, [clean("a")])
    with pytest.raises(DataError, match="no column 'project_id'"):
        check_columns(snapshot.clean_path, LABELS)
    table = pq.read_table(snapshot.clean_path)
    pq.write_table(table.set_column(3, "label", table["provenance"].cast("large_string")), tmp_path / "odd.parquet")
    with pytest.raises(DataError, match="column 'label' is large_string, expected string"):
        check_columns(tmp_path / "odd.parquet", CLEAN)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        check_columns(tmp_path / "gone.parquet", CLEAN)
