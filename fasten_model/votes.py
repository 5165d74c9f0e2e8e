"""The annotators' votes as one table of numbers: a row for each sample, a column for each annotator.

They come as an Arrow column list<struct<annotator, label>>, a snapshot's or a file's. What has no annotator or no label
is no vote, and of an annotator's votes of one sample the last one counts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasten_model.labelled import UNKNOWN

MOST_ANNOTATORS = 64
"""Annotators with a column of their own; each has a transition matrix of K·K numbers."""
LEAST_VOTES = 30
"""Votes from which an annotator has a column of their own: with fewer their own matrix is the shared one in all but
name."""
MOST_OTHERS = 4
"""Columns that all others share: so many of their votes of one sample are counted, the first by name."""
OTHERS = "others/"
"""What the shared columns' names begin with. Annotators of Label Studio are `user:{id}`."""


def count_votes(columns: Iterable[pa.ChunkedArray]) -> Mapping[str, int]:
    """Annotator → votes, in all of these columns."""
    counts: Counter[str] = Counter()
    for votes in columns:
        _, names, _ = flat(votes)
        for row in pc.value_counts(names).to_pylist():
            counts[row["values"]] += row["counts"]
    return counts


def columns_of(counts: Mapping[str, int], own: Sequence[str] | None = None) -> tuple[str, ...]:
    """Whose votes are told apart: those with most votes, in order of their names, then what the others share.

    own: the columns that a model knows, which are then those told apart.
    """
    if own is None:
        by_votes = sorted(counts, key=lambda name: (-counts[name], name))
        own = sorted(name for name in by_votes[:MOST_ANNOTATORS] if counts[name] >= LEAST_VOTES)
    else:
        own = [name for name in own if not name.startswith(OTHERS)]
    others = len(set(counts) - set(own))
    return (*own, *(f"{OTHERS}{number}" for number in range(1, min(others, MOST_OTHERS) + 1)))


def vote_table(votes: pa.ChunkedArray, columns: Sequence[str], classes: Sequence[str]) -> Tensor:
    """int64 [N,R]: the votes of N samples in the order of `columns`; −1 where there is none.

    A vote for a class that is none of `classes` is none.
    """
    rows, names, labels = flat(votes)
    table = np.full((len(votes), len(columns)), UNKNOWN, dtype=np.int64)
    own = [name for name in columns if not name.startswith(OTHERS)]
    column, label = _places(names, own), _places(labels, list(classes))
    cast = label >= 0
    named = cast & (column >= 0)
    table[rows[named], column[named]] = label[named]
    if len(columns) > len(own):
        unnamed = cast & (column < 0)
        row, said = rows[unnamed], label[unnamed]
        # The how-many-th of its sample each of them is: rows are in order.
        turn = np.arange(len(row)) - np.searchsorted(row, row, side="left")
        fits = turn < len(columns) - len(own)
        table[row[fits], len(own) + turn[fits]] = said[fits]
    return torch.from_numpy(table)


def count_unknown(votes: pa.ChunkedArray, classes: Sequence[str]) -> int:
    """How many votes are for none of these classes."""
    _, _, labels = flat(votes)
    return int((_places(labels, list(classes)) < 0).sum())


def majority(votes: Tensor, num_classes: int) -> Tensor:
    """int64 [N]: the class with most of the votes int64 [N,R]; −1 where there is none, or several have as many."""
    counts = torch.zeros(len(votes), num_classes, dtype=torch.int64)
    counts.scatter_add_(1, votes.clamp(min=0), (votes >= 0).long())
    most = counts.amax(dim=1, keepdim=True)
    alone = (most > 0).squeeze(1) & ((counts == most).sum(dim=1) == 1)
    return torch.where(alone, counts.argmax(dim=1), UNKNOWN)


def flat(votes: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array, pa.Array]:
    """(row, annotator, label) of each vote that counts, in order of the rows, and in a row of the annotators' names."""
    lists = votes.combine_chunks()
    structs = pc.list_flatten(lists)
    rows = np.asarray(pc.list_parent_indices(lists).to_numpy(zero_copy_only=False), dtype=np.int64)
    names, labels = (pc.struct_field(structs, field).cast(pa.string()) for field in ("annotator", "label"))
    whole = pc.and_(names.is_valid(), labels.is_valid())
    if pc.all(whole).as_py() is False:
        rows = rows[np.asarray(whole.to_numpy(zero_copy_only=False), dtype=bool)]
        names, labels = names.filter(whole), labels.filter(whole)
    return _once(rows, names, labels)


def _once(rows: NDArray[np.int64], names: pa.Array, labels: pa.Array) -> tuple[NDArray[np.int64], pa.Array, pa.Array]:
    """One vote of each annotator and row, the last, and in their order."""
    coded = names.dictionary_encode()
    by_name = np.asarray(pc.array_sort_indices(coded.dictionary).to_numpy(), dtype=np.int64)
    rank = np.empty_like(by_name)
    rank[by_name] = np.arange(len(by_name))
    places = rows * len(by_name) + rank[np.asarray(coded.indices.to_numpy(), dtype=np.int64)]
    if (np.diff(places) > 0).all():
        return rows, names, labels
    order = np.argsort(places, kind="stable")
    kept = order[np.append(np.diff(places[order]) > 0, True)]
    chosen = pa.array(kept, pa.int64())
    return rows[kept], names.take(chosen), labels.take(chosen)


def _places(values: pa.Array, among: list[str]) -> NDArray[np.int64]:
    """int64: the place of each value in `among`, −1 where it is none of them."""
    found = pc.fill_null(pc.index_in(values, pa.array(among, pa.string())), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)
