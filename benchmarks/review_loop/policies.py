"""Who asks about what: one policy chooses the questions of one round.

Policies that have no labels of their own hand out what was given until a person decides; `auto` alone also changes
labels by itself. Ties go to the sample that comes first in the pool, which is in random order.

* perfect order: the wrong labels and no others, in no order: what no policy that changes nothing by itself can beat;
  with the product's share of random questions among them, what no such policy with that slice can beat
* random · entropy, least confidence, margin: of calibrated p (Settles 2009, 3.1), blind to the given label
* cleanlab: `find_label_issues`, filled up by label quality, and ActiveLab (`get_active_learning_scores`), on our p and
  on out-of-fold p of their own (`benchmarks.review_loop.cleanlab_policies`)
* ours: `pipeline.triage.compose` (`benchmarks.review_loop.own_policies`)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from benchmarks.review_loop.cleanlab_policies import active_learning_scores, issue_ranking
from benchmarks.review_loop.ledger import Ledger, Question
from benchmarks.review_loop.looks import Kind, Look
from benchmarks.review_loop.own_policies import compose_questions
from benchmarks.review_loop.pool import Pool
from fasten_model.train.seeds import generator
from pipeline.records import AskedAs
from pipeline.settings import Settings

Choose = Callable[[Pool, Ledger, Look, int, int], Sequence[Question]]
"""(pool, decisions so far, model, most questions, round from 1) → the questions, most urgent first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A way to choose questions, and what becomes of the answers."""

    name: str
    kind: Kind
    """The model that it looks at."""
    choose: Choose
    applies: bool = False
    """Whether labels that the model is sure of are changed without asking (mode `auto`)."""
    all_claim: bool = False
    """Whether every answer counts as drawn at random, which only `random`'s are."""


def by_order(order: Callable[[Pool, Ledger, Look], Tensor], asked_as: AskedAs = "targeted") -> Choose:
    """The first open samples in an order, int64 places in the pool (decided ones in it are passed over)."""

    def choose(pool: Pool, ledger: Ledger, look: Look, most: int, _: int) -> list[Question]:
        found = order(pool, ledger, look)
        found = found[ledger.open[found]][:most]
        return [Question(sample=place, asked_as=asked_as) for place in found.tolist()]

    return choose


def by_score(score: Callable[[Tensor], Tensor]) -> Choose:
    """The highest of `score` [N] of p [N,K] first."""
    return by_order(lambda _, __, look: score(look.p.double()).argsort(descending=True, stable=True))


def entropy(p: Tensor) -> Tensor:
    """−Σ p·log p [N]."""
    surprise: Tensor = torch.special.entr(p)
    return surprise.sum(dim=1)


def least_confidence(p: Tensor) -> Tensor:
    """1 − max p [N]."""
    return 1 - p.amax(dim=1)


def margin(p: Tensor) -> Tensor:
    """−(largest − second largest p) [N]."""
    best = p.topk(2, dim=1).values
    return best[:, 1] - best[:, 0]


def shuffled(pool: Pool, *_: object) -> Tensor:
    """The pool in an order that no model has a say in."""
    return torch.randperm(len(pool), generator=generator(pool.seed, "review", "random policy"))


def wrong_ones(audit_share: float) -> Choose:
    """The wrong labels alone, by somebody who knows them, and evenly among them so many questions drawn at random."""

    def choose(pool: Pool, ledger: Ledger, _look: Look, most: int, _round: int) -> list[Question]:
        order = shuffled(pool)
        drawn = order[ledger.open[order]][: round(audit_share * most)].tolist()
        targeted = ledger.open & pool.wrong
        targeted[drawn] = False
        wrong = targeted.nonzero().flatten()[: most - len(drawn)].tolist()
        asked = [
            *((place(number, drawn), Question(sample=sample, asked_as="audit")) for number, sample in enumerate(drawn)),
            *(
                (place(number, wrong), Question(sample=sample, asked_as="targeted"))
                for number, sample in enumerate(wrong)
            ),
        ]
        return [question for _, question in sorted(asked, key=itemgetter(0))]

    def place(number: int, among: Sequence[int]) -> float:
        return (number + 0.5) / len(among)

    return choose


_ALL = (
    Policy(name="perfect order", kind="truth", choose=wrong_ones(0.0)),
    Policy(
        name="perfect order, with the slice",
        kind="truth",
        choose=wrong_ones(Settings.model_fields["audit_share"].default),
    ),
    Policy(name="random", kind="fasten", choose=by_order(shuffled, asked_as="audit")),
    Policy(name="entropy", kind="fasten", choose=by_score(entropy)),
    Policy(name="least confidence", kind="fasten", choose=by_score(least_confidence)),
    Policy(name="margin", kind="fasten", choose=by_score(margin)),
    Policy(name="cleanlab issues, our p", kind="fasten", choose=by_order(issue_ranking)),
    Policy(name="ActiveLab, our p", kind="fasten", choose=by_order(active_learning_scores)),
    Policy(name="cleanlab issues, own p", kind="folds", choose=by_order(issue_ranking)),
    Policy(name="ActiveLab, own p", kind="folds", choose=by_order(active_learning_scores)),
    Policy(name="ours, suggest", kind="fasten", choose=compose_questions("suggest")),
    Policy(name="ours, auto", kind="fasten", choose=compose_questions("auto"), applies=True),
    Policy(name="ours, suggest, no slice", kind="fasten", choose=compose_questions("suggest", audit_share=0.0)),
    Policy(
        name="ours, auto, all as audits", kind="fasten", choose=compose_questions("auto"), applies=True, all_claim=True
    ),
)
POLICIES = {policy.name: policy for policy in _ALL}
"""Every policy by name. The last two show what the random slice costs, and what goes wrong where every answer counts as
drawn at random."""
BOUNDS = ("perfect order", "perfect order, with the slice")
OURS = ("ours, suggest", "ours, auto")
CLEANLAB = tuple(name for name in POLICIES if name.startswith(("cleanlab", "ActiveLab")))
BIASED = "ours, auto, all as audits"
