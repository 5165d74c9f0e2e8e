"""What is kept of a training's samples, and found again by sample and label."""

import torch

from fasten_model.stacking import Weights
from fasten_model.visited import Visited

IDS = tuple(f"s-{number}" for number in range(50))
LABELS = torch.arange(50) % 3
MEANS = -torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * 9
VISITED = Visited.of(IDS, LABELS, MEANS, Weights())


def test_samples_are_found_in_any_order_and_their_means_to_half_precision() -> None:
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    found, means = VISITED.find([IDS[place] for place in order.tolist()], LABELS[order])
    assert found.all()
    assert torch.equal(means, MEANS[order].half().double())


def test_another_label_or_another_sample_is_not_known() -> None:
    found, means = VISITED.find([IDS[0], IDS[1], "s-50", "0 s-0"], torch.tensor([0, 2, 2, 0]))
    assert found.tolist() == [True, False, False, False]
    assert (means[1:] == 0).all()


def test_any_text_is_an_id() -> None:
    odd = ("a\udcff", "", "ü", "0 s-0")  # the first as a file name that is no UTF-8 comes out of os.listdir
    kept = Visited.of(odd, LABELS[:4], MEANS[:4], Weights())
    assert kept.find(odd, LABELS[:4])[0].all()


def test_of_no_samples_none_is_known() -> None:
    none = Visited.of((), LABELS[:0], MEANS[:0], Weights())
    found, means = none.find(IDS, LABELS)
    assert not found.any()
    assert means.shape == (50, 3)
    assert VISITED.find((), LABELS[:0])[1].shape == (0, 3)
