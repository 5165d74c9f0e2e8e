"""The transition matrix T, from a batch as the reference has it, or from sums that remember (Kye et al., ECCV 2022).

Shapes: B noisy batch, C clean batch, K classes, R annotators. T[i,j] = p(ȳ=j | y=i); rows sum to 1.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def identity_transition(num_classes: int, *, device: torch.device | None = None) -> Tensor:
    """T = I [K,K]: every label is right. The row of a class of which no clean sample has been seen yet."""
    return torch.eye(num_classes, device=device)


def clean_counts(noisy_logits: Tensor, clean_labels: Tensor, weights: Tensor) -> Tensor:
    """S[i] = Σ over the clean samples with y = i of softmax(θ̄(φ(x))), detached: [K,K], row sums count samples.

    By label, so the order of the batch does not matter. Sums of several batches or processes add up.

    noisy_logits [C,K]: noisy head on clean images. clean_labels int64 [C]: y. weights [C]: 0 for samples that were not
    drawn at random (reviews of what the model was unsure about), which would bias T̂.
    """
    probabilities = torch.softmax(noisy_logits.detach().float(), dim=1)  # [C, K]
    sums = probabilities.new_zeros(probabilities.shape[1], probabilities.shape[1])
    return sums.index_add_(0, clean_labels, probabilities * weights.to(probabilities.dtype)[:, None])


def bulk_counts(probabilities: Tensor, votes: Tensor) -> Tensor:
    """S[r,i,j] = Σ_b p_b[i]·1[annotator r said j of sample b]: soft counts of the original labels, [R,K,K].

    probabilities [B,K]: clean head on noisy images. votes int64 [B,R]: −1 where an annotator said nothing.
    """
    num_classes, annotators = probabilities.shape[1], votes.shape[1]
    if annotators == 1:  # the same, without what keeps them apart: in each step it counts on a CPU
        sums = probabilities.new_zeros(num_classes + 1, num_classes)  # the last row: of those who said nothing
        return sums.index_add_(0, votes[:, 0] % (num_classes + 1), probabilities)[None, :num_classes].transpose(1, 2)
    place = torch.arange(annotators, device=votes.device) * num_classes + votes.clamp(min=0)  # [B, R]
    said = (votes >= 0).to(probabilities.dtype)  # [B, R]
    sums = probabilities.new_zeros(annotators * num_classes, num_classes)
    sums.index_add_(0, place.flatten(), (probabilities[:, None] * said[:, :, None]).flatten(0, 1))
    return sums.view(annotators, num_classes, num_classes).transpose(1, 2)  # [R, given, true] → [R, true, given]


def batch_transition(previous: Tensor, counts: Tensor) -> Tensor:
    """T̂[i] = S[i] / its sum [K,K]; a row without a sample keeps that of `previous`."""
    total = counts.sum(dim=1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp(min=torch.finfo(counts.dtype).tiny), previous)


def estimate_transition(previous: Tensor, noisy_logits: Tensor, clean_labels: Tensor, estimates: Tensor) -> Tensor:
    """T̂[i] = mean over the clean samples with y = i of softmax(θ̄(φ(x))) [K,K]: the reference's, from one batch.

    previous [K,K]: keeps its row where the batch has no sample of that class; the rest as in `clean_counts`.
    """
    return batch_transition(previous, clean_counts(noisy_logits, clean_labels, estimates))


def dirichlet_transition(counts: Tensor, prior: Tensor, strength: float) -> Tensor:
    """(S + α·prior) / (its row sums): the mean of T given counts S under Dirichlet rows of strength α; [..., K, K]."""
    joined = counts + strength * prior
    return joined / joined.sum(dim=-1, keepdim=True)


def symmetric_transition(counts: Tensor) -> Tensor:
    """Symmetric noise with the pooled rate of agreement a = (trace + 1)/(total + 2) of `counts` [K,K]: [K,K].

    A prior that gives a class which nobody has seen a sensible row, and every entry a positive value.
    """
    num_classes = counts.shape[-1]
    agreement = (counts.trace() + 1) / (counts.sum() + 2)
    other = (1 - agreement) / (num_classes - 1)
    return other + (agreement - other) * torch.eye(num_classes, dtype=counts.dtype, device=counts.device)


def smooth_transition(transition: Tensor, smoothing: float) -> Tensor:
    """T ← (1−δ)T + δ/K: every entry positive, so log T is finite; rows [..., K] still sum to 1."""
    return (1 - smoothing) * transition + smoothing / transition.shape[-1]


def log_evidence(transitions: Tensor, votes: Tensor) -> Tensor:
    """Σ_r log T_r[i, vote_r] for each class i: [B,K], what the labels say of the true class.

    Several annotators are several independent observations of one truth (Dawid and Skene, 1979); with one label a
    sample this is log T[:,ȳ].

    transitions [R,K,K], positive. votes int64 [B,R]: −1 where an annotator said nothing.
    """
    rows = pad(transitions.log().transpose(1, 2), (0, 0, 0, 1))  # [R, given, true]; −1 is the last row, of zeros
    if len(rows) == 1:
        return rows[0, votes[:, 0]]
    annotators = torch.arange(len(rows), device=votes.device)
    return rows[annotators, votes].sum(dim=1)  # of [B, R, K]
