"""Labelled images: from a snapshot and its images, and from two inline files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fasten_model.labelled import UNKNOWN
from fasten_model.labelled_files import load_files
from pipeline.errors import DataError
from pipeline.images.check import VerifiedImage
from pipeline.images.store import ImageStore
from pipeline.schema import CLEAN, LABELS, NOISY
from pipeline.snapshot import Snapshot
from pipeline.training_data import load_clean, load_noisy

if TYPE_CHECKING:
    from tests.pipeline.conftest import Row

WriteSamples = Callable[..., Path]
MakeSquares = Callable[..., "list[Row]"]
CLASSES = ("grey", "bright", "dark")
SHA = {name: f"{number:064x}" for number, name in enumerate("abcx")}


@dataclass(frozen=True)
class FewRows:
    """As much of a snapshot as loading it needs."""

    noisy_path: Path
    clean_path: Path
    labels_path: Path
    classes: tuple[str, ...] = CLASSES


@pytest.fixture
def store(tmp_path: Path, make_squares: MakeSquares) -> Iterator[ImageStore]:
    """Images a, b and c (bright, dark, grey), and x, which does not decode."""
    squares = [image for _, image, _ in make_squares("s", 3)]
    with ImageStore(tmp_path) as writer:
        for name, data in zip("abcx", (*squares, b"\x89PNG\r\n\x1a\nbroken"), strict=True):
            assert data is not None
            writer.add(f"/{name}.png", VerifiedImage(data=data, sha256=SHA[name], width=8, height=8, format="PNG"))
    with ImageStore(tmp_path) as reader:
        yield reader


def snapshot(folder: Path, noisy: list[dict[str, Any]], clean: list[dict[str, Any]]) -> Snapshot:
    plain = {"votes": [], "image_url": "/", "auditor": "1", "audited_at": datetime(2026, 1, 1, tzinfo=UTC)}
    for name, rows, schema in (("noisy", noisy, NOISY), ("clean", clean, CLEAN)):
        full = [{key: (plain | row).get(key) for key in schema.names} for row in rows]
        pq.write_table(pa.Table.from_pylist(full, schema=schema), folder / f"{name}.parquet")
    return cast(Snapshot, FewRows(folder / "noisy.parquet", folder / "clean.parquet", folder / "labels.parquet"))


def test_noisy_rows_carry_their_own_image_and_label_and_estimate_nothing(tmp_path: Path, store: ImageStore) -> None:
    rows = [
        {"sample_id": "1", "image_sha256": SHA["b"], "label": "dark"},
        {"sample_id": "2", "image_sha256": SHA["a"], "label": "grey"},
        {"sample_id": "3", "image_sha256": SHA["b"], "label": "bright"},
    ]
    noisy = load_noisy(snapshot(tmp_path, rows, []), store, size=8)
    assert noisy.sample_ids == ("1", "2", "3")
    assert noisy.labels.tolist() == [2, 0, 1]
    assert isinstance(noisy.images, torch.Tensor)
    dark, bright, also_dark = noisy.images.float().mean(dim=(1, 2, 3)).tolist()
    assert dark == also_dark < 100 < bright
    assert not noisy.estimates.any()
    assert noisy.given_labels.tolist() == [UNKNOWN] * 3


def test_clean_rows_know_what_was_said_before_and_whether_they_may_estimate(tmp_path: Path, store: ImageStore) -> None:
    rows: list[dict[str, Any]] = [
        {"sample_id": "1", "image_sha256": SHA["a"], "label": "bright", "given_label": "dark", "provenance": "audit"},
        {"sample_id": "2", "image_sha256": SHA["b"], "label": "dark", "given_label": None, "provenance": "audit"},
        {"sample_id": "3", "image_sha256": SHA["c"], "label": "grey", "given_label": "grey", "provenance": "review"},
    ]
    clean = load_clean(snapshot(tmp_path, [], rows), store, size=8)
    assert clean.labels.tolist() == [1, 2, 0]
    assert clean.given_labels.tolist() == [2, UNKNOWN, 0]
    assert clean.estimates.tolist() == [True, True, False]


def test_a_draw_counts_as_early_and_a_review_as_late_as_can_be(tmp_path: Path, store: ImageStore) -> None:
    asked: dict[str, list[tuple[str, str | None, str | None]]] = {
        "audited": [("audit", None, None)],
        "slice": [("review", "audit", "second")],
        "slice, then a tie-break": [("review", "audit", "first"), ("review", "tie_break", "second")],
        "slice, and audited": [("review", "audit", "second"), ("audit", None, None)],
        "slice of a forgotten run": [("review", "audit", "gone")],
        "review": [("review", "targeted", "first")],
        "review, then a tie-break": [("review", "targeted", "first"), ("review", "tie_break", "second")],
        "review of a forgotten run": [("review", "targeted", "gone")],
    }
    image = {"image_sha256": SHA["a"], "label": "dark"}
    rows = [
        {**image, "sample_id": name, "provenance": "review" if name.startswith("review") else "audit"} for name in asked
    ]
    loaded = snapshot(tmp_path, [], rows)
    when = {"created_at": datetime(2026, 1, 1, tzinfo=UTC), "updated_at": datetime(2026, 1, 1, tzinfo=UTC)}
    plain = {"project_id": 1, "task_id": 1, "annotation_id": 1, "annotator": "1", "answer": "class", **when}
    labels = [
        {**plain, "sample_id": name, "origin": origin, "asked_as": asked_as, "asked_by_run": run,
         "ground_truth": origin == "review", "was_cancelled": False}
        for name, questions in asked.items()
        for origin, asked_as, run in questions
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(labels, schema=LABELS), loaded.labels_path)
    clean = load_clean(loaded, store, size=8, runs=["first", "second"])
    assert clean.asked_in is not None
    assert clean.asked_in.tolist() == [0, 2, 1, 0, 0, 1, 2, 3]
    assert load_clean(loaded, store, size=8).asked_in is None


def test_rows_whose_image_does_not_decode_are_left_out_and_counted(
    tmp_path: Path, store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"sample_id": "1", "image_sha256": SHA["x"], "label": "dark"},
        {"sample_id": "2", "image_sha256": SHA["c"], "label": "grey"},
        {"sample_id": "3", "image_sha256": SHA["x"], "label": "grey"},
    ]
    noisy = load_noisy(snapshot(tmp_path, rows, []), store, size=8)
    assert (noisy.sample_ids, noisy.labels.tolist(), len(noisy.images)) == (("2",), [0], 1)
    assert "2 of 3 samples of noisy.parquet are left out" in caplog.text


def test_images_kept_for_all_snapshots_are_those_decoded_each_time(
    tmp_path: Path, store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"sample_id": str(n), "image_sha256": SHA[name], "label": "grey"} for n, name in enumerate("bxab")]
    plain = load_noisy(snapshot(tmp_path, rows, []), store, size=8)
    caplog.clear()
    for _ in range(2):
        kept = load_noisy(snapshot(tmp_path, rows, []), store, size=8, cache=tmp_path / "decoded")
        assert not isinstance(kept.images, torch.Tensor)
        assert isinstance(plain.images, torch.Tensor)
        assert kept.sample_ids == plain.sample_ids == ("0", "2", "3")
        assert torch.equal(kept.images.take(torch.arange(3)), plain.images)
    assert caplog.text.count("1 of 4 samples of noisy.parquet are left out") == 2


def test_an_image_of_an_earlier_snapshot_is_not_fetched_again(tmp_path: Path, store: ImageStore) -> None:
    first = [{"sample_id": "1", "image_sha256": SHA["a"], "label": "grey"}]
    load_noisy(snapshot(tmp_path, first, []), store, size=8, cache=tmp_path / "decoded")
    asked: list[set[str]] = []

    class Watched:
        def iter_images(self, hashes: list[str]) -> Iterator[tuple[str, bytes]]:
            asked.append(set(hashes))
            return store.iter_images(hashes)

    second = [*first, {"sample_id": "2", "image_sha256": SHA["b"], "label": "grey"}]
    clean = [row | {"provenance": "audit"} for row in second]
    watched = cast(ImageStore, Watched())
    noisy_set = load_noisy(snapshot(tmp_path, second, clean), watched, size=8, cache=tmp_path / "decoded")
    clean_set = load_clean(snapshot(tmp_path, second, clean), watched, size=8, cache=tmp_path / "decoded")
    assert asked == [{SHA["b"]}]
    assert noisy_set.images.shape == clean_set.images.shape == (2, 3, 8, 8)
    assert noisy_set.at(torch.tensor([False, True])).images.shape == (1, 3, 8, 8)


def test_a_snapshot_without_its_images_is_damaged(tmp_path: Path, store: ImageStore) -> None:
    rows: list[dict[str, Any]] = [{"sample_id": "1", "image_sha256": "f" * 64, "label": "dark"}]
    with pytest.raises(DataError, match="pull again"):
        load_noisy(snapshot(tmp_path, rows, []), store, size=8)


def test_an_empty_snapshot_gives_empty_sets(tmp_path: Path, store: ImageStore) -> None:
    empty = snapshot(tmp_path, [], [])
    for loaded in (load_noisy(empty, store, size=8), load_clean(empty, store, size=8)):
        assert len(loaded) == 0
        assert loaded.images.shape == (0, 3, 8, 8)
    assert load_noisy(empty, store, size=8, cache=tmp_path / "decoded").images.shape == (0, 3, 8, 8)


def test_classes_are_the_clean_files_then_those_that_only_the_noisy_file_has(
    tmp_path: Path, write_samples: WriteSamples, make_squares: MakeSquares
) -> None:
    image = make_squares("s", 1)[0][1]
    clean = write_samples(tmp_path / "c", [("1", image, "dog"), ("2", image, "ant")], given=["bee", None])
    noisy = write_samples(tmp_path / "n", [("3", image, "cat"), ("4", image, "dog"), ("5", image, "ant")])
    noisy_set, clean_set, classes = load_files(clean, noisy, size=8)
    assert classes == ("ant", "bee", "dog", "cat")
    assert noisy_set.labels.tolist() == [3, 2, 0]
    assert clean_set.labels.tolist() == [2, 0]
    assert clean_set.given_labels.tolist() == [1, UNKNOWN]
    assert clean_set.estimates.all()


def test_a_sample_in_both_files_is_audited_and_was_given_what_the_noisy_file_says(
    tmp_path: Path, write_samples: WriteSamples, make_squares: MakeSquares, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    image = make_squares("s", 1)[0][1]
    rows = [("1", image, "ant"), ("2", image, "bee"), ("3", image, "ant")]
    clean = write_samples(tmp_path / "c", rows, given=[None, "ant", None])
    noisy = write_samples(tmp_path / "n", [("1", image, "bee"), ("2", image, "bee"), ("9", image, "ant")])
    noisy_set, clean_set, _ = load_files(clean, noisy, size=8)
    assert noisy_set.sample_ids == ("9",)
    assert clean_set.given_labels.tolist() == [1, 0, UNKNOWN]
    assert "2 samples are in both files" in caplog.text


def test_only_the_commonest_reasons_are_told_and_the_rest_counted(
    tmp_path: Path, write_samples: WriteSamples, make_squares: MakeSquares, caplog: pytest.LogCaptureFixture
) -> None:
    image = make_squares("s", 1)[0][1]
    odd: list[Row] = [(f"odd-{i}", f"no image {i}".encode(), "ant") for i in range(4)]
    odd += [(f"odd-{i}", bytes([i]) * 9, "ant") for i in range(4, 9)]
    odd += [("same", b"nothing", "ant"), ("other", b"nothing", "ant")]
    clean = write_samples(tmp_path / "c", [("1", image, "ant"), ("2", image, "bee")])
    noisy = write_samples(tmp_path / "n", [("3", image, "ant"), *odd])
    noisy_set, _, _ = load_files(clean, noisy, size=8)
    assert noisy_set.sample_ids == ("3",)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].endswith("n: 11 of 12 rows are left out")
    assert len(lines) == 7
    assert lines[1].startswith("  4: "), "the commonest first"
    assert lines[-1] == "  and more for 2 other reasons"


def test_votes_of_both_sets_have_the_same_columns(tmp_path: Path, store: ImageStore) -> None:
    def votes(**said: str) -> list[dict[str, str]]:
        return [{"annotator": name, "label": label} for name, label in said.items()]

    noisy: list[dict[str, Any]] = [
        {"sample_id": str(n), "image_sha256": SHA["a"], "label": "dark", "votes": votes(ann="dark", bob="grey")}
        for n in range(30)
    ]
    noisy += [{"sample_id": "odd", "image_sha256": SHA["x"], "label": "dark", "votes": votes(ann="bright")}]
    row: dict[str, Any] = {"image_sha256": SHA["b"], "label": "dark", "provenance": "audit"}
    clean = [
        row | {"sample_id": "30", "votes": votes(bob="bright", cyd="grey")},
        row | {"sample_id": "31", "votes": []},
    ]
    loaded = snapshot(tmp_path, noisy, clean)
    noisy_set, clean_set = load_noisy(loaded, store, size=8), load_clean(loaded, store, size=8)
    assert noisy_set.annotators == clean_set.annotators == ("ann", "bob", "others/1")
    assert noisy_set.votes is not None
    assert noisy_set.votes.tolist() == [[2, 0, UNKNOWN]] * 30, "the image that does not decode takes its votes along"
    assert clean_set.votes is not None
    assert clean_set.votes.tolist() == [[UNKNOWN, 1, 0], [UNKNOWN] * 3]
