"""What two files cannot be trained on is told before an image is decoded, and nothing is that could be trained on."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasten_model.before_decoding import check_files, check_network
from fasten_model.errors import DataError
from fasten_model.fit_files import fit_files
from fasten_model.fitting import check_trainable
from fasten_model.labelled_files import load_files
from fasten_model.train import TrainConfig
from fasten_model.train.checkpoint import CheckpointConfig
from fasten_model.whole_file import check_writable
from tests.fasten_model.inline_files import png, write

CONFIG = TrainConfig(epochs=1, image_size=8, device="cpu")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Two files that can be trained on."""
    return {
        "clean": write(tmp_path / "clean", {"label": ["cat", "dog"] * 4}),
        "noisy": write(tmp_path / "noisy", {"label": ["dog", "cat"] * 6}),
        "out": tmp_path / "model",
        "config": CONFIG,
    }


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded in vain")

    monkeypatch.setattr("fasten_model.images.parquet.decode_images", never)
    monkeypatch.setattr("fasten_model.images.cache.decode_images", never)


def refused(files: dict[str, Any], **changes: Any) -> str:
    before = sorted(files["clean"].parent.rglob("*"))
    with pytest.raises(DataError) as caught:
        fit_files(**{**files, **changes})
    assert sorted(files["clean"].parent.rglob("*")) == before, "nothing is left behind"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target_precision": 0.0}, "target_precision must lie between 0 and 1, got 0.0"),
        ({"certainty": 1.0}, "certainty must lie between 0 and 1, got 1.0"),
        ({"rho": float("nan")}, "rho must be 0 or above, got nan"),
        ({"folds": 0}, "folds must be from 1 to 20, got 0"),
        ({"holdout": 1.0}, "holdout must be from 0 to below 1, got 1.0"),
        ({"holdout": 0.2, "folds": 2}, "leave holdout out, or folds at 1"),
        ({"config": TrainConfig(trunk="oak", image_size=8)}, "no trunk named 'oak'"),
        ({"config": TrainConfig(trunk_weights="none.pt", image_size=8)}, "trunk weights none.pt cannot be read"),
        ({"out": Path("/proc/model")}, "nothing can be written to /proc/model: /proc "),
        ({"checkpoint": CheckpointConfig(folder=Path("/proc/c/d"))}, "no checkpoint can be written to /proc/c/d: /pro"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_choices_that_cannot_be_are_told_first(files: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    assert says in refused(files, **changes)


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize(
    ("file", "columns", "says"),
    [
        ("noisy", {"label": ["cat", "eel", "eel"]}, "no audited sample of class “eel”: audit at least one of each"),
        ("clean", {"label": ["cat", "cat"]}, "no audited sample of class “dog”"),
        (
            "clean",
            {"label": [None, None]},
            "clean has no sample that can be trained on; the first row: it has no label",
        ),
        ("noisy", {"label": ["", ""]}, "noisy has no sample that can be trained on; the first row: it has no label"),
        (
            "clean",
            {"label": ["cat", "dog", None], "provenance": ["review", "review", "audit"]},
            "clean: provenance is “review” in every usable row, so that T cannot be estimated: audit a few hundred",
        ),
        ("clean", {"label": ["cat", "dog"], "provenance": ["audit", "?"]}, "found '?' in row 1"),
    ],
)
def test_labels_that_cannot_be_trained_on_are_told_first(
    files: dict[str, Any], file: str, columns: dict[str, Any], says: str
) -> None:
    write(files[file], columns)
    assert says in refused(files)


@pytest.mark.usefixtures("undecoded")
def test_one_class_is_told_first(files: dict[str, Any]) -> None:
    for name in ("clean", "noisy"):
        write(files[name], {"label": ["cat", "cat"]})
    assert "clean and " in (line := refused(files))
    assert "know only one class (“cat”)" in line


@pytest.mark.usefixtures("undecoded")
def test_a_noisy_sample_that_is_audited_needs_no_other_audit_of_its_noisy_class(files: dict[str, Any]) -> None:
    write(files["noisy"], {"label": ["cat", "eel", "dog"], "sample_id": ["1", "clean-0", "3"]})
    check_files(files["clean"], files["noisy"], size=8)


def test_a_class_whose_noisy_images_are_all_broken_is_no_matter(files: dict[str, Any]) -> None:
    labels, images = ["cat", "dog", "eel", "cat", "dog", "eel", "eel"], [png(9)] * 7
    images[2] = images[5] = b"broken"
    write(files["noisy"], {"label": labels, "image": [*images[:6], None]})
    fitted = fit_files(**files)
    assert fitted.model.classes == ("cat", "dog", "eel")
    write(files["noisy"], {"label": labels, "image": images})
    assert "no audited sample of class “eel”" in refused(files), "one is sound"


def test_of_a_class_without_an_audit_no_more_is_decoded_than_one_sound_image(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def decode_image(data: bytes, size: int) -> torch.Tensor:
        decoded.append(data)
        if data == b"broken":
            raise DataError("no image")
        return torch.zeros(3, size, size, dtype=torch.uint8)

    monkeypatch.setattr("fasten_model.images.parquet.decode_image", decode_image)
    labels = ["eel", "cat", "eel", "fox", "eel", "fox", "dog"] * 100
    images = [b"broken", b"cat", b"eel", b"fox", b"eel 2", b"fox 2", b"dog"] * 100
    write(files["noisy"], {"label": labels, "image": images})
    with pytest.raises(DataError, match="no audited sample of classes “eel”, “fox”"):
        check_files(files["clean"], files["noisy"], size=8)
    assert decoded == [b"broken", b"eel", b"fox"]


def test_what_only_the_images_tell_is_told_all_the_same(files: dict[str, Any]) -> None:
    write(files["clean"], {"label": ["cat", "dog"], "image": [png(), b"broken"]})
    check_files(files["clean"], files["noisy"], size=8)
    assert "no audited sample of class “dog”" in refused(files)
    write(files["clean"], {"label": ["cat"], "image": [b"broken"]})
    write(files["noisy"], {"label": ["cat", "dog"], "image": [b"broken", b"broken"]})
    assert "clean has no sample that can be trained on" in refused(files)


names = st.sampled_from([None, "cat", "dog", "eel"])
rows = st.lists(st.tuples(st.integers(0, 9), names, st.sampled_from([png(), b"broken", None])), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(rows, rows)
def test_nothing_is_refused_first_that_is_not_refused_in_the_end(
    tmp_path: Path, clean: list[Any], noisy: list[Any]
) -> None:
    paths = []
    for name, found in (("clean", clean), ("noisy", noisy)):
        ids, labels, images = ([row[place] for row in found] for place in range(3))
        paths.append(write_rows(tmp_path / name, list(map(str, ids)), labels, images))
    early, late = (refusal(check, *paths) for check in (check_first, check_in_the_end))
    assert early is None or late is not None, early
    sound = all(image == png() for _, _, image in (*clean, *noisy))
    apart = not {row[0] for row in clean} & {row[0] for row in noisy}
    assert late is None or early is not None or not (sound and apart), late


def write_rows(path: Path, ids: list[str], labels: list[str | None], images: list[bytes | None]) -> Path:
    text = pa.string()
    return write(path, {"sample_id": pa.array(ids, text), "label": pa.array(labels, text), "image": images})


def check_first(clean: Path, noisy: Path) -> None:
    check_files(clean, noisy, size=4)


def check_in_the_end(clean: Path, noisy: Path) -> None:
    noisy_set, clean_set, classes = load_files(clean, noisy, size=4)
    check_trainable(noisy_set, clean_set, classes)


def refusal(check: Callable[[Path, Path], None], clean: Path, noisy: Path) -> str | None:
    try:
        check(clean, noisy)
    except DataError as error:
        return str(error)
    return None


def test_trying_the_trunk_uses_up_no_random_number() -> None:
    before = torch.random.get_rng_state()
    check_network(CONFIG)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_folder_is_tried_and_nothing_stays_in_it(tmp_path: Path) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "newer")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "nowhere", tmp_path / "nowhere" / "x"):
        with pytest.raises(DataError, match=f"nothing can be written to {folder}: .* is no folder"):
            check_writable(folder)
    with pytest.raises(DataError, match=r"nothing can be written to .*: .* does not take it \(File name too long\)"):
        check_writable(tmp_path / ("n" * 300))


def test_where_nothing_can_be_made_permissions_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert os.access(tmp_path, os.W_OK)
    with pytest.raises(DataError, match=r"written to .*x: .* does not take it \(Read-only file system\)"):
        check_writable(tmp_path / "x")


@pytest.mark.usefixtures("undecoded")
def test_a_folder_whose_name_is_too_long_is_one_line(files: dict[str, Any]) -> None:
    assert "does not take it (File name too long)" in refused(files, out=files["out"].with_name("x" * 300))
