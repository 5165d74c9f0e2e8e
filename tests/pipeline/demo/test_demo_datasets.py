import gzip
import io
import json
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.demo.datasets import FASHION_CLASSES, DemoDataset, load_dataset
from pipeline.demo.image_files import extension, png
from pipeline.demo.image_rows import read_images
from pipeline.demo.sampling import generator
from pipeline.errors import DataError


def _png(value: int) -> bytes:
    return png(np.full((4, 4), value % 256, dtype=np.uint8))


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.size


def _places(dataset: DemoDataset) -> Counter[str | None]:
    return Counter(sample.audit for sample in dataset.samples)


@pytest.fixture(scope="module")
def digits() -> DemoDataset:
    return load_dataset("digits")


def test_digits_are_1400_tasks_200_of_them_audited_and_397_held_out(digits: DemoDataset) -> None:
    assert len(digits.samples) == 1_400
    assert len(digits.held_out) == 397
    assert _places(digits) == {"project": 100, "annotation": 100, None: 1_200}
    assert digits.classes == tuple("0123456789")
    assert digits.annotators == 3
    assert len({sample.sample_id for sample in digits.samples}) == 1_400


def test_digits_can_be_read_by_a_person(digits: DemoDataset) -> None:
    assert {_size(image) for image in (digits.samples[0].image, digits.held_out[0].image)} == {(128, 128)}


def test_no_held_out_digit_is_labelled(digits: DemoDataset) -> None:
    # The set has a few pairs of equal images; by position nothing is shared.
    assert len({sample.sample_id for sample in digits.samples}) + len(digits.held_out) == 1_797


def test_about_three_in_ten_labels_of_the_digits_are_wrong(digits: DemoDataset) -> None:
    wrong = [sample.votes[-1].label != sample.truth for sample in digits.samples]
    assert 0.27 < np.mean(wrong) < 0.33


def test_the_limit_keeps_what_is_held_out_and_the_audits_grow_with_the_tasks(digits: DemoDataset) -> None:
    small = load_dataset("digits", limit=300)
    assert len(small.samples) == 300
    assert _places(small) == {"project": 25, "annotation": 25, None: 250}
    assert small.held_out == digits.held_out


def test_a_data_set_depends_on_the_seed_alone(digits: DemoDataset) -> None:
    few = load_dataset("digits", limit=20, seed=1)
    assert load_dataset("digits", limit=20, seed=1) == few
    assert few.samples != digits.samples[:20]


def _write_idx(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
        file.write(header + array.tobytes())


def _fashion(root: Path, *, suffix: str = ".gz") -> Path:
    for part, count in (("train", 120), ("t10k", 30)):
        _write_idx(root / f"{part}-images-idx3-ubyte{suffix}", np.zeros((count, 28, 28), dtype=np.uint8))
        _write_idx(root / f"{part}-labels-idx1-ubyte{suffix}", (np.arange(count) % 10).astype(np.uint8))
    return root


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_read_from_idx_files(tmp_path: Path, suffix: str) -> None:
    dataset = load_dataset("fashion-mnist", root=_fashion(tmp_path, suffix=suffix), limit=100)
    assert (len(dataset.samples), len(dataset.held_out), dataset.native_size) == (100, 30, 28)
    assert dataset.classes == FASHION_CLASSES
    assert _size(dataset.samples[0].image) == (28, 28)
    sample = dataset.samples[0]
    assert sample.truth == FASHION_CLASSES[int(sample.sample_id.rsplit("-", 1)[1]) % 10]


def _flip_type(path: Path) -> None:
    path.write_bytes(b"\0\0\x0d" + path.read_bytes()[3:])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _claim_too_much(path: Path) -> None:
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31))


