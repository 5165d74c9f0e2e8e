"""Samples from Parquet: what is read, what is rejected with its reason, and what is one line of error."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fasten_model.errors import DataError
from fasten_model.images import parquet
from fasten_model.images.parquet import read_samples
from fasten_model.images.source import in_memory
from fasten_model.labelled_files import load_files

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(grey: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), grey).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    path: Path, rows: list[dict[str, Any]], *, label: pa.DataType | None = None, classes: str | None = None
) -> Path:
    """`rows` in the inline layout, in row groups of two."""
    label = label or pa.string()
    fields = [pa.field("sample_id", pa.string()), pa.field("image", IMAGE), pa.field("label", label)]
    if any("given_label" in row for row in rows):
        fields.append(pa.field("given_label", label))
    schema = pa.schema(fields, metadata={"classes": classes} if classes is not None else None)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=2)
    return path


def row(sample_id: str | None, label: Any, *, image: bytes | None = None, **more: Any) -> dict[str, Any]:
    return {"sample_id": sample_id, "image": {"bytes": image or png(), "path": "x.png"}, "label": label, **more}


def test_rows_come_back_in_order_with_images_labels_and_given_labels(tmp_path: Path) -> None:
    rows = [
        row("a", "dog", image=png(10), given_label="cat"),
        row("b", "cat", image=png(20), given_label=None),
        row("c", "dog", image=png(30), given_label="dog"),
    ]
    samples = read_samples(write(tmp_path / "clean.parquet", rows), size=8)
    assert samples.sample_ids == ("a", "b", "c")
    assert samples.classes == ("cat", "dog")
    assert samples.labels.tolist() == [1, 0, 1]
    assert samples.given_labels.tolist() == [0, -1, 1]
    assert isinstance(samples.images, torch.Tensor)
    assert (samples.images.dtype, samples.images.shape) == (torch.uint8, (3, 3, 8, 8))
    assert samples.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert samples.rejected == ()


def test_paths_may_be_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "clean.parquet", [row("a", "dog", image=png(10)), row("b", "cat", image=png(20))])
    cache = str(tmp_path / "cache")
    for found in (read_samples(str(path), size=8), read_samples(str(path), size=8, cache=cache)):
        assert found.sample_ids == ("a", "b")
        assert in_memory(found.images)[:, 0, 0, 0].tolist() == [10, 20]
    noisy, clean, classes = load_files(str(path), str(path), size=8, cache=cache)
    assert (len(noisy), len(clean), classes) == (0, 2, ("cat", "dog"))


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        *(
            ({"size": size}, f"^size must be a whole number from 1, got {re.escape(repr(size))}$")
            for size in (0, -1, 8.0, "8", (8, 8))
        ),
        ({"classes": "cat"}, "^classes must be a list of texts in the order of their numbers, got 'cat'$"),
        ({"classes": ["cat", "cat"]}, "^classes must be different texts, not empty, got 'cat', 'cat'$"),
        ({"classes": [0, 1]}, "^classes must be different texts, not empty, got 0, 1$"),
    ],
    ids=str,
)
def test_a_senseless_choice_is_one_line(choice: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "clean.parquet", [row("a", "cat")])
    with pytest.raises(DataError, match=says):
        read_samples(path, **({"size": 8} | choice))


def test_the_file_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 6_000), dtype=np.uint8)
    path = tmp_path / "large.parquet"
    schema = pa.schema([("sample_id", pa.string()), ("image", IMAGE), ("label", pa.string())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for first in range(0, 2000, 100):
            rows = [row(str(number), "a", image=noise[number].tobytes()) for number in range(first, first + 100)]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    held = []

    def decode_images(images: Iterator[bytes], size: int, **_: object) -> Iterator[torch.Tensor]:
        for _image in images:
            held.append(pa.total_allocated_bytes() - before)
            yield torch.zeros(3, size, size, dtype=torch.uint8)

    monkeypatch.setattr(parquet, "decode_images", decode_images)
    before = pa.total_allocated_bytes()
    assert len(read_samples(path, size=4).sample_ids) == 2000
    assert max(held) < path.stat().st_size / 3


def test_classes_come_from_the_argument_then_the_metadata_then_the_labels(tmp_path: Path) -> None:
    rows = [row("a", "dog"), row("b", "cat")]
    stated = write(tmp_path / "stated.parquet", rows, classes=json.dumps(["dog", "ant", "cat"]))
    commas = write(tmp_path / "commas.parquet", rows, classes="dog, ant, cat")
    assert read_samples(stated, size=4, classes=("cat", "dog")).labels.tolist() == [1, 0]
    assert read_samples(stated, size=4).labels.tolist() == [0, 2]
    assert read_samples(commas, size=4).classes == ("dog", "ant", "cat")
    assert read_samples(write(tmp_path / "bare.parquet", rows), size=4).classes == ("cat", "dog")


def test_integer_labels_index_the_classes_or_are_their_own_names(tmp_path: Path) -> None:
    rows = [row("a", 2), row("b", 10)]
    named = read_samples(write(tmp_path / "named.parquet", rows, label=pa.int8()), size=4, classes=list("abcdefghijk"))
    assert named.labels.tolist() == [2, 10]
    bare = read_samples(write(tmp_path / "bare.parquet", rows, label=pa.int64()), size=4)
    assert (bare.classes, bare.labels.tolist()) == (("2", "10"), [0, 1])


@pytest.mark.parametrize("label", [pa.int64(), pa.float64()])
def test_an_integer_label_is_a_name_and_no_index_where_classes_are_numbers(tmp_path: Path, label: pa.DataType) -> None:
    rows = [row("a", 7), row("b", 1), row("c", 3, given_label=2)]
    path = write(tmp_path / "gaps.parquet", rows, label=label)
    stated = write(tmp_path / "stated.parquet", rows, label=label, classes='["3", "5", "7"]')
    for samples in (read_samples(path, size=4, classes=("3", "5", "7")), read_samples(stated, size=4)):
        assert (samples.sample_ids, samples.labels.tolist()) == (("a",), [2])
        assert samples.rejected == (("b", "unknown class 1"), ("c", "unknown class 2"))


@pytest.mark.parametrize("name", ["7", "-1", "+1", "007"])
def test_one_class_that_looks_like_a_number_makes_every_integer_a_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "mixed.parquet", [row("a", 0), row("b", 7)], label=pa.int64())
    samples = read_samples(path, size=4, classes=("cat", name))
    assert samples.rejected[0] == ("a", "unknown class 0")
    assert samples.labels.tolist() == ([1] if name == "7" else [])


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_doubles_are_integers_with_gaps_as_pandas_writes_them(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [row("a", 10, given_label=2), row("b", 2, given_label=None), row("c", 2, given_label=float("nan"))]
    path = write(tmp_path / "gaps.parquet", [*rows, row("d", None)], label=kind)
    bare = read_samples(path, size=4)
    assert (bare.classes, bare.labels.tolist(), bare.given_labels.tolist()) == (("2", "10"), [1, 0, 0], [0, -1, -1])
    assert bare.rejected == (("d", "it has no label"),)
    assert read_samples(path, size=4, classes=list("abcdefghijk")).labels.tolist() == [10, 2, 2]


@pytest.mark.parametrize("value", [0.5, float("inf")])
def test_another_double_is_no_label_and_its_row_is_named(tmp_path: Path, value: float) -> None:
    rows = [row("a", 1, given_label=1), row("b", 1, given_label=None), row("c", 1, given_label=value)]
    path = write(tmp_path / "scores.parquet", rows, label=pa.float64())
    with pytest.raises(DataError, match=f"column given_label must hold .* whole numbers, found {value} in row 2 "):
        read_samples(path, size=4, classes=("1",))


def test_a_column_of_nulls_without_a_type_is_all_unknown(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row("a", "x", given_label=None), row("b", "y", given_label=None)])
    assert pa.types.is_null(table.schema.field("given_label").type)
    pq.write_table(table, tmp_path / "none.parquet")
    samples = read_samples(tmp_path / "none.parquet", size=4)
    assert (samples.labels.tolist(), samples.given_labels.tolist()) == ([0, 1], [-1, -1])

    pq.write_table(
        table.drop_columns("label").rename_columns({"given_label": "label"}), tmp_path / "unlabelled.parquet"
    )
    unlabelled = read_samples(tmp_path / "unlabelled.parquet", size=4)
    assert unlabelled.rejected == (("a", "it has no label"), ("b", "it has no label"))


def test_dictionary_encoded_labels_are_read_as_their_values(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row("a", "x"), row("b", "y")]).cast(
        pa.schema(
            [("sample_id", pa.string()), ("image", IMAGE), ("label", pa.dictionary(pa.int32(), pa.string()))],
        )
    )
    pq.write_table(table, tmp_path / "d.parquet")
    assert read_samples(tmp_path / "d.parquet", size=4).classes == ("x", "y")


def test_each_bad_row_is_left_out_with_its_reason_and_the_rest_is_kept(tmp_path: Path) -> None:
    rows = [
        row("good", "cat"),
        row(None, "cat"),
        row("good", "dog"),
        row("no label", None),
        row("unknown", "horse"),
        row("broken", "cat", image=b"<html>"),
        {"sample_id": "no bytes", "image": {"bytes": None, "path": "/etc/passwd"}, "label": "cat"},
        {"sample_id": "no image", "image": None, "label": "cat"},
        row("last", "dog"),
    ]
    samples = read_samples(write(tmp_path / "noisy.parquet", rows), size=4, classes=("cat", "dog"))
    assert samples.sample_ids == ("good", "last")
    assert samples.labels.tolist() == [0, 1]
    reasons = dict(samples.rejected)
    assert list(reasons) == ["None", "good", "no label", "unknown", "broken", "no bytes", "no image"]
    assert "no sample_id" in reasons["None"]
    assert "earlier" in reasons["good"]
    assert "no label" in reasons["no label"]
    assert "unknown class 'horse'" in reasons["unknown"]
    assert "not a PNG" in reasons["broken"]
    assert "no inline image bytes" in reasons["no bytes"]
    assert "no inline image bytes" in reasons["no image"]


def test_an_integer_label_outside_the_classes_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", [row("a", 0), row("b", 7), row("c", -1)], label=pa.int32())
    samples = read_samples(path, size=4, classes=("cat", "dog"))
    assert samples.sample_ids == ("a",)
    assert [reason for _, reason in samples.rejected] == [f"unknown class {n} (there are 2)" for n in (7, -1)]


def test_an_empty_file_gives_no_samples(tmp_path: Path) -> None:
    samples = read_samples(write(tmp_path / "empty.parquet", []), size=4)
    assert (len(samples.sample_ids), samples.images.shape, samples.classes) == (0, (0, 3, 4, 4), ())


def as_text(values: list[bytes], kind: pa.DataType) -> pa.Array:
    """These bytes as they are, called text."""
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array(range(len(values)), pa.int32()), as_text(values, pa.string()))
    raw = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(kind, len(values), raw.buffers())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
@pytest.mark.parametrize("column", ["sample_id", "label", "given_label"])
def test_text_that_is_not_utf_8_is_one_line_with_its_column_and_row(
    tmp_path: Path, column: str, kind: pa.DataType
) -> None:
    columns: dict[str, Any] = {"sample_id": ["a", "b"], "label": ["x", "y"], "given_label": ["x", "y"]}
    columns[column] = as_text([b"x", b"caf\xe9"], kind)
    path = tmp_path / "latin.parquet"
    pq.write_table(pa.table({**columns, "image": pa.array([{"bytes": png(), "path": None}] * 2, IMAGE)}), path)
    with pytest.raises(DataError, match=rf"column {column} must hold UTF-8 text, found b'caf.xe9' in row 1 "):
        read_samples(path, size=4, classes=("x", "y"))


def test_a_path_that_is_not_utf_8_does_not_matter(tmp_path: Path) -> None:
    images = pa.StructArray.from_arrays(
        [pa.array([png()], pa.binary()), as_text([b"caf\xe9.png"], pa.string())], fields=list(IMAGE)
    )
    pq.write_table(pa.table({"sample_id": ["a"], "image": images, "label": ["x"]}), tmp_path / "latin.parquet")
    assert read_samples(tmp_path / "latin.parquet", size=4).sample_ids == ("a",)


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.parquet"
    if kind == "text":
        path.write_text("not parquet at all, but long enough to look")
    elif kind == "cut":
        write(path, [row("a", "cat")])
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "folder":
        path.mkdir()
    elif kind == "columns":
        pq.write_table(pa.table({"sample_id": ["a"], "picture": [b""]}), path)
    elif kind == "image":
        pq.write_table(pa.table({"sample_id": ["a"], "image": ["a.png"], "label": ["cat"]}), path)
    elif kind == "label":
        pq.write_table(pa.table({"sample_id": ["a"], "image": [b""], "label": [True]}), path)
    elif kind == "score":
        pq.write_table(pa.table({"sample_id": ["a"], "image": [b""], "label": [0.5]}), path)
    elif kind == "base64":
        pq.write_table(pa.table({"sample_id": ["a"], "image": [{"bytes": "iVBORw0="}], "label": ["cat"]}), path)
    elif kind == "id":
        pq.write_table(pa.table({"sample_id": [{"a": 1}], "image": [b""], "label": ["cat"]}), path)
    elif kind == "classes":
        write(path, [row("a", "cat")], classes='["cat", 3]')
    elif kind == "twice":
        write(path, [row("a", "cat")], classes='["cat", "cat"]')
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("text", "not a sound Parquet file"),
        ("cut", "not a sound Parquet file"),
        ("folder", "cannot be read"),
        ("columns", r"no column image, label \(found: sample_id, picture\)"),
        ("image", "must be struct<bytes: binary, path: string>, found string; store the bytes"),
        ("base64", "must be struct<bytes: binary, path: string>, found struct<bytes: string>; store the bytes"),
        ("id", "sample_id must hold strings or integers, found struct<a: int64>; write each id as a string"),
        ("label", "label must hold strings or integers, found bool; write each label as the name"),
        ("score", r"label must hold strings or whole numbers, found 0.5 in row 0 .*; write each label as the name"),
        ("classes", "must be a JSON list of names"),
        ("twice", "names a class twice"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, kind: str, message: str) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(DataError, match=message) as caught:
        read_samples(path, size=4)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_pixels_than_there_is_memory_is_one_line_with_the_ways_out(tmp_path: Path) -> None:
    path = write(tmp_path / "clean.parquet", [row("1", "cat")])
    with pytest.raises(DataError, match=r"1 images of 9999999×9999999 take 279,397 GiB.* smaller image size.*--cache"):
        read_samples(path, size=9_999_999)
