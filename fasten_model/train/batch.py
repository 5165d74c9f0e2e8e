"""What a step is given, and what it gives back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One set's samples in a step, as far as they are this process's."""

    index: Tensor
    """int64 [b]: numbers of the samples, on the device."""
    images: Tensor
    """uint8 [b,3,S,S]: on the device, not augmented yet."""
    positions: Tensor | None
    """int64 [b]: their places in the batch of all processes, on the device; None: this is all of it."""
    size: int
    """B: samples in the batch of all processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step."""

    step: int
    """From 0."""
    steps: int
    """Of the whole training."""
    lr: float
    """The optimiser's rate in this step."""
    noisy: Part
    clean: Part | None
    """None where the loop was given no clean set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLosses:
    """Losses of one step, scalars on the device, each a mean over the whole batch; only `total` is descended.

    In one of several processes: this process's summands of each mean, so that the processes' sum is the mean.
    """

    total: Tensor
    forward: Tensor
    clean: Tensor
    noisy: Tensor


class TrainingStep(ABC):
    """A method, as the loop sees it: batch in, losses out, and whatever it remembers between two steps."""

    @abstractmethod
    def __call__(self, batch: Batch) -> StepLosses:
        """The losses of `batch`; the loop descends `total`."""

    def metrics(self) -> tuple[Tensor, Tensor] | None:
        """(share of the noisy labels that are corrected, mean diagonal of T̂), scalars; None: there are neither."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name: what a checkpoint keeps."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned. `ValueError` if that is not of such a step."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state")
