"""Labels that the library `datasets` has written as a `ClassLabel`: numbers, whose names are in the metadata."""

import io
import json
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fasten_model.errors import DataError
from fasten_model.images.parquet import read_samples
from tests.fasten_model.inline_files import write

ANIMALS = ["horse", "cat", "dog"]


def published(path: Path, **columns: tuple[list[int | None], list[str]]) -> Path:
    """A file as `datasets` writes it: column → (numbers, names of its `ClassLabel`)."""
    count = len(next(iter(columns.values()))[0])
    features = {"sample_id": datasets.Value("string"), "image": datasets.Image()}
    values: dict[str, Any] = {
        "sample_id": [str(row) for row in range(count)],
        "image": [Image.new("L", (4, 4), row) for row in range(count)],
    }
    for name, (numbers, names) in columns.items():
        features[name] = datasets.ClassLabel(names=names)
        values[name] = numbers
    table = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    with io.BytesIO() as file:
        table.to_parquet(file)
        path.write_bytes(file.getvalue())
    return path


def metadata(label: Any) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {"label": label}}})}


def test_numbers_are_the_names_that_the_file_states_in_its_order(tmp_path: Path) -> None:
    samples = read_samples(published(tmp_path / "f", label=([2, 1, 2], ANIMALS)), size=4)
    assert samples.classes == ("horse", "cat", "dog")
    assert samples.labels.tolist() == [2, 1, 2]


def test_names_and_not_places_are_looked_up_in_the_classes_of_a_model(tmp_path: Path) -> None:
    path = published(tmp_path / "f", label=([2, 1, 0], ANIMALS))
    samples = read_samples(path, size=4, classes=("cat", "cow", "dog"))
    assert samples.labels.tolist() == [2, 0]
    assert samples.rejected == (("2", "unknown class 'horse'"),)


def test_names_that_are_numbers_are_names(tmp_path: Path) -> None:
    samples = read_samples(published(tmp_path / "f", label=([0, 1], ["7", "3"])), size=4, classes=("3", "7"))
    assert samples.labels.tolist() == [1, 0]


def test_what_is_not_labelled_is_minus_one_or_null(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"label": ([1, -1, None, 2], ANIMALS), "given_label": ([-1, 0, 0, None], ANIMALS)}
    samples = read_samples(published(tmp_path / "f", **columns), size=4)
    assert (samples.labels.tolist(), samples.given_labels.tolist()) == ([1, 2], [-1, -1])
    assert samples.rejected == (("1", "it has no label"), ("2", "it has no label"))


def test_each_column_has_its_own_names(tmp_path: Path) -> None:
    path = published(tmp_path / "f", label=([0, 1], ["dog", "cat"]), given_label=([0, 1], ["cat", "cow"]))
    samples = read_samples(path, size=4)
    assert samples.classes == ("dog", "cat", "cow")
    assert (samples.labels.tolist(), samples.given_labels.tolist()) == ([0, 1], [1, 2])


def test_a_list_of_classes_in_the_metadata_has_the_order_and_the_last_word(tmp_path: Path) -> None:
    features = metadata({"_type": "ClassLabel", "names": ANIMALS})
    path = write(tmp_path / "f", {"label": [2, 1, 0]}, metadata={**features, "classes": "cat,dog"})
    samples = read_samples(path, size=4)
    assert (samples.classes, samples.labels.tolist()) == (("cat", "dog"), [1, 0])
    assert samples.rejected == (("f-2", "unknown class 'horse'"),)


def test_labels_that_are_text_are_what_they_say_beside_given_ones_with_names(tmp_path: Path) -> None:
    feature = {"info": {"features": {"given_label": {"_type": "ClassLabel", "names": ["cat", "bee"]}}}}
    path = write(
        tmp_path / "f", {"label": ["dog", "ant"], "given_label": [0, 1]}, metadata={"huggingface": json.dumps(feature)}
    )
    samples = read_samples(path, size=4)
    assert samples.classes == ("ant", "bee", "cat", "dog")
    assert (samples.labels.tolist(), samples.given_labels.tolist()) == ([3, 0], [2, 1])


def test_a_number_without_a_name_is_a_row_left_out(tmp_path: Path) -> None:
    feature = metadata({"_type": "ClassLabel", "names": ANIMALS})
    samples = read_samples(write(tmp_path / "f", {"label": [0, 3, -2]}, metadata=feature), size=4)
    assert samples.sample_ids == ("f-0",)
    assert [reason for _, reason in samples.rejected] == [f"unknown class {n} (there are 3)" for n in (3, -2)]


def test_doubles_with_gaps_have_names_too(tmp_path: Path) -> None:
    feature = metadata({"_type": "ClassLabel", "names": ANIMALS})
    path = write(tmp_path / "f", {"label": pa.array([2.0, None, -1.0])}, metadata=feature)
    assert read_samples(path, size=4).labels.tolist() == [2]


@pytest.mark.parametrize(
    "names",
    [None, [], "cat", ["cat", 3], ["cat", ""], ["cat", ["dog"]], ["cat", "\ud800"], ["cat", "cat"], {"0": "cat"}],
    ids=repr,
)
def test_names_that_are_none_are_one_line(tmp_path: Path, names: Any) -> None:
    feature = metadata({"_type": "ClassLabel", "names": names})
    path = write(tmp_path / "f", {"label": [0, 1]}, metadata=feature)
    with pytest.raises(DataError, match=r"names of ClassLabel label, .* (must be a JSON list of names|names a class)"):
        read_samples(path, size=4)


@pytest.mark.parametrize("text", ['{"info"', "[" * 100_000, "9" * 5_000], ids=["cut", "deep", "long"])
def test_metadata_that_is_no_json_is_one_line_where_numbers_may_have_names(tmp_path: Path, text: str) -> None:
    broken = {"huggingface": text}
    path = write(tmp_path / "numbers", {"label": [0, 1]}, metadata=broken)
    with pytest.raises(DataError, match=r"metadata 'huggingface' is no JSON, .* column label stand for") as caught:
        read_samples(path, size=4)
    assert "\n" not in str(caught.value)
    assert read_samples(write(tmp_path / "names", {"label": ["a", "b"]}, metadata=broken), size=4).classes == ("a", "b")


@pytest.mark.parametrize(
    "feature", [{}, None, [], {"_type": "Value", "dtype": "int64"}, {"names": ["a", "b"]}, {"_type": ["ClassLabel"]}]
)
def test_numbers_of_another_kind_are_read_as_ever(tmp_path: Path, feature: Any) -> None:
    path = write(tmp_path / "f", {"label": [0, 1]}, metadata=metadata(feature))
    assert read_samples(path, size=4).classes == ("0", "1")
    for text in ("[]", "null", '{"info": 3}', '{"info": {"features": [1]}}', "1e999"):
        assert read_samples(write(path, {"label": [0, 1]}, metadata={"huggingface": text}), size=4).classes == (
            "0",
            "1",
        )


def test_a_cast_column_is_what_it_was_cast_to(tmp_path: Path) -> None:
    path = published(tmp_path / "f", label=([2, 1], ANIMALS))
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("label"), "label", pa.array(["bee", "ant"])), path)
    assert read_samples(path, size=4).classes == ("ant", "bee")
