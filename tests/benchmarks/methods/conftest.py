"""The toy of the harness: three handwritten digits, four labels in ten wrong, learnt in seconds on one core."""

from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.methods import ce
from benchmarks.methods.base import Outcome, Problem
from fasten_model.predict import predict_logits
from fasten_model.train import TrainConfig

DIGITS = (3, 5, 8)
NOISY, CLEAN = 240, 45
WRONG = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy:
    """One problem and what no method is told of it."""

    problem: Problem
    """N = 240 noisy 16×16 images, C = 45 clean ones (15 a class), K = 3."""
    config: TrainConfig
    """Preset `small` on the CPU; plain cross-entropy takes less than a second."""
    truth: Tensor
    """int64 [N]: the true labels of the noisy images."""
    transition: Tensor
    """T [3,3] that the noise was drawn from, T[i,j] = p(given=j | true=i): 0.4 of each class becomes the next."""
    images: Tensor
    """uint8 [M,3,16,16]: held out."""
    labels: Tensor
    """int64 [M]: their true labels."""

    def accuracy(self, network: nn.Module) -> float:
        """Share of the held-out images that the clean head labels right; chance is a third."""
        logits, _ = predict_logits(network, self.images)
        return float((logits.argmax(dim=1) == self.labels).float().mean())

    def labels_right(self, outcome: Outcome) -> float:
        """Share of the noisy samples that the method believes to be of their true class; as given it is 0.60."""
        return float((outcome.beliefs.argmax(dim=1) == self.truth).float().mean())

    def transition_error(self, transition: Tensor) -> float:
        """Mean absolute error of T̂; the identity's is 0.27."""
        return float((transition - self.transition).abs().mean())


@pytest.fixture(scope="session")
def toy() -> Toy:
    """The same for every test: nothing in it is written to."""
    generator = torch.Generator().manual_seed(0)
    digits = load_digits()
    of_three = torch.isin(torch.from_numpy(digits.target), torch.tensor(DIGITS)).nonzero().flatten()
    order = of_three[torch.randperm(len(of_three), generator=generator)]
    truth = torch.searchsorted(torch.tensor(DIGITS), torch.from_numpy(digits.target)[order])
    pixels = torch.from_numpy(digits.images)[order] * (255 / 16)  # [537, 8, 8]
    images = pixels.round().to(torch.uint8).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].repeat(1, 3, 1, 1)

    each = CLEAN // len(DIGITS)
    clean = torch.cat([(truth == label).nonzero().flatten()[:each] for label in range(len(DIGITS))])
    rest = torch.ones(len(truth), dtype=torch.bool).index_fill_(0, clean, False).nonzero().flatten()
    noisy, held_out = rest[:NOISY], rest[NOISY:]
    eye = torch.eye(len(DIGITS))
    transition = (1 - WRONG) * eye + WRONG * eye.roll(1, dims=1)
    given = torch.multinomial(transition[truth], 1, generator=generator).squeeze(1)
    return Toy(
        problem=Problem(
            noisy_images=images[noisy],
            noisy_labels=given[noisy],
            clean_images=images[clean],
            clean_labels=truth[clean],
            clean_given=given[clean],
            num_classes=len(DIGITS),
        ),
        config=TrainConfig(preset="small", epochs=12, noisy_batch=32, clean_batch=15, device="cpu", seed=1),
        truth=truth[noisy],
        transition=transition,
        images=images[held_out],
        labels=truth[held_out],
    )


@pytest.fixture(scope="session")
def cross_entropy(toy: Toy) -> Outcome:
    """What the toy's noisy labels alone teach: every method must beat it."""
    return ce.run(toy.problem, toy.config)
