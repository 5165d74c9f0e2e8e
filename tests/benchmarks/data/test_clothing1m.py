"""Clothing1M's official layout, as a tree of a few images."""

from pathlib import Path

import pytest
import torch
from torchvision.io import encode_jpeg  # type: ignore[import-untyped]

from benchmarks.data import Role, Source, draw_cell, load_source, parse_noise
from fasten_model.errors import DataError

CLASSES = ("T-Shirt", "Shirt", "Knitwear")


def key(number: int) -> str:
    return f"images/{number % 10}/{number % 100:02}/{number},{number * 7}.jpg"


def publish(root: Path, below: str = "") -> None:
    """60 noisy images; 30 clean to train (0 … 9 of them have a noisy label too), 12 to validate, 12 to test.

    The shade of an image is five times its number; its true class is number mod 3.
    """
    noisy, train, val, test = range(100, 160), range(30), range(30, 42), range(42, 54)
    for number in (*noisy, *train, *val, *test):
        path = root / key(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = torch.full((3, 12, 8), number % 50 * 5, dtype=torch.uint8)
        path.write_bytes(encode_jpeg(shade, quality=95).numpy().tobytes())
    text = root / below
    text.mkdir(exist_ok=True)

    def write(name: str, lines: list[str]) -> None:
        (text / name).write_text("\n".join(lines) + "\n", "utf-8")

    write("category_names_eng.txt", list(CLASSES))
    # Images of the clean lists among the noisy ones, as in the original: one to train and one to test.
    said = {number: (number + 1) % 3 for number in (*noisy, *range(10), 42)}
    write("noisy_label_kv.txt", [f"{key(number)} {label}" for number, label in said.items()])
    write("clean_label_kv.txt", [f"{key(number)} {number % 3}" for number in (*train, *val, *test)])
    write("noisy_train_key_list.txt", [key(number) for number in (*noisy, 3, 42)])
    for name, part in (("train", train), ("val", val), ("test", test)):
        write(f"clean_{name}_key_list.txt", [key(number) for number in part])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clothing1m")
    publish(root)
    return root


def load(root: Path, limit: int | None = None) -> Source:
    return load_source("clothing1m", root=root, size=8, limit=limit, seed=1)


def test_each_list_has_its_role(tree: Path) -> None:
    source = load(tree)
    assert source.classes == CLASSES
    assert source.role is not None
    assert source.given is not None
    counts = {role: int((source.role == role).sum()) for role in Role}
    assert counts == {Role.NOISY: 60, Role.ANY: 10, Role.CLEAN: 20, Role.VALIDATION: 12}
    assert len(source.test_labels) == 12
    assert source.train_images.shape == (102, 3, 8, 8)
    # Pairs: the noisy label is the next class.
    pairs = source.role == Role.ANY
    assert torch.equal(source.given[pairs], (source.train_labels[pairs] + 1) % 3)
    assert (source.train_labels[source.role == Role.NOISY] == -1).all()
    assert (source.given[source.role == Role.CLEAN] == -1).all()


def test_images_belong_to_their_labels(tree: Path) -> None:
    source = load(tree)
    clean = source.train_labels != -1
    shades = source.train_images[clean].float().mean(dim=(1, 2, 3))
    assert torch.equal((shades / 5).round().long() % 3, source.train_labels[clean])


def test_limit_holds_for_each_list(tree: Path) -> None:
    source = load(tree, limit=11)
    assert source.role is not None
    assert len(source.train_images) == 33
    assert int((source.role == Role.NOISY).sum()) == 11
    assert len(source.test_images) == 11


def test_a_cell_of_its_own_noise(tree: Path) -> None:
    cell = draw_cell(load(tree), parse_noise("own"), noisy=50, clean=9, validation=12, seed=1)
    assert torch.bincount(cell.problem.clean_labels).tolist() == [3, 3, 3]
    assert (cell.problem.noisy_labels >= 0).all()
    torch.testing.assert_close(cell.true_transition, torch.eye(3).roll(1, dims=1))


def test_text_files_may_lie_in_annotations(tmp_path: Path) -> None:
    publish(tmp_path, "annotations")
    assert len(load(tmp_path, limit=3).test_images) == 3


def test_no_image_outside_the_folder_is_opened(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    publish(root)
    (tmp_path / "secret.jpg").write_bytes((root / key(0)).read_bytes())
    for line in ("../secret.jpg", str(tmp_path / "secret.jpg")):
        (root / "clean_label_kv.txt").write_text(f"{line} 0\n")
        for part in ("train", "val", "test"):
            (root / f"clean_{part}_key_list.txt").write_text(f"{line}\n")
        with pytest.raises(DataError, match=r"secret\S* leads out of the folder"):
            load(root)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "noisy_label_kv.txt",
            "images/a.jpg 3",
            r"entry 1 is 'images/a\.jpg 3', not `image class` with a class",
        ),
        ("clean_label_kv.txt", "images/a.jpg", "entry 1 is"),
        ("clean_val_key_list.txt", "images/none.jpg", r"lists 'images/none\.jpg', which has no label"),
        ("category_names_eng.txt", "", "is empty"),
        ("noisy_train_key_list.txt", None, r"noisy_train_key_list\.txt cannot be read"),
    ],
)
def test_files_that_are_not_as_published_are_one_clear_line(
    tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    publish(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=reason) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_lost_image_is_named(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / key(105)).unlink()
    with pytest.raises(DataError, match=r"105,735\.jpg cannot be used: No such file"):
        load(tmp_path)
