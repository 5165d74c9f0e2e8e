"""The three terms of FasTEN's loss (Kye et al., ECCV 2022), in fp32 and O(B·K).

Shapes: B noisy batch, C clean batch, K classes. T[i,j] = p(ȳ=j | y=i); rows sum to 1.
"""

import torch
from torch import Tensor
from torch.nn import functional


def forward_loss(clean_logits: Tensor, noisy_labels: Tensor, transition: Tensor) -> Tensor:
    """−log (Tᵀp)[ȳ] per sample [B], p = softmax(clean_logits) (forward correction: Patrini et al. 2017, theorem 2).

    As −logsumexp_i(log p_i + log T[i,ȳ]), which neither forms Tᵀp nor underflows. Its gradient with respect to the
    logits is p − q, where q_i ∝ T[i,ȳ]·p_i is the posterior over the true class. T = I gives cross-entropy.

    clean_logits [B,K]: clean head on noisy images. noisy_labels int64 [B]: ȳ. transition [K,K]: a constant here.
    """
    log_p = functional.log_softmax(clean_logits.float(), dim=1)  # [B, K]
    log_t = transition.log().t()[noisy_labels]  # [B, K]: row b is log T[:, ȳ_b]
    return -torch.logsumexp(log_p + log_t, dim=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(logits)[label] per sample: logits [B,K], labels int64 [B] → [B]."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


def fasten_loss(forward: Tensor, clean: Tensor, noisy: Tensor, noisy_loss_weight: float) -> Tensor:
    """mean(forward ‖ clean) + λ·mean(noisy): one scalar.

    forward [B]: `forward_loss` over the noisy batch. clean [C]: cross-entropy of the clean head over the clean batch.
    noisy [B]: cross-entropy of the noisy head over the noisy batch. noisy_loss_weight: λ.
    """
    return torch.cat([forward, clean]).mean() + noisy_loss_weight * noisy.mean()
