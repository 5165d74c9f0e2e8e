"""What the model and the annotators' label say together of each sample, once training has ended.

Shapes: N samples, K classes. T[i,j] = p(given=j | true=i) of the *original* labels; rows sum to 1.
"""

import torch
from torch import Tensor

from fasten_model.transition import dirichlet_transition, symmetric_transition

ROUNDS = 1
"""Steps of expectation maximisation that T of the original labels is refined with (`soft_count_transition`)."""


def posterior(probabilities: Tensor, transition: Tensor, given_labels: Tensor, evidence: float = 1.0) -> Tensor:
    """q_i ∝ T[i,given]^γ·p_i: the true class given image and label, [N,K], rows sum to 1.

    γ = 1 is Bayes' rule for labels that depend on the true class alone. Those of people depend on the image too, and
    then part of what the label says is in p already (`fasten_model.calibrate.fit_evidence`).

    Where the given label is unknown (−1), or impossible for every class that p allows, q = p.

    probabilities [N,K]: calibrated p of the clean head. transition [K,K]. given_labels int64 [N]. evidence: γ ≥ 0.
    """
    likelihood = transition.to(probabilities).t()[given_labels.clamp(min=0)]  # [N, K]: T[:, given]
    joint = probabilities * likelihood**evidence
    total = joint.sum(dim=1, keepdim=True)
    usable = (given_labels >= 0)[:, None] & (total > 0)
    return torch.where(usable, joint / torch.where(usable, total, 1), probabilities)


def votes_posterior(probabilities: Tensor, transitions: Tensor, votes: Tensor, evidence: float = 1.0) -> Tensor:
    """q_i ∝ p_i·Π_r T_r[i, vote_r]^γ: the true class given image and every annotator's vote, [N,K], rows sum to 1.

    Several annotators are several independent observations of one truth (Dawid and Skene, 1979). Where nobody voted,
    q = p. With one annotator this is `posterior`.

    probabilities [N,K]: calibrated p. transitions [R,K,K]: T_r, positive. votes int64 [N,R]: −1 where r said nothing.
    evidence: γ ≥ 0.
    """
    tiny = torch.finfo(probabilities.dtype).tiny
    weighed = evidence * votes_log_likelihood(transitions.to(probabilities), votes)
    q = torch.softmax(probabilities.clamp(min=tiny).log() + weighed, dim=1)
    return torch.where((votes >= 0).any(dim=1, keepdim=True), q, probabilities)


def votes_log_likelihood(transitions: Tensor, votes: Tensor) -> Tensor:
    """Σ_r log T_r[i, vote_r] for each class i: [N,K]; 0 where nobody voted. An annotator at a time, to hold no [N,R,K].

    transitions [R,K,K], positive. votes int64 [N,R]: −1 where r said nothing.
    """
    total = transitions.new_zeros(len(votes), transitions.shape[-1])
    for own, said in zip(transitions.log(), votes.t(), strict=True):
        answered = said >= 0
        total[answered] += own.t()[said[answered]]
    return total


def soft_count_transition(
    probabilities: Tensor,
    given_labels: Tensor,
    num_classes: int,
    prior_strength: float = 100.0,
    pairs: Tensor | None = None,
    rounds: int = ROUNDS,
) -> Tensor:
    """T of the original labels, [K,K], rows sum to 1: soft counts of the bulk joined with audited pairs.

    The bulk's S[i,j] = Σ_n r_n[i]·1[given_n = j] (plus one count a row), its rows normalised to T_soft, is the mean of
    a Dirichlet prior of strength α for each row; the pairs are its observations:
    T[i] = (α·T_soft[i] + n[i]) / (α + Σ n[i]), where n[i,j] counts audited samples of class i that were given j.
    With no pairs T = T_soft.

    r = p at first. That smears T: an unsure p counts the given label for each class it allows, as if the label itself
    said nothing of the class. Each of `rounds` is a step of expectation maximisation (Dempster et al., 1977): r = q,
    the posterior under the T so far. Its limit over-shoots, because p has seen the labels in training; one step gave
    the best q on human and made noise alike (`benchmarks/relabel_precision.py`).

    probabilities [N,K]: calibrated p. given_labels int64 [N]: −1 is left out. prior_strength: α > 0, in samples.
    pairs int64 [P,2]: (true, given) of samples audited at random (given −1 is left out).
    """
    given, p = given_labels.long(), probabilities.double()
    known = given >= 0
    given, p = given[known], p[known]
    direct = p.new_zeros(num_classes, num_classes)
    if pairs is not None:
        true, said = pairs[pairs[:, 1] >= 0].long().to(p.device).unbind(dim=1)
        direct.index_put_((true, said), torch.ones_like(true, dtype=p.dtype), accumulate=True)
    responsibility = p
    for _ in range(rounds + 1):
        counts = p.new_zeros(num_classes, num_classes).index_add_(0, given, responsibility).t()  # [true, given]
        soft = dirichlet_transition(counts, symmetric_transition(counts), 1.0)
        transition = dirichlet_transition(direct, soft, prior_strength)
        responsibility = posterior(p, transition, given)
    return transition.to(probabilities.dtype)
