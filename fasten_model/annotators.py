"""Each annotator's own transition matrix T_r, shrunk toward the one that all share, and how well it is known.

    T_r[i] ~ Dirichlet(α·T[i])                          what all annotators have in common, α samples strong a row
    n_r[i,j] = Σ_n q_n[i]·1[annotator r said j of n]    soft counts; an audited sample counts with q = its true class
    T_r[i] | votes = (α·T[i] + n_r[i]) / (α + Σ_j n_r[i,j])

in the spirit of Dawid and Skene (1979). Someone with few votes is taken to be like the others until more is known.

Shapes: N samples, P audited ones, K classes, R annotators. T[i,j] = p(said=j | true=i); rows sum to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasten_model.beta import beta_interval
from fasten_model.errors import DataError
from fasten_model.transition import dirichlet_transition, smooth_transition

STRENGTHS = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""The α that are compared: from annotators with little in common to annotators who are all alike."""
_SMOOTHING = 1e-6
"""δ of the shared T, so that it gives every answer a chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorTransitions:
    """What is known of R annotators."""

    names: tuple[str, ...]
    matrices: Tensor
    """float64 [R,K,K]: T_r, posterior mean."""
    sizes: Tensor
    """float64 [R,K,K]: samples' worth of what is known of each entry: the size of its Beta distribution."""
    votes: Tensor
    """int64 [R]: answers that were counted, those on audited samples included."""
    audited: Tensor
    """int64 [R]: those of them on audited samples."""
    truths: Tensor
    """float64 [R,K]: the true classes of what they labelled, expected number of each."""
    strength: float
    """α: samples that a row of the shared T is worth beside an annotator's own."""

    def intervals(self, mass: float = 0.95) -> tuple[Tensor, Tensor]:
        """(low, high), float64 [R,K,K]: each entry of T_r lies between them with probability `mass`."""
        return beta_interval(self.matrices, self.sizes, mass)

    def error_rates(self, mass: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """(rate, low, high), float64 [R]: share of wrong answers among what each annotator labelled.

        Σ_i π_r[i]·(1 − T_r[i,i]) with π_r the true classes of their samples (even, where there are none); its variance
        is the rows' together.
        """
        seen = self.truths.sum(dim=1, keepdim=True)
        share = torch.where(seen > 0, self.truths / seen.clamp(min=1e-9), 1 / self.truths.shape[1])  # [R, K]
        right = self.matrices.diagonal(dim1=1, dim2=2)  # [R, K]
        rate = (share * (1 - right)).sum(dim=1)
        spread = right * (1 - right) / (self.sizes.diagonal(dim1=1, dim2=2) + 1)
        variance = (share.square() * spread).sum(dim=1).clamp(min=1e-12)
        size = (rate * (1 - rate) / variance - 1).clamp(min=1)
        return rate, *beta_interval(rate, size, mass)


def annotator_transitions(
    beliefs: Tensor,
    votes: Tensor,
    shared: Tensor,
    names: Sequence[str],
    *,
    true_labels: Tensor | None = None,
    true_votes: Tensor | None = None,
    strength: float | None = None,
) -> AnnotatorTransitions:
    """Each annotator's T_r from what they said of samples that the model has a belief of, and of audited ones.

    beliefs [N,K]: q, rows sum to 1. votes int64 [N,R]: −1 where an annotator said nothing. shared [K,K]: the prior's
    mean. true_labels int64 [P], true_votes int64 [P,R]: samples that were audited *at random*. strength: α; else the
    one of `STRENGTHS` under which the counts are likeliest (empirical Bayes).

    The shared T knows each annotator's own answers already, and nothing else where there is only one. So a row of it is
    worth α samples to `matrices`, but to `sizes` no more than what the *others* have said: αM/(α + M) samples, M being
    their counts (the variance of T_r about T and that of T itself together).

    A soft count is not a count: where q is unsure, which row a vote belongs to is not known. So the variance of each
    entry is the Dirichlet's plus what the unsure q leave open, as for imputed data (Rubin, 1987), and `sizes` say what
    number of certain samples would leave as much open.

    Raises `DataError` where shapes do not fit each other.
    """
    num_classes = len(shared)
    _check(beliefs, votes, names, num_classes)
    prior = smooth_transition(shared.detach().double().cpu(), _SMOOTHING)
    soft, unsure = _soft_counts(beliefs.detach().double().cpu(), votes.cpu())
    audited = torch.zeros(len(names), dtype=torch.int64)
    if true_labels is not None and true_votes is not None:
        certain = torch.nn.functional.one_hot(true_labels.cpu(), num_classes).double()
        _check(certain, true_votes, names, num_classes)
        counts = soft + _soft_counts(certain, true_votes.cpu())[0]
        audited = (true_votes >= 0).sum(dim=0).cpu()
    else:
        counts = soft
    alpha = _likeliest_strength(counts, prior) if strength is None else strength
    matrices = dirichlet_transition(counts, prior, alpha)
    own = counts.sum(dim=2, keepdim=True)  # [R, K, 1]
    others = own.sum(dim=0) - own
    total = (own + alpha * others / (alpha + others)).clamp(min=1)
    # Var of (Σ_n q_n·(1[said j] − T[i,j])) / size, q_n being a coin that is not thrown yet.
    open_ = (1 - matrices).square() * unsure + matrices.square() * (unsure.sum(dim=2, keepdim=True) - unsure)
    within = matrices * (1 - matrices)
    variance = within / (total + 1) + open_ / total.square()
    sizes = (within / variance.clamp(min=torch.finfo(torch.float64).tiny) - 1).clamp(min=1)
    return AnnotatorTransitions(
        names=tuple(names),
        matrices=matrices,
        sizes=sizes,
        votes=(votes >= 0).sum(dim=0).cpu() + audited,
        audited=audited,
        truths=counts.sum(dim=2),
        strength=alpha,
    )


def pooled_counts(beliefs: Tensor, votes: Tensor) -> Tensor:
    """Σ_r n_r [K,K]: the soft counts of all annotators together."""
    return _soft_counts(beliefs.detach().double().cpu(), votes.cpu())[0].sum(dim=0)


def _soft_counts(beliefs: Tensor, votes: Tensor) -> tuple[Tensor, Tensor]:
    """(Σ q[i], Σ q[i]·(1−q[i])) over the samples that annotator r called j: [R,K,K] each, [annotator, true, said].

    An annotator at a time: what is held beside the result is as large as their own samples.
    """
    num_classes = beliefs.shape[1]
    sums = beliefs.new_zeros(2, votes.shape[1], num_classes, num_classes)
    for annotator, said in enumerate(votes.t()):
        answered = said >= 0
        q, given = beliefs[answered], said[answered]
        sums[0, annotator].index_add_(0, given, q)
        sums[1, annotator].index_add_(0, given, q * (1 - q))
    counts, unsure = sums.transpose(2, 3)
    return counts, unsure


def _likeliest_strength(counts: Tensor, prior: Tensor) -> float:
    """The α of `STRENGTHS` with the largest marginal likelihood of counts [R,K,K] (Dirichlet-multinomial rows)."""
    likelihoods = []
    for alpha in STRENGTHS:
        a = alpha * prior  # [K, K]
        row = torch.lgamma(a.sum(dim=1)) - torch.lgamma(a.sum(dim=1) + counts.sum(dim=2))  # [R, K]
        entry = torch.lgamma(a + counts) - torch.lgamma(a)
        likelihoods.append(float(row.sum() + entry.sum()))
    return STRENGTHS[max(range(len(STRENGTHS)), key=likelihoods.__getitem__)]


def _check(beliefs: Tensor, votes: Tensor, names: Sequence[str], num_classes: int) -> None:
    if votes.shape != (len(beliefs), len(names)) or beliefs.shape[1:] != (num_classes,):
        raise DataError(
            f"beliefs {list(beliefs.shape)}, votes {list(votes.shape)}, {len(names)} annotators and a shared "
            f"transition of {num_classes} classes do not fit each other: [N, K], [N, R], R and [K, K]"
        )
