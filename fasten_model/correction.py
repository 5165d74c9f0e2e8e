"""Label correction (Kye et al., ECCV 2022): follow a confident clean head, else go back to the annotators."""

import torch
from torch import Tensor


def correct_labels(probabilities: Tensor, original_labels: Tensor, rho: float) -> Tensor:
    """argmax p where max p ≥ ρ, else the **original** label ȳ*: int64 [B].

    Falling back to ȳ* rather than to the last correction undoes a miscorrection as soon as confidence falls.
    ρ > 1 never corrects; ρ = 0 always follows the model.

    probabilities [B,K]: softmax of the clean head. original_labels int64 [B]: ȳ*.
    """
    return corrections(probabilities, original_labels, rho)[0]


def corrections(probabilities: Tensor, original_labels: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """(`correct_labels`, whether it followed the model: max p ≥ ρ), int64 and bool [B]."""
    confidence, predicted = probabilities.max(dim=1)
    sure = confidence >= rho
    return torch.where(sure, predicted, original_labels), sure
