"""FasTEN in the harness: as published, ours, and any variant."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.methods import fasten
from benchmarks.methods.base import Observer, Outcome, beliefs_of
from fasten_model.holding_out import is_held_out
from fasten_model.posterior import posterior
from fasten_model.stacking import Weights
from fasten_model.train import OURS, PAPER, TrainConfig, Trained, TrainingSet, train
from fasten_model.transition import smooth_transition

if TYPE_CHECKING:
    from tests.benchmarks.methods.conftest import Toy


@pytest.fixture(scope="module")
def paper(toy: "Toy") -> Outcome:
    return fasten.run_paper(toy.problem, toy.config)


@pytest.fixture(scope="module")
def ours(toy: "Toy") -> Outcome:
    return fasten.run_uncalibrated(toy.problem, toy.config)


def test_both_beat_cross_entropy_by_far(toy: "Toy", paper: Outcome, ours: Outcome, cross_entropy: Outcome) -> None:
    for outcome in (paper, ours):
        assert toy.accuracy(outcome.network) > toy.accuracy(cross_entropy.network) + 0.05
        assert toy.labels_right(outcome) > 0.95
        assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(240))


def test_the_paper_believes_its_clean_head_and_its_transition_is_of_corrected_labels(
    toy: "Toy", paper: Outcome, ours: Outcome
) -> None:
    assert torch.equal(paper.beliefs, beliefs_of(paper.network, toy.problem.noisy_images))
    assert paper.transition is not None
    assert paper.transition_of is not None
    assert not torch.equal(paper.transition_of, toy.problem.noisy_labels)
    assert ours.transition_of is None


def test_ours_joins_what_the_head_says_with_the_given_label_and_with_the_visits_where_they_are_kept(
    toy: "Toy", ours: Outcome
) -> None:
    plain = fasten.run_uncalibrated(toy.problem, replace(toy.config, method=replace(OURS, visits=False)))
    for outcome in (ours, plain):
        assert outcome.transition is not None
        assert toy.transition_error(outcome.transition) < 0.08
        p = beliefs_of(outcome.network, toy.problem.noisy_images)
        smooth = smooth_transition(outcome.transition, OURS.smoothing)
        known = torch.allclose(outcome.beliefs, posterior(p, smooth, toy.problem.noisy_labels), atol=1e-5)
        assert known == (outcome is plain)


def test_the_callers_switches_are_those_of_ours_and_not_of_the_paper(toy: "Toy") -> None:
    config = replace(toy.config, epochs=1)
    other = replace(config, method=replace(OURS, noisy_loss_weight=0.5))
    assert not torch.equal(
        fasten.run_uncalibrated(toy.problem, config).beliefs, fasten.run_uncalibrated(toy.problem, other).beliefs
    )
    assert torch.equal(fasten.run_paper(toy.problem, config).beliefs, fasten.run_paper(toy.problem, other).beliefs)


def test_ours_is_ours_under_the_preset_of_the_paper_too(toy: "Toy", monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainConfig] = []

    def stop(*given: object, **_: object) -> None:
        seen.extend(one for one in given if isinstance(one, TrainConfig))
        raise InterruptedError

    monkeypatch.setattr(fasten, "train", stop)
    monkeypatch.setattr(fasten, "fit", stop)
    for run in (fasten.run, fasten.run_paper):
        with pytest.raises(InterruptedError):
            run(toy.problem, TrainConfig(preset="paper", device="cpu"))
    assert [config.method for config in seen] == [OURS, PAPER]


def test_scored_with_the_posterior_the_papers_training_has_a_transition_of_the_original_labels(toy: "Toy") -> None:
    outcome = fasten.run_uncalibrated(toy.problem, replace(toy.config, method=PAPER))
    assert outcome.transition is not None
    assert toy.transition_error(outcome.transition) < 0.08
    assert toy.labels_right(outcome) > 0.95


def test_audited_samples_tell_the_transition_by_the_label_that_they_had(toy: "Toy") -> None:
    """One epoch knows little: then what the audited samples were called is most of what T̂ rests on."""
    config = replace(toy.config, epochs=1, method=replace(OURS, pair_weight=1e4))
    known = fasten.run_uncalibrated(toy.problem, config).transition
    unknown = fasten.run_uncalibrated(replace(toy.problem, clean_given=torch.full((45,), -1)), config).transition
    counts = torch.zeros(3, 3).index_put_(
        (toy.problem.clean_labels, toy.problem.clean_given), torch.ones(45), accumulate=True
    )
    assert known is not None
    assert unknown is not None
    assert torch.allclose(known, counts / 15, atol=0.01)
    assert not torch.allclose(unknown, counts / 15, atol=0.05)


def test_the_annotator_who_is_right_is_believed(toy: "Toy", monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three knows every label but skips every other sample; the third guesses."""
    guesses = torch.randint(3, (240,), generator=torch.Generator().manual_seed(3))
    votes = torch.stack([toy.problem.noisy_labels, toy.truth, guesses], dim=1)
    votes[::2, 1] = -1
    config = replace(toy.config, epochs=6)
    trained: list[Trained] = []

    def remembered(training_set: TrainingSet, config: TrainConfig, *, observer: Observer | None = None) -> Trained:
        trained.append(train(training_set, config, observer=observer))
        return trained[-1]

    monkeypatch.setattr(fasten, "train", remembered)
    outcome = fasten.run(replace(toy.problem, votes=votes), config)
    assert torch.equal(outcome.beliefs.argmax(dim=1)[1::2], toy.truth[1::2])
    # q ∝ p^w₁·v^w₂·Π_r T_r[:, vote_r]^w₃, one annotator after the other
    p, weights = beliefs_of(outcome.network, toy.problem.noisy_images), Weights()
    assert trained[0].visits is not None
    expected = torch.softmax(weights.network * p.log() + weights.visits * trained[0].visits, dim=1)
    assert len(trained[0].transitions) == 3
    for annotator, transition in enumerate(trained[0].transitions):
        expected = posterior(expected, transition, votes[:, annotator], weights.evidence)
    assert torch.allclose(outcome.beliefs, expected, atol=1e-4)


