"""Plain cross-entropy, without and with the clean set."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.methods import ce, ce_clean
from benchmarks.methods.base import Outcome
from benchmarks.methods.plain import passes, with_clean
from fasten_model.predict import predict_logits
from fasten_model.train import OURS

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


@pytest.fixture(scope="module")
def joined(toy: "Toy") -> Outcome:
    return ce_clean.run(toy.problem, toy.config)


def test_both_beat_chance_and_believe_in_distributions(toy: "Toy", cross_entropy: Outcome, joined: Outcome) -> None:
    for outcome in (cross_entropy, joined):
        assert toy.accuracy(outcome.network) > 0.6
        assert not outcome.network.training
        assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(len(toy.truth)))
        assert outcome.transition is None


def test_forty_five_true_labels_help(toy: "Toy", cross_entropy: Outcome, joined: Outcome) -> None:
    assert toy.accuracy(joined.network) > toy.accuracy(cross_entropy.network)
    assert toy.labels_right(joined) > toy.labels_right(cross_entropy)


def test_cross_entropy_does_not_look_at_the_clean_set(toy: "Toy") -> None:
    config = replace(toy.config, epochs=1)
    turned = replace(toy.problem, clean_labels=(toy.problem.clean_labels + 1) % 3)
    assert torch.equal(ce.run(toy.problem, config).beliefs, ce.run(turned, config).beliefs)
    assert not torch.equal(ce_clean.run(toy.problem, config).beliefs, ce_clean.run(turned, config).beliefs)


def test_the_seed_decides(toy: "Toy") -> None:
    one, same, other = (ce.run(toy.problem, replace(toy.config, epochs=1, seed=seed)).beliefs for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_remedies_of_fasten_are_not_the_baselines(toy: "Toy") -> None:
    config = replace(toy.config, epochs=1)
    averaged = replace(config, method=replace(OURS, ema=0.99))
    assert torch.equal(ce.run(toy.problem, averaged).beliefs, ce.run(toy.problem, config).beliefs)


def test_the_observer_sees_the_network_of_every_epoch(toy: "Toy") -> None:
    seen = []
    outcome = ce.run(
        toy.problem,
        replace(toy.config, epochs=2),
        lambda epoch, network: seen.append((epoch, predict_logits(network, toy.images)[0])),
    )
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert torch.equal(seen[-1][1], predict_logits(outcome.network, toy.images)[0])


def test_costs_are_counted_in_passes_over_the_noisy_set(toy: "Toy", cross_entropy: Outcome, joined: Outcome) -> None:
    assert cross_entropy.passes == 1
    assert joined.passes == 1 + 45 / 240
    config = replace(toy.config, epochs=4)
    assert passes(toy.problem, config, trained=[240, 120], predicted=240) == pytest.approx(1.5 + 1 / 3 / 4)


def test_clean_samples_follow_the_kept_noisy_ones(toy: "Toy") -> None:
    kept = torch.arange(240) < 2
    images, labels = with_clean(toy.problem, kept)
    assert torch.equal(labels, torch.cat([toy.problem.noisy_labels[:2], toy.problem.clean_labels]))
    assert torch.equal(images, torch.cat([toy.problem.noisy_images[:2], toy.problem.clean_images]))
