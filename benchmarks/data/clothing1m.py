"""Clothing1M (Xiao et al., CVPR 2015) in its official layout: a folder of text files and images.

    category_names_eng.txt                        14 lines, the name of class 0 first
    noisy_label_kv.txt  clean_label_kv.txt        `images/…/name.jpg 3` a line
    noisy_train_key_list.txt                      which images are for what: a path a line
    clean_train_key_list.txt  clean_val_key_list.txt  clean_test_key_list.txt
    images/…

The text files may also lie in `annotations/`, where many copies have them. Some images of the clean training list have
a noisy label too: these pairs are the only samples whose noise is known, and may be drawn into either set. Images of
the validation and test lists never are noisy samples.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from benchmarks.data import mistakes
from benchmarks.data.folders import existing_folder, some_of
from benchmarks.data.source import UNKNOWN, Role, Source
from fasten_model.errors import DataError
from fasten_model.images.decode import decode_image

DEFAULT_LIMIT = 100_000
"""Images of a list where no limit is given: a million of them would not fit in the memory of most machines."""
_MOST_IMAGE_BYTES = 50_000_000


def load_clothing1m(root: Path | None, *, size: int, limit: int | None, seed: int) -> Source:
    """At most `limit` images (None: `DEFAULT_LIMIT`) each of the noisy, clean, validation and test list."""
    limit = DEFAULT_LIMIT if limit is None else limit
    folder = existing_folder("clothing1m", root)
    texts = _Texts(folder)
    classes = tuple(texts.lines("category_names_eng.txt"))
    given = texts.labels("noisy_label_kv.txt", len(classes))
    truth = texts.labels("clean_label_kv.txt", len(classes))
    keys = {part: texts.keys(part, truth) for part in ("clean_train", "clean_val", "clean_test")}
    elsewhere = {key for part in keys.values() for key in part}
    keys["noisy_train"] = [key for key in texts.keys("noisy_train", given) if key not in elsewhere]
    drawn = {
        part: [names[row] for row in some_of(len(names), limit, seed, part).tolist()] for part, names in keys.items()
    }
    train = drawn["noisy_train"] + drawn["clean_train"] + drawn["clean_val"]
    roles = (
        [Role.NOISY] * len(drawn["noisy_train"])
        + [Role.ANY if key in given else Role.CLEAN for key in drawn["clean_train"]]
        + [Role.VALIDATION] * len(drawn["clean_val"])
    )
    return Source(
        name="clothing1m",
        train_images=_read(folder, train, size),
        # A noisy sample's truth stays unknown even where the clean file has it: it is in none of the clean lists.
        train_labels=torch.tensor(
            [UNKNOWN if role == Role.NOISY else truth[key] for key, role in zip(train, roles, strict=True)]
        ),
        test_images=_read(folder, drawn["clean_test"], size),
        test_labels=torch.tensor([truth[key] for key in drawn["clean_test"]]),
        classes=classes,
        mistaken_for=mistakes.next_class(len(classes)),
        given=torch.tensor([given.get(key, UNKNOWN) for key in train]),
        role=torch.tensor(roles),
    )


class _Texts:
    """The text files of one copy."""

    def __init__(self, folder: Path) -> None:
        below = folder / "annotations"
        self._folder = below if below.is_dir() else folder

    def lines(self, name: str) -> list[str]:
        path = self._folder / name
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path} cannot be read as text; give the folder of Clothing1M's official files with --root"
            ) from error
        found = [line.strip() for line in text.splitlines() if line.strip()]
        if not found:
            raise DataError(f"{path} is empty; give the file as published")
        return found

    def labels(self, name: str, num_classes: int) -> dict[str, int]:
        """Key → class of a `*_kv.txt`."""
        found = {}
        for number, line in enumerate(self.lines(name), start=1):
            key, _, label = line.rpartition(" ")
            if not (key and label.isascii() and label.isdecimal() and int(label) < num_classes):
                raise DataError(
                    f"{self._folder / name} entry {number} is {line[:80]!r}, not `image class` with a class below"
                    f" {num_classes}"
                )
            found[key] = int(label)
        return found

    def keys(self, part: str, labels: dict[str, int]) -> list[str]:
        """The keys of a `*_key_list.txt`, each once; each must be in `labels`."""
        name = f"{part}_key_list.txt"
        found = list(dict.fromkeys(self.lines(name)))
        lost = next((key for key in found if key not in labels), None)
        if lost is not None:
            raise DataError(f"{self._folder / name} lists {lost[:80]!r}, which has no label in the *_kv.txt file")
        return found


def _read(folder: Path, keys: Sequence[str], size: int) -> Tensor:
    """uint8 [n,3,size,size] of the images at `keys`, paths below `folder`."""
    root = folder.resolve()
    images = torch.empty(len(keys), 3, size, size, dtype=torch.uint8)
    for position, key in enumerate(keys):
        path = (root / PurePosixPath(key)).resolve()
        if not path.is_relative_to(root):
            raise DataError(f"{folder}: the image path {key[:80]!r} leads out of the folder; the lists were changed")
        try:
            with path.open("rb") as file:
                images[position] = decode_image(file.read(_MOST_IMAGE_BYTES), size)
        except (OSError, DataError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{path} cannot be used: {reason}") from error
    return images
