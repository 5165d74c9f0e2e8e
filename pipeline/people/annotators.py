"""Each annotator's own transition matrix, from a snapshot and the scores of its noisy samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fasten_model.annotators import AnnotatorTransitions, annotator_transitions, pooled_counts
from fasten_model.beta import beta_interval
from fasten_model.transition import dirichlet_transition, symmetric_transition
from fasten_model.votes import MOST_ANNOTATORS, vote_table
from pipeline.errors import DataError
from pipeline.people.records import Annotator, Confusion, Share
from pipeline.records import NAMELESS
from pipeline.snapshot import Snapshot
from pipeline.votes import count_votes

MOST_CONFUSIONS = 3
"""Told of each annotator."""
LEAST_EXPECTED = 1.0
"""Samples that a confusion must be expected to have happened to."""
SURELY_ABOVE = 0.02
"""Share that a confusion must exceed with a probability of 97.5 %: what everybody mistypes is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """Samples with what is believed or known of their true class, and who said what of them."""

    beliefs: Tensor
    """float64 [N,K]"""
    votes: Tensor
    """int64 [N,R]"""


def annotators_of(snapshot: Snapshot, scores: pa.Table | None) -> tuple[tuple[Annotator, ...], int, float | None]:
    """(those with most wrong labels first, how many have too few votes to be told, α).

    scores: rows of `schema.SCORES`, whose posterior is the belief; without them only what people have decided counts.

    Samples that people have decided count with their label. That includes those that were asked because the model
    doubted (provenance `review`): of the undecided ones the wrong labels have been taken away by those very reviews, so
    that the undecided alone would make every annotator look better than they are, and the reviewed alone, worse. What
    was asked depended on what was known of votes and images only, so that together they are not biased (Rubin, 1976).

    Nobody is told of whose user was deleted: each of their votes has a name of its own.
    """
    counts = {name: votes for name, votes in count_votes(snapshot).items() if not name.startswith(NAMELESS)}
    names = tuple(sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_ANNOTATORS]))
    if not names:
        return (), 0, None
    clean = pq.read_table(snapshot.clean_path, columns=["label", "votes", "provenance"])
    reviewed, audited = (_decided(clean, kind, names, snapshot.classes) for kind in ("review", "audit"))
    parts = [_undecided(snapshot, scores, names), reviewed]
    beliefs, votes = torch.cat([part.beliefs for part in parts]), torch.cat([part.votes for part in parts])
    pooled = pooled_counts(beliefs, votes) + pooled_counts(audited.beliefs, audited.votes)
    shared = dirichlet_transition(pooled, symmetric_transition(pooled), 1.0)
    found = annotator_transitions(
        beliefs, votes, shared, names, true_labels=audited.beliefs.argmax(dim=1), true_votes=audited.votes
    )
    every = _described(found, snapshot.classes)
    return (
        tuple(sorted(every, key=lambda each: (-each.expected_wrong, each.name))),
        len(counts) - len(names),
        found.strength,
    )


def _decided(clean: pa.Table, provenance: str, names: Sequence[str], classes: Sequence[str]) -> _Known:
    rows = clean.filter(pc.field("provenance") == provenance)
    places = {name: place for place, name in enumerate(classes)}
    labels = torch.tensor([places[label] for label in rows["label"].to_pylist()], dtype=torch.int64)
    return _Known(
        beliefs=torch.nn.functional.one_hot(labels, len(classes)).double(),
        votes=vote_table(rows["votes"], names, classes),
    )


def _undecided(snapshot: Snapshot, scores: pa.Table | None, names: Sequence[str]) -> _Known:
    """The noisy samples that have been scored."""
    noisy = pq.read_table(snapshot.noisy_path, columns=["sample_id", "votes"])
    count = len(snapshot.classes)
    if scores is None or len(scores) == 0 or len(noisy) == 0:
        return _Known(beliefs=torch.empty(0, count, dtype=torch.float64), votes=torch.empty(0, len(names)).long())
    posterior = scores["posterior"].combine_chunks()
    sizes = set(pc.unique(pc.list_value_length(posterior)).to_pylist())
    if sizes != {count}:
        raise DataError(
            f"the scores know {', '.join(map(str, sorted(sizes, key=str)))} classes, the snapshot {count}: "
            "they belong to another round; run `fasten retrain --force`"
        )
    beliefs = np.asarray(posterior.flatten().to_numpy(zero_copy_only=False), dtype=np.float64).reshape(-1, count)
    place = pc.index_in(noisy["sample_id"], scores["sample_id"].combine_chunks())
    scored = noisy.filter(pc.is_valid(place))
    rows = place.drop_null().to_numpy()
    return _Known(beliefs=torch.from_numpy(beliefs[rows]), votes=vote_table(scored["votes"], names, snapshot.classes))


def _described(found: AnnotatorTransitions, classes: Sequence[str]) -> list[Annotator]:
    rates = torch.stack(found.error_rates(), dim=1).tolist()  # [R, 3]
    return [
        Annotator(
            name=name,
            votes=int(found.votes[place]),
            audited=int(found.audited[place]),
            error=_share(*rates[place]),
            expected_wrong=rates[place][0] * int(found.votes[place]),
            confusions=_confusions(found.matrices[place], found.sizes[place], found.truths[place], classes),
            matrix=tuple(tuple(row) for row in found.matrices[place].tolist()),
        )
        for place, name in enumerate(found.names)
    ]


def _confusions(matrix: Tensor, sizes: Tensor, truths: Tensor, classes: Sequence[str]) -> tuple[Confusion, ...]:
    """The confusions that happen most often and surely do: matrix [K,K], sizes [K,K], truths [K]."""
    expected = (truths[:, None] * matrix).fill_diagonal_(0)  # [K, K]
    order = expected.flatten().argsort(descending=True, stable=True)[: 4 * MOST_CONFUSIONS]
    low, high = beta_interval(matrix.flatten()[order], sizes.flatten()[order])
    found = []
    for place, bottom, top in zip(order.tolist(), low.tolist(), high.tolist(), strict=True):
        truth, said = divmod(place, len(classes))
        happened = float(expected[truth, said])
        if happened >= LEAST_EXPECTED and bottom > SURELY_ABOVE:
            share = _share(float(matrix[truth, said]), bottom, top)
            found.append(Confusion(truth=classes[truth], said=classes[said], share=share, expected=happened))
    return tuple(found[:MOST_CONFUSIONS])


def _share(value: float, low: float, high: float) -> Share:
    return Share(value=value, low=low, high=high)
