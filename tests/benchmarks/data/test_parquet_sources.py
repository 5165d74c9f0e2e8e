"""Data sets of the harness in Parquet: CIFAR-10N's two files, and anybody's own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.io import encode_png  # type: ignore[import-untyped]

from benchmarks.data import Role, Source, draw_cell, load_source, parse_noise
from fasten_model.errors import DataError


def png(shade: int) -> bytes:
    return bytes(encode_png(torch.full((3, 6, 6), shade, dtype=torch.uint8)).numpy().tobytes())


def write(path: Path, columns: dict[str, Sequence[Any]], *, classes: str | None = None) -> Path:
    """Row i has the shade i."""
    count = len(next(iter(columns.values())))
    images = [{"bytes": png(row), "path": f"{row}.png"} for row in range(count)]
    table = pa.table({"image": images, **columns})
    pq.write_table(table.replace_schema_metadata({"classes": classes} if classes else None), path, row_group_size=16)
    return path


@pytest.fixture
def cifar10n(tmp_path: Path) -> Path:
    truth = [row % 4 for row in range(40)]
    human = {name: [(label + 1) % 4 for label in truth] for name in ("rater_1", "rater_2", "aggregate", "worst")}
    names = "airplane,automobile,bird,cat"
    write(tmp_path / "train.parquet", {"clean_label": truth, **human, "rater_3": [None] * 40}, classes=names)
    write(tmp_path / "test.parquet", {"clean_label": truth[:12]}, classes=names)
    return tmp_path


def test_cifar10n_reads_the_chosen_rows_with_what_people_said(cifar10n: Path) -> None:
    source = load_source("cifar10n", root=cifar10n, size=6, limit=25, seed=1)
    assert source.train_images.shape == (25, 3, 6, 6)
    assert torch.equal(source.train_images[:, 0, 0, 0].long() % 4, source.train_labels)
    assert torch.equal(source.human["worst"], (source.train_labels + 1) % 4)
    assert (source.human["rater_3"] == -1).all()
    assert len(source.test_labels) == 12


def test_cifar10n_gives_a_cell_of_human_noise(cifar10n: Path) -> None:
    source = load_source("cifar10n", root=cifar10n, size=6)
    cell = draw_cell(source, parse_noise("human:worst"), noisy=20, clean=8, validation=4, seed=1)
    assert torch.equal(cell.problem.noisy_labels, (cell.truth + 1) % 4)
    with pytest.raises(DataError, match="noisy samples: 20 wanted, and 0 are left"):
        draw_cell(source, parse_noise("human:rater_3"), noisy=20, clean=8, validation=4, seed=1)


def test_a_missing_column_of_cifar10n_is_named(cifar10n: Path) -> None:
    write(cifar10n / "train.parquet", {"clean_label": [0, 1]}, classes="airplane,automobile")
    with pytest.raises(DataError, match=r"train\.parquet has no column 'aggregate'"):
        load_source("cifar10n", root=cifar10n, size=6)


def own(folder: Path, **changes: Sequence[Any]) -> Source:
    """40 clean rows (c0 … c39) and 60 noisy ones (n0 … n57, c0, c1), classes cat and dog."""
    audited: dict[str, Sequence[Any]] = {"sample_id": [f"c{row}" for row in range(40)], "label": ["cat", "dog"] * 20}
    ids = [f"n{row}" for row in range(58)] + ["c0", "c1"]
    bulk: dict[str, Sequence[Any]] = {"sample_id": ids, "label": ["dog"] * 60}
    clean = write(folder / "clean.parquet", audited)
    return load_source("parquet", clean=clean, noisy=write(folder / "noisy.parquet", bulk | changes), size=6, seed=1)


def test_own_files_give_clean_noisy_and_test_samples(tmp_path: Path) -> None:
    source = own(tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.role is not None
    assert source.given is not None
    assert len(source.test_labels) == 10
    assert int((source.role == Role.CLEAN).sum()) == 30
    # Two samples are audited: they are clean ones, and their label there is what had been said.
    assert int((source.role == Role.NOISY).sum()) == 58
    clean = source.role == Role.CLEAN
    assert set(source.given[clean].tolist()) <= {-1, 1}
    assert (source.train_labels[~clean] == -1).all()


def test_true_labels_of_the_noisy_file_are_known_to_the_harness(tmp_path: Path) -> None:
    truth = ["cat", "dog", None] * 20
    source = own(tmp_path, true_label=truth)
    assert source.role is not None
    assert source.train_labels[source.role == Role.NOISY].tolist() == ([0, 1, -1] * 20)[:58]
    cell = draw_cell(source, parse_noise("own"), noisy=50, clean=10, validation=6, seed=1)
    torch.testing.assert_close(cell.true_transition, torch.tensor([[0.0, 1], [0, 1]]))


def test_without_a_pair_nobody_knows_the_transition(tmp_path: Path) -> None:
    source = own(tmp_path, sample_id=[f"n{row}" for row in range(60)])  # none is audited
    cell = draw_cell(source, parse_noise("own"), noisy=50, clean=10, validation=6, seed=1)
    assert cell.pairs == 0
    some = own(tmp_path, sample_id=[f"n{row}" for row in range(60)], true_label=["cat", *[None] * 59])
    assert draw_cell(some, parse_noise("own"), noisy=60, clean=10, validation=6, seed=1).pairs == 1


def test_noise_made_from_true_labels_needs_them(tmp_path: Path) -> None:
    source = own(tmp_path, true_label=["cat", "dog", None] * 20)
    known = int((source.train_labels[source.roles == Role.NOISY] != -1).sum())
    said = f"sym:0.4 is made from true labels, and parquet has {known} noisy samples with one, not 50; choose own"
    with pytest.raises(DataError, match=said):
        draw_cell(source, parse_noise("sym:0.4"), noisy=50, clean=10, validation=6, seed=1)


def test_own_files_may_lie_in_the_root(tmp_path: Path) -> None:
    source = own(tmp_path)
    same = load_source("parquet", root=tmp_path, size=6, seed=1)
    assert torch.equal(same.train_images, source.train_images)
    assert len(load_source("parquet", root=tmp_path, size=6, limit=5, seed=1).train_images) == 10


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    clean = write(tmp_path / "clean.parquet", {"sample_id": list(range(20)), "label": [2, 10] * 10})
    noisy = write(tmp_path / "noisy.parquet", {"sample_id": list(range(100, 120)), "label": [10, 2] * 10})
    assert load_source("parquet", clean=clean, noisy=noisy, size=6).classes == ("2", "10")


def test_numbers_with_gaps_are_read_alike_in_every_column(tmp_path: Path) -> None:
    clean = write(tmp_path / "clean.parquet", {"sample_id": list(range(20)), "label": [3, 5] * 10})
    labels = {"label": [3.0, 5.0, None, 5.0], "true_label": [5.0, 5.0, 3.0, None]}
    noisy = write(tmp_path / "noisy.parquet", {"sample_id": list(range(100, 104)), **labels})
    source = load_source("parquet", clean=clean, noisy=noisy, size=6)
    assert source.classes == ("3", "5")
    assert source.given is not None
    assert source.given[:3].tolist() == [0, 1, 1]
    assert source.train_labels[:3].tolist() == [1, 1, -1]


def test_numbers_of_a_class_label_have_its_names_in_every_column(tmp_path: Path) -> None:
    def named(path: Path, **names: Sequence[str]) -> Path:
        features = {column: {"names": found, "_type": "ClassLabel"} for column, found in names.items()}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
        return path

    clean = write(tmp_path / "clean.parquet", {"sample_id": list(range(20)), "label": ["cat", "dog"] * 10})
    labels = {"label": [0, 1, -1, 1], "true_label": [1, 0, 0, -1]}
    noisy = write(tmp_path / "noisy.parquet", {"sample_id": list(range(100, 104)), **labels})
    named(noisy, label=["dog", "cat"], true_label=["cat", "dog"])
    source = load_source("parquet", clean=clean, noisy=noisy, size=6)
    assert source.classes == ("dog", "cat")
    assert source.given is not None
    assert source.given[:3].tolist() == [0, 1, 1]
    assert source.train_labels[:3].tolist() == [0, 1, -1]
    assert sorted(set(source.test_labels.tolist())) == [0, 1]


def test_cifar10n_may_state_its_classes_as_a_class_label(cifar10n: Path) -> None:
    feature = {"names": ["airplane", "automobile", "bird", "cat"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"clean_label": feature}}})}
    for name in ("train.parquet", "test.parquet"):
        table = pq.read_table(cifar10n / name)
        pq.write_table(table.replace_schema_metadata(metadata), cifar10n / name)
    source = load_source("cifar10n", root=cifar10n, size=6)
    assert source.classes == ("airplane", "automobile", "bird", "cat")
    assert torch.equal(source.human["worst"], (source.train_labels + 1) % 4)


def test_own_files_without_a_usable_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"noisy\.parquet has no usable row; the first: it has no label"):
        own(tmp_path, label=pa.array([None] * 60, pa.string()))


def test_the_data_set_parquet_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the data set parquet needs clean\.parquet and noisy\.parquet"):
        load_source("parquet", clean=tmp_path / "clean.parquet", size=6)
    with pytest.raises(DataError, match=r"no file .*\.parquet"):
        load_source("parquet", clean=tmp_path / "clean.parquet", noisy=tmp_path / "noisy.parquet", size=6)


def test_reviews_of_the_clean_file_are_no_random_audits_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own(tmp_path)
    origin = {"provenance": ["review", "audit", "audit", "audit"] * 10}
    audited = {"sample_id": [f"c{row}" for row in range(40)], "label": ["cat", "dog"] * 20}
    source = load_source("parquet", root=_clean(tmp_path, audited | origin), size=6, seed=1)
    assert source.role is not None
    assert len(source.test_labels) + int((source.role == Role.CLEAN).sum()) == 30
    shades = torch.cat([source.test_images, source.train_images[source.role == Role.CLEAN]])[:, 0, 0, 0]
    assert (shades % 4 != 0).all()
    assert int((source.role == Role.NOISY).sum()) == 59, (
        "c0 is a review, and what was said of it is a label like others"
    )
    assert caplog.messages == [f"{tmp_path / 'clean.parquet'}: 10 rows of provenance “review” are left out"]
    with pytest.raises(DataError, match=r"provenance is “review” in every usable row"):
        load_source("parquet", root=_clean(tmp_path, audited | {"provenance": ["review"] * 40}), size=6)


def _clean(folder: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    write(folder / "clean.parquet", dict(columns))
    return folder


def test_numbers_index_the_classes_that_their_own_file_lists(tmp_path: Path) -> None:
    clean, noisy = tmp_path / "clean.parquet", tmp_path / "noisy.parquet"
    write(clean, {"sample_id": list(range(20)), "label": [0] * 20}, classes="cat,dog")
    write(noisy, {"sample_id": [100, 101], "label": [0, 1], "true_label": [1, 1]}, classes="dog,cat")
    source = load_source("parquet", clean=clean, noisy=noisy, size=6)
    assert source.classes == ("dog", "cat")
    assert (source.test_labels == 1).all()
    assert source.train_labels[:2].tolist() == [1, 1]
