"""The terms of FasTEN's loss (Kye et al., ECCV 2022), in fp32 and O(B·K).

Shapes: B noisy batch, C clean batch, K classes. T[i,j] = p(ȳ=j | y=i); rows sum to 1.
"""

import torch
from torch import Tensor
from torch.nn import functional


def forward_loss(clean_logits: Tensor, noisy_labels: Tensor, transition: Tensor) -> Tensor:
    """−log (Tᵀp)[ȳ] per sample [B], p = softmax(clean_logits) (forward correction: Patrini et al. 2017, theorem 2).

    Its gradient with respect to the logits is p − q, where q_i ∝ T[i,ȳ]·p_i is the posterior over the true class.
    T = I gives cross-entropy.

    clean_logits [B,K]: clean head on noisy images. noisy_labels int64 [B]: ȳ. transition [K,K]: a constant here.
    """
    return evidence_loss(clean_logits, transition.log().t()[noisy_labels])  # row b is log T[:, ȳ_b]


def evidence_loss(clean_logits: Tensor, log_evidence: Tensor) -> Tensor:
    """−log Σ_i p_i·e_i per sample [B]: the forward loss where e_i = p(all that was said of the sample | y = i).

    As −logsumexp_i(log p_i + log e_i), which neither forms Tᵀp nor underflows.

    clean_logits [B,K]. log_evidence [B,K]: log T[:,ȳ] of one label, or `fasten_model.transition.log_evidence` of
    several.
    """
    log_p = functional.log_softmax(clean_logits.float(), dim=1)  # [B, K]
    return -torch.logsumexp(log_p + log_evidence, dim=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(logits)[label] per sample: logits [B,K], labels int64 [B] → [B]."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−Σ_i target_i·log softmax(logits)_i per sample: logits and targets [B,K] → [B]."""
    return -(targets * functional.log_softmax(logits.float(), dim=1)).sum(dim=1)


def resampling_weights(clean_logits: Tensor, log_evidence: Tensor, noisy_labels: Tensor) -> Tensor:
    """p[ȳ]/(Tᵀp)[ȳ] per sample [B], detached: how often RENT draws it again (Bae et al., ICLR 2024, eq. 7).

    Samples so weighted follow the clean distribution, whatever T does to single labels.
    """
    log_p = functional.log_softmax(clean_logits.detach().float(), dim=1)
    own = log_p.gather(1, noisy_labels[:, None]).squeeze(1)  # log p[ȳ]
    return torch.exp(own - torch.logsumexp(log_p + log_evidence, dim=1))
