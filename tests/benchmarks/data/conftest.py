"""A small data set without files: ten classes, each with a colour of its own under random pixels."""

import pytest
import torch

from benchmarks.data import Source

SAMPLES = 6000


@pytest.fixture(scope="session")
def source() -> Source:
    """6,000 training and 50 test images of 4 × 4, ten classes; 0 → 1, 2 ↔ 3 are mistaken, `worst` is human."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (SAMPLES,), generator=chance)
    noise = torch.randint(120, (SAMPLES, 3, 4, 4), generator=chance)
    images = (noise + 10 * labels[:, None, None, None]).to(torch.uint8)
    worst = torch.where(torch.rand(SAMPLES, generator=chance) < 0.4, (labels + 1) % 10, labels)
    return Source(
        name="toy",
        train_images=images,
        train_labels=labels,
        test_images=images[:50],
        test_labels=labels[:50],
        classes=tuple("abcdefghij"),
        mistaken_for=(1, 1, 3, 2, 4, 5, 6, 7, 8, 9),
        human={
            "rater_1": labels,
            "rater_2": worst,
            "rater_3": (labels + 1) % 10,
            "worst": worst,
        },
    )
