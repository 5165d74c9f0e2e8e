"""What callers give, checked once and told in one line: tensors, labels, votes, numbers, names of classes."""

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, TypeGuard, Union

import torch
from torch import Tensor

from fasten_model.errors import DataError

if TYPE_CHECKING:
    from fasten_model.images.source import Images


def check_tensor(name: str, found: object) -> None:
    """`DataError` unless `found` is a tensor, or images that tell type and shape as one does.

    NumPy's arrays have most of a tensor's methods, and would fail far from here.
    """
    if isinstance(getattr(found, "dtype", None), torch.dtype):
        return
    kind = type(found).__name__
    if hasattr(found, "dtype") and hasattr(found, "shape"):
        kind = f"{kind} {found.dtype} {list(found.shape)}"
    raise DataError(
        f"{name} must be a tensor, got {kind}: torch.from_numpy(…) makes one of an array, torch.tensor(…) of a list"
    )


def shown(tensor: Union[Tensor, "Images"]) -> str:
    """Type and shape, as in “int64 [3, 2]”."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_labels(name: str, labels: Tensor, count: int, num_classes: int) -> None:
    """`DataError` unless `labels` is int64 [count] within 0…num_classes − 1."""
    check_tensor(name, labels)
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise DataError(f"{name} must be int64 [{count}], got {shown(labels)}")
    _check_range(name, labels, 0, num_classes)


def check_votes(name: str, votes: Tensor, shape: tuple[int, int], num_classes: int) -> None:
    """`DataError` unless `votes` is int64 of that shape within −1 (nothing said) … num_classes − 1."""
    check_tensor(name, votes)
    if votes.dtype != torch.int64 or tuple(votes.shape) != shape:
        raise DataError(f"{name} must be int64 {list(shape)}, got {shown(votes)}")
    _check_range(name, votes, -1, num_classes)


def _check_range(name: str, values: Tensor, lowest: int, num_classes: int) -> None:
    if values.numel() == 0:
        return
    low, high = (int(value) for value in values.aminmax())
    if low < lowest or high >= num_classes:
        raise DataError(
            f"{name} must be from {str(lowest).replace('-', '−')} to {num_classes - 1}, "
            f"found {low if low < lowest else high}"
        )


def check_finite(name: str, logits: Tensor) -> None:
    """`DataError` unless the network says something finite, logits [N,K], of each of the N images called `name`.

    What is computed of NaN is compared, and sorted, without a word.
    """
    lost = ~torch.isfinite(logits).all(dim=1)
    if lost.any():
        raise DataError(
            f"of {int(lost.sum())} of {len(lost)} {name} the network says nothing finite (the first: number "
            f"{int(lost.nonzero()[0])}); train again, with a lower learning rate or another trunk"
        )


def check_names(what: str, names: Sequence[str]) -> None:
    """`DataError` unless these are different texts, none empty, that a file can hold (UTF-8)."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise DataError(f"{what} must be a list of texts in the order of their numbers, got {names!r:.80}")
    if len(set(map(str, names))) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{what} must be different texts, not empty, got {', '.join(map(repr, names[:10]))}")
    check_encodable(what, names)


def check_encodable(what: str, names: Sequence[str]) -> None:
    """`DataError` unless UTF-8 can hold these texts: what came out of broken bytes has lone surrogates, and is found
    only when the model is saved."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{what}: {name!r} is no text that UTF-8 can hold (a lone surrogate); rename it") from None


def check_whole(name: str, value: object, lowest: int) -> None:
    """`DataError` unless `value` is a whole number from `lowest`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise DataError(f"{name} must be a whole number from {lowest}, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """`DataError` unless `value` is a truth value: the text `no` would pass for true."""
    if not isinstance(value, bool):
        raise DataError(f"{name} must be True or False, got {value!r}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number: no text, as YAML makes of 1e-3, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)
