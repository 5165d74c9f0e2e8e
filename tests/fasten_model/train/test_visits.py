"""The mean over a sample's visits, and what a step makes of it."""

from dataclasses import astuple, replace

import pytest
import torch

from fasten_model.errors import DataError
from fasten_model.stacking import FLOOR, Weights, fit_weights, stacked
from fasten_model.train import Method, train
from fasten_model.train.process import ALONE
from fasten_model.train.visits import Visits
from fasten_model.transition import bulk_counts
from tests.fasten_model.train import killed_training
from tests.fasten_model.train.one_step import Run, in_memory, pixels, random_set

CPU = torch.device("cpu")
METHOD = Method(calibrated=False, rho=0.5, correction_start=0.0)


def test_the_kth_visit_counts_about_as_the_third_power_of_k() -> None:
    visits = Visits(5, 3, ALONE, CPU)
    said = torch.log_softmax(2 * torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)), dim=2)
    for number in range(4):
        mean = visits.add(torch.tensor([3, 1]), said[number])
        weights = [k * (k + 1) * (k + 2) for k in range(1, number + 2)]
        expected = sum(weight * each for weight, each in zip(weights, said, strict=False)) / sum(weights)
        torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(visits.means()[[3, 1]], mean)
    assert (visits.means()[[0, 2, 4]] == 0).all(), "not visited: nothing is said"
    assert torch.equal(visits.at(torch.tensor([1, 0, 3])), visits.means()[[1, 0, 3]])


def test_one_visit_that_was_all_but_sure_does_not_outweigh_the_others() -> None:
    visits = Visits(1, 2, ALONE, CPU)
    mean = visits.add(torch.tensor([0]), torch.tensor([[0.0, -80.0]]))
    assert mean.tolist() == [[0.0, pytest.approx(torch.tensor(FLOOR).log().item())]]


def test_a_step_counts_and_corrects_by_what_all_visits_said() -> None:
    data = random_set(votes=None, clean_votes=None)
    run = Run.of(data, METHOD)
    index, means = [2, 7, 11, 0], torch.zeros(4, 3)
    for visit in range(1, 4):
        before, evidence = (
            run.step.estimate.counts.clone(),
            run.step.estimate.log_evidence(data.noisy_labels[index, None]),
        )
        run.once(index, [1, 2, 3], step=visit)
        log_p = torch.log_softmax(run.logits(run.noisy[index])[0], dim=1)
        means = means + 4 / (visit + 3) * (log_p - means)
        q = stacked(log_p, means, evidence, Weights())
        counted = (1 - 6 / 18) * before + bulk_counts(q, data.noisy_labels[index, None])
        torch.testing.assert_close(run.step.estimate.counts, counted, rtol=1e-4, atol=1e-5)
        confidence, believed = q.max(dim=1)
        expected = torch.where(confidence >= 0.5, believed, data.noisy_labels[index])
        assert torch.equal(run.step.corrected_labels()[index], expected)
        with torch.no_grad():
            run.loop.network.clean_head.bias.add_(torch.tensor([0.0, 1.0, -1.0]) * visit)
    kept = run.step.visits()
    assert kept is not None
    torch.testing.assert_close(kept[index], means)


def test_held_out_samples_that_train_with_their_label_set_the_weights_before_an_epoch() -> None:
    random = torch.Generator().manual_seed(3)
    rows = torch.tensor([4, -1, 9, 17, 0])
    held = pixels(5, random)
    data = random_set(held_out_images=held, held_out_labels=torch.tensor([0, 1, 2, 1, 0]), held_out_rows=rows)
    run = Run.of(data, replace(METHOD, annotators=True))
    run.once(list(range(18)), [1, 2, 3], step=2)
    assert run.step.weights == Weights(), "nothing has been visited yet"
    known = rows >= 0
    votes = data.all_votes()[rows[known]]
    expected = fit_weights(
        torch.log_softmax(run.logits(held)[0], dim=1)[known],
        run.step.state()["visits"][rows[known]],
        run.step.estimate.log_evidence(votes),
        in_memory(data.held_out_labels)[known],
    )
    run.once(list(range(6)), [1, 2, 3], step=3)
    assert astuple(run.step.weights) == pytest.approx(astuple(expected), rel=1e-5)
    assert run.step.weights != Weights()


def test_held_out_samples_that_train_under_no_label_set_no_weights() -> None:
    held = pixels(4, torch.Generator().manual_seed(3))
    for rows in (None, torch.full((4,), -1)):
        data = random_set(held_out_images=held, held_out_labels=torch.arange(4) % 3, held_out_rows=rows)
        run = Run.of(data, METHOD)
        run.whole()
        assert run.step.weights == Weights()


def test_what_the_held_out_samples_truly_are_is_told_by_the_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them, and the temperature and accuracy that are told too, training is the same whatever they are."""
    data = killed_training.samples(held_out_rows=torch.tensor([3, 5, 7, 11, 13, 17]))
    other = replace(data, held_out_labels=(in_memory(data.held_out_labels) + 1) % 3)
    method = Method(calibrated=False, discounted=False, fresh_passes=None, noisy_loss_weight=0.0)
    untold = replace(killed_training.CONFIG, method=method)
    one, told = (killed_training.outcome(train(each, untold)) for each in (data, other))
    assert one["weights"] != told["weights"]
    monkeypatch.setattr("fasten_model.train.fasten_step.fit_weights", lambda *_: Weights())
    one, same = (killed_training.outcome(train(each, untold)) for each in (data, other))
    assert one == same


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (torch.zeros(5, dtype=torch.int64), r"held_out_rows must be int64 \[6\], got int64 \[5\]"),
        (torch.zeros(6), r"held_out_rows must be int64 \[6\], got float32"),
        (torch.full((6,), 20), "held_out_rows must be from −1 to 19"),
        (torch.full((6,), -2), "held_out_rows must be from −1 to 19"),
    ],
)
def test_rows_that_are_no_noisy_samples_are_refused(rows: torch.Tensor, says: str) -> None:
    with pytest.raises(DataError, match=says):
        killed_training.samples(held_out_rows=rows)


def test_visits_need_a_t_of_the_original_labels() -> None:
    with pytest.raises(DataError, match="set visits to False, or noisy_head_labels to original"):
        Method(estimator="clean_batch", noisy_head_labels="corrected", correction="confidence")