@pytest.mark.parametrize(("features", "looks"), [(False, 1.0), (True, 4 / 3)])
def test_the_clean_batch_is_what_it_costs(toy: "Toy", features: bool, looks: float) -> None:
    method = replace(OURS, estimator="clean_decayed", noisy_loss_weight=0.5, evaluation_features=features)
    config = replace(toy.config, epochs=1, clean_batch=6, method=method)
    assert fasten.run_uncalibrated(toy.problem, config).passes == pytest.approx(1 + looks * 6 * 8 / 240)


def test_what_is_held_out_is_looked_at_in_every_epoch_and_the_bulk_once_at_the_end(toy: "Toy") -> None:
    config = replace(toy.config, epochs=2, clean_batch=6)
    held = sum(is_held_out(f"clean {number}", fasten.HOLDOUT) for number in range(45))
    looks = (held * (2 + 1) + 240) / 2 / 240 / 3  # a look is a third of a pass
    assert held
    alone = 1 + 6 * 8 / 240
    assert fasten.run(toy.problem, config).passes == pytest.approx(alone * (1 + held / 240) + looks), "they train, too"
    unseen = replace(config, method=replace(OURS, visits=False))
    assert fasten.run(toy.problem, unseen).passes == pytest.approx(alone + looks)


def test_p_and_q_judge_the_same_network(toy: "Toy") -> None:
    for method in (OURS, PAPER):
        config = replace(toy.config, epochs=1, method=method)
        by_p, by_q = fasten.run_by_network(toy.problem, config), fasten.run_uncalibrated(toy.problem, config)
        for one, other in zip(by_p.network.parameters(), by_q.network.parameters(), strict=True):
            assert torch.equal(one, other)
        assert not torch.equal(by_p.beliefs, by_q.beliefs)


def test_the_same_seed_gives_the_same_result_and_each_epoch_is_shown(toy: "Toy") -> None:
    for run in (fasten.run, fasten.run_paper):
        seen: list[int] = []
        config = replace(toy.config, epochs=2)
        one = run(toy.problem, config, _noting(seen))
        assert seen == [1, 2]
        assert torch.equal(one.beliefs, run(toy.problem, config).beliefs)


def _noting(seen: list[int]) -> Observer:
    return lambda epoch, _: seen.append(epoch)


def test_ours_as_the_product_runs_it_holds_out_a_fifth_and_is_right_more_often_than_the_annotators(toy: "Toy") -> None:
    outcome = fasten.run(toy.problem, toy.config)
    assert torch.allclose(outcome.beliefs.sum(dim=1), torch.ones(len(outcome.beliefs)), atol=1e-5)
    assert toy.labels_right(outcome) > 0.8  # 60 % of the labels are right as given