@pytest.mark.parametrize("damage", [_flip_type, _cut, _lengthen, _claim_too_much, Path.unlink])
def test_a_damaged_idx_file_is_one_line_with_its_name(tmp_path: Path, damage: Any) -> None:
    damage(_fashion(tmp_path, suffix="") / "train-images-idx3-ubyte")
    with pytest.raises(DataError, match="train-images-idx3-ubyte") as error:
        load_dataset("fashion-mnist", root=tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_gzip_is_one_line(tmp_path: Path) -> None:
    _cut(_fashion(tmp_path) / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="not an idx file"):
        load_dataset("fashion-mnist", root=tmp_path)


def _write_rows(path: Path, columns: dict[str, Any], classes: Sequence[str] | str | None = None) -> Path:
    images = columns.get("image") or [{"bytes": _png(i), "path": None} for i in range(len(columns["label"]))]
    table = pa.table({**columns, "image": images})
    if classes is not None:
        text = classes if isinstance(classes, str) else json.dumps(classes)
        table = table.replace_schema_metadata({"classes": text})
    pq.write_table(table, path, row_group_size=16)
    return path


def test_cifar10n_brings_the_labels_of_real_raters(tmp_path: Path) -> None:
    names = ",".join(f"class {i}" for i in range(10))
    truths = [i % 10 for i in range(200)]
    raters: dict[str, Any] = {f"rater_{who}": [who] * 200 for who in (1, 2, 3)}
    _write_rows(tmp_path / "train.parquet", {"label": truths, "clean_label": truths, **raters}, names)
    _write_rows(tmp_path / "test.parquet", {"label": truths, "clean_label": truths}, names)
    dataset = load_dataset("cifar10n", root=tmp_path, limit=140)
    assert (len(dataset.samples), len(dataset.held_out), dataset.annotators) == (140, 200, 3)
    for sample in dataset.samples:
        row = int(sample.sample_id.rsplit("-", 1)[1])
        assert sample.truth == f"class {row % 10}"
        assert sample.image == _png(row)
        assert all(vote.label == f"class {vote.annotator + 1}" for vote in sample.votes)
    assert sum(len(sample.votes) == 2 for sample in dataset.samples) == 35


def _own_files(root: Path, *, clean_rows: int = 40, noisy_rows: int = 100) -> dict[str, Any]:
    noisy = {
        "sample_id": [f"n{i}" for i in range(noisy_rows)],
        "label": ["cat", "dog"] * (noisy_rows // 2),
        "true_label": ["cat"] * noisy_rows,
    }
    clean = {
        "sample_id": ["n0", *(f"c{i}" for i in range(1, clean_rows))],
        "label": ["dog", *(["cat", "dog"] * clean_rows)[1:clean_rows]],
        "given_label": [None, *["dog"] * (clean_rows - 1)],
    }
    return {
        "clean": _write_rows(root / "clean.parquet", clean),
        "noisy": _write_rows(root / "noisy.parquet", noisy),
    }


def test_own_files_clean_rows_are_audited_and_keep_what_was_given(tmp_path: Path) -> None:
    dataset = load_dataset("parquet", **_own_files(tmp_path), limit=1_000)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.held_out) == 10
    audited = {sample.sample_id: sample for sample in dataset.samples if sample.audited}
    assert len(audited) == 30
    assert _places(dataset) == {"project": 15, "annotation": 15, None: 99}
    assert all(s.votes[0].label == "dog" for sample_id, s in audited.items() if sample_id != "n0")
    assert len(dataset.samples) == 129, "n0 is in both files, and is one sample"


def test_own_files_a_clean_row_takes_its_given_label_from_the_noisy_file(tmp_path: Path) -> None:
    paths = _own_files(tmp_path, clean_rows=2)  # too few to hold any out
    audited = {s.sample_id: s for s in load_dataset("parquet", **paths).samples if s.audited}
    assert audited["n0"].truth == "dog"
    assert [vote.label for vote in audited["n0"].votes] == ["cat"]


def test_own_files_the_limit_takes_from_both_sides(tmp_path: Path) -> None:
    dataset = load_dataset("parquet", **_own_files(tmp_path), limit=50)
    assert len(dataset.samples) == 50
    assert sum(sample.audited for sample in dataset.samples) == 10
    assert all(sample.truth == "cat" for sample in dataset.samples if not sample.audited)


def test_unusable_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    paths = _own_files(tmp_path, clean_rows=4)
    images = [{"bytes": _png(i), "path": None} for i in range(4)] + [{"bytes": b"<svg/>", "path": None}, None]
    rows: dict[str, Any] = {
        "sample_id": ["a", "b", None, "a", "e", "f"],
        "label": ["cat", None, "cat", "dog", "dog", "cat"],
        "image": images,
    }
    paths["noisy"] = _write_rows(tmp_path / "noisy.parquet", rows)
    dataset = load_dataset("parquet", **paths)
    kept = [(s.sample_id, s.votes[0].label) for s in dataset.samples if not s.audited]
    assert kept == [("a", "cat")], "of two rows with one sample_id, the first"
    assert dataset.left_out == 5


def test_class_indices_get_the_names_of_the_schema_metadata(tmp_path: Path) -> None:
    classes = ["cat", "dog"]
    rows: dict[str, Any] = {"sample_id": list("abcd"), "label": [0, 1, -1, 7]}
    noisy = _write_rows(tmp_path / "noisy.parquet", rows, classes)
    clean = _write_rows(tmp_path / "clean.parquet", {"sample_id": ["x"], "label": [1]})
    dataset = load_dataset("parquet", clean=clean, noisy=noisy)
    assert dataset.classes == ("cat", "dog")
    assert {s.sample_id: s.truth or s.votes[0].label for s in dataset.samples} == {"a": "cat", "b": "dog", "x": "dog"}


def _class_label(path: Path, **names: list[str]) -> Path:
    """The file with the metadata that `datasets` gives to columns of numbers that have names."""
    features = {column: {"names": found, "_type": "ClassLabel"} for column, found in names.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    return path


def test_numbers_of_a_class_label_are_its_names_in_each_file_and_column(tmp_path: Path) -> None:
    rows: dict[str, Any] = {"sample_id": list("abcd"), "label": [0, 1, -1, 7], "true_label": [1, 0, 0, 0]}
    noisy = _write_rows(tmp_path / "noisy.parquet", rows)
    _class_label(noisy, label=["dog", "cat"], true_label=["cat", "dog"])
    clean = _write_rows(tmp_path / "clean.parquet", {"sample_id": ["x"], "label": [0], "given_label": [1]})
    _class_label(clean, label=["cat", "dog"], given_label=["cat", "dog"])
    dataset = load_dataset("parquet", clean=clean, noisy=noisy)
    assert dataset.classes == ("dog", "cat")
    found = {s.sample_id: (s.truth, s.votes[0].label) for s in dataset.samples}
    assert found == {"a": ("dog", "dog"), "b": ("cat", "cat"), "x": ("cat", "dog")}


def test_a_class_label_without_names_is_one_line(tmp_path: Path) -> None:
    paths = _own_files(tmp_path)
    _write_rows(paths["noisy"], {"sample_id": ["a"], "label": [0]})
    _class_label(paths["noisy"], label=[])
    with pytest.raises(DataError, match=r"the names of ClassLabel label, .* must be a JSON list of names"):
        load_dataset("parquet", **paths)


def _latin(texts: list[bytes]) -> pa.Array:
    """These bytes as they are, called text."""
    return pa.Array.from_buffers(pa.string(), len(texts), pa.array(texts, pa.binary()).buffers())


@pytest.mark.parametrize("column", ["sample_id", "label", "given_label", "true_label"])
def test_text_that_is_not_utf_8_is_one_line(tmp_path: Path, column: str) -> None:
    paths = _own_files(tmp_path)
    rows: dict[str, Any] = {"sample_id": ["a", "b"], "label": ["cat", "dog"]}
    _write_rows(paths["noisy"], {**rows, column: _latin([b"cat", b"caf\xe9"])})
    with pytest.raises(DataError, match=rf"column {column} must hold UTF-8 text, found b'caf.xe9' in row 1 ") as error:
        load_dataset("parquet", **paths)
    assert "\n" not in str(error.value)


def test_neither_a_path_that_is_not_utf_8_nor_a_text_for_an_image_is_read(tmp_path: Path) -> None:
    latin = _latin([b"caf\xe9"])
    images = pa.StructArray.from_arrays([pa.array([_png(7)]), latin], names=["bytes", "path"])
    pq.write_table(pa.table({"image": images}), tmp_path / "path.parquet")
    assert read_images(tmp_path / "path.parquet", [0]) == {0: _png(7)}
    for name, column in (("text", latin), ("base64", pa.StructArray.from_arrays([latin], names=["bytes"]))):
        pq.write_table(pa.table({"image": column}), tmp_path / f"{name}.parquet")
        assert read_images(tmp_path / f"{name}.parquet", [0]) == {}
    pq.write_table(pa.table({"image": pa.StructArray.from_arrays([latin], names=["path"])}), tmp_path / "no.parquet")
    assert read_images(tmp_path / "no.parquet", [0]) == {}


def test_numbers_are_names_where_the_stated_classes_are_numbers(tmp_path: Path) -> None:
    rows: dict[str, Any] = {"sample_id": [0, 1, 2, 3], "label": [3, 7, 1, None]}  # with a gap, so doubles
    noisy = _write_rows(tmp_path / "noisy.parquet", rows | {"label": pa.array(rows["label"], pa.float64())}, ["3", "7"])
    clean = _write_rows(tmp_path / "clean.parquet", {"sample_id": ["x"], "label": [7]})
    dataset = load_dataset("parquet", clean=clean, noisy=noisy)
    assert {s.sample_id: s.truth or s.votes[0].label for s in dataset.samples} == {"0": "3", "1": "7", "x": "7"}


def test_numbers_without_names_are_classes_in_their_own_order(tmp_path: Path) -> None:
    noisy = _write_rows(tmp_path / "noisy.parquet", {"sample_id": list("abc"), "label": [10, 9, 2]})
    clean = _write_rows(tmp_path / "clean.parquet", {"sample_id": ["x"], "label": [2]})
    assert load_dataset("parquet", clean=clean, noisy=noisy).classes == ("2", "9", "10")


def test_numbers_index_the_classes_that_their_own_file_lists(tmp_path: Path) -> None:
    noisy = _write_rows(tmp_path / "noisy.parquet", {"sample_id": list("ab"), "label": [0, 1]}, ["cat", "dog"])
    clean = _write_rows(tmp_path / "clean.parquet", {"sample_id": ["x"], "label": [0]}, ["dog", "cat"])
    dataset = load_dataset("parquet", clean=clean, noisy=noisy)
    assert {s.sample_id: s.truth or s.votes[0].label for s in dataset.samples} == {"a": "cat", "b": "dog", "x": "dog"}


def test_reviews_are_tasks_and_no_audits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noisy = _write_rows(tmp_path / "noisy.parquet", {"sample_id": list("abc"), "label": ["cat"] * 3})
    rows = {"sample_id": ["a", "x", "y", "b"], "label": ["dog", "dog", "dog", "cat"]}
    clean = _write_rows(tmp_path / "clean.parquet", rows | {"provenance": ["review", "review", "audit", "audit"]})
    dataset = load_dataset("parquet", clean=clean, noisy=noisy)
    found = {s.sample_id: (s.audited, s.truth) for s in dataset.samples}
    assert found == {"a": (False, "dog"), "b": (True, "cat"), "c": (False, None), "y": (True, "dog")}
    assert caplog.messages == [f"{clean}: 2 rows of provenance “review” are no audits: they are not entered as such"]
    _write_rows(clean, rows | {"provenance": ["review"] * 4})
    with pytest.raises(DataError, match="provenance is “review” in every usable row"):
        load_dataset("parquet", clean=clean, noisy=noisy)
    _write_rows(clean, rows | {"provenance": ["audit", "Audit", "audit", "audit"]})
    with pytest.raises(DataError, match=r"column provenance must hold .*, found 'Audit' in row 1"):
        load_dataset("parquet", clean=clean, noisy=noisy)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "mnist"}, "'mnist'; there are digits"),
        ({"name": "digits", "limit": 0}, "--limit"),
        ({"name": "fashion-mnist"}, "--root DIR"),
        ({"name": "cifar10n", "root": Path("nowhere")}, "no folder nowhere"),
        ({"name": "parquet"}, "--clean F and --noisy F"),
        ({"name": "parquet", "clean": Path("c.parquet"), "noisy": Path("n.parquet")}, "no file n.parquet"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        load_dataset(**arguments)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    paths = _own_files(tmp_path)
    paths["clean"].write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match="cannot be read as Parquet") as error:
        load_dataset("parquet", **paths)
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named_with_those_found(tmp_path: Path) -> None:
    paths = _own_files(tmp_path)
    _write_rows(paths["noisy"], {"id": ["a"], "label": ["cat"]})
    with pytest.raises(DataError, match="no column 'sample_id' \\(found: id, label, image\\)"):
        load_dataset("parquet", **paths)


def test_each_row_brings_its_own_image_from_a_large_row_group(tmp_path: Path) -> None:
    images = [{"bytes": _png(0)[:8] + str(row).encode(), "path": None} for row in range(700)]
    pq.write_table(pa.table({"image": images}), tmp_path / "rows.parquet")
    wanted = [0, 255, 256, 699]
    assert read_images(tmp_path / "rows.parquet", wanted) == {row: images[row]["bytes"] for row in wanted}


def test_one_seed_gives_each_purpose_a_stream_of_its_own() -> None:
    draws = {purpose: tuple(generator(0, purpose).integers(1_000, size=4)) for purpose in ("draw", "audit", "votes")}
    assert len(set(draws.values())) == 3


def test_kinds_of_images_are_told_by_their_first_bytes() -> None:
    assert extension(_png(0)) == "png"
    assert extension(b"\xff\xd8\xff\xe0") == "jpg"
    assert extension(b"RIFF\0\0\0\0WEBPVP8 ") == "webp"
    assert extension(b"<svg xmlns='http://www.w3.org/2000/svg'/>") is None
    assert extension(b"") is None
