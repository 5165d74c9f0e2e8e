"""Samples from Parquet: what is read, what is rejected with its reason, and what is one line of error."""

import io
import json
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
    named = read_samples(write(tmp_path / "named.parquet", rows, label=pa.int8()), size=4, classes="abcdefghijk")
    assert named.labels.tolist() == [2, 10]
    bare = read_samples(write(tmp_path / "bare.parquet", rows, label=pa.int64()), size=4)
    assert (bare.classes, bare.labels.tolist()) == (("2", "10"), [0, 1])


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
        pq.write_table(pa.table({"sample_id": ["a"], "image": [b""], "label": [0.5]}), path)
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
        ("image", "must be struct<bytes, path>, found string"),
        ("label", "must hold strings or integers, found double"),
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
