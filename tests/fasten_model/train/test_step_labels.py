"""FastenStep's labels: what a visit writes, and what the next one learns from."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from fasten_model.loss import cross_entropy, forward_loss
from fasten_model.posterior import posterior
from fasten_model.train import PAPER, Method
from fasten_model.train.method import Correction, Estimator
from tests.fasten_model.train.one_step import EPOCHS, PLAIN, Run, random_set


@pytest.mark.parametrize("correction", get_args(Correction))
def test_rho_above_one_never_corrects(correction: Correction) -> None:
    data = random_set()
    run = Run.of(data, Method(correction=correction, rho=1.01, correction_start=0.0))
    history = run.whole()
    if correction not in ("average", "ensemble"):  # which know no ρ: their labels are the running mean's
        assert torch.equal(run.step.corrected_labels(), data.noisy_labels)
        assert [metrics.corrected for metrics in history] == [0.0] * EPOCHS


@pytest.mark.parametrize("estimator", ["clean_batch", "clean_decayed"])
@pytest.mark.parametrize("correction", ["confidence", "posterior"])
def test_rho_zero_writes_the_argmax_at_each_visit(correction: Correction, estimator: Estimator) -> None:
    data = random_set(votes=None, clean_votes=None)
    method = replace(PLAIN, correction=correction, estimator=estimator, rho=0.0, correction_start=0.0)
    run = Run.of(data, method)
    index = [3, 8, 1, 17]
    for step in range(3):
        run.once(index, [1, 2, 3, 5], step=step)
        p = torch.softmax(run.logits(run.noisy[index])[0], dim=1)
        q = posterior(p, run.step.estimate.each()[0], data.noisy_labels[index])
        expected = (p if correction == "confidence" else q).argmax(dim=1)
        assert torch.equal(run.step.corrected_labels()[index], expected)
        with torch.no_grad():
            run.loop.network.clean_head.bias.add_(torch.tensor([0.0, 4.0, 0.0]) if step == 0 else -4.0)
    rest = sorted(set(range(18)) - set(index))
    assert torch.equal(run.step.corrected_labels()[rest], data.noisy_labels[rest]), "not visited yet"


@pytest.mark.parametrize(
    ("correction", "labels"), [("confidence", "corrected"), ("confidence", "original"), ("posterior", "original")]
)
def test_a_correction_is_trained_on_at_the_next_visit_and_undone_when_confidence_falls(
    correction: Correction, labels: Any
) -> None:
    """T̂ of corrected labels is asked about the corrected one; beside a T̂ of original ones a corrected one is right."""
    data = random_set(votes=None, clean_votes=None, noisy_labels=torch.zeros(18, dtype=torch.int64))
    method = replace(
        PLAIN, correction=correction, rho=0.9, correction_start=0.0, smoothing=0.5, noisy_head_labels=labels
    )
    run = Run.of(data, method)
    head = run.loop.network.clean_head
    index, clean = list(range(6)), [1, 2, 3]

    def sure_of(label: int | None) -> None:
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.zeros(3) if label is None else 20.0 * nn.functional.one_hot(torch.tensor(label), 3))

    def expected(label: int) -> Tensor:
        logits = run.logits(run.noisy[index])[0]
        said = torch.full((6,), label)
        if labels == "original" and label != 0:
            return cross_entropy(logits, said).mean()
        return forward_loss(logits, said, run.step.estimate.each()[0]).mean()

    sure_of(1)
    first = run.once(index, clean)
    assert run.step.corrected_labels()[index].tolist() == [1] * 6
    torch.testing.assert_close(first.forward, expected(0), msg="the first visit trains on the original")
    sure_of(None)
    second = run.once(index, clean)
    torch.testing.assert_close(second.forward, expected(1))
    assert run.step.corrected_labels()[index].tolist() == [0] * 6, "unsure: back to what the annotators said"
    third = run.once(index, clean)
    torch.testing.assert_close(third.forward, expected(0))


@pytest.mark.parametrize("correction", ["confidence", "posterior"])
def test_corrections_begin_where_they_are_told_to(correction: Correction) -> None:
    method = replace(PLAIN, correction=correction, rho=0.0, correction_start=0.5)
    corrected = [metrics.corrected for metrics in Run.of(random_set(), method).whole()]
    assert corrected[: EPOCHS // 2] == [0.0, 0.0]
    assert min(corrected[EPOCHS // 2 :]) > 0


@pytest.mark.parametrize("labels", ["original", "corrected"])
def test_the_noisy_head_learns_the_labels_it_is_told_to(labels: Any) -> None:
    data = random_set()
    method = replace(PAPER, rho=0.0, noisy_head_labels=labels)
    run = Run.of(data, method)
    index = list(range(6))
    run.once(index, [1, 2, 3])
    written = run.step.corrected_labels()[index]
    assert not torch.equal(written, data.noisy_labels[index])
    noisy = run.once(index, [1, 2, 3]).noisy
    targets = written if labels == "corrected" else data.noisy_labels[index]
    torch.testing.assert_close(noisy, cross_entropy(run.logits(run.noisy[index])[1], targets).mean())


@pytest.mark.parametrize("correction", ["average", "ensemble"])
def test_the_noisy_head_learns_what_the_averages_come_to_once_corrections_begin(correction: Correction) -> None:
    data = random_set(votes=None, clean_votes=None)
    method = Method(correction=correction, noisy_head_labels="corrected", noisy_loss_weight=0.5, correction_start=0.5)
    run = Run.of(data, method)
    with torch.no_grad():
        run.loop.network.clean_head.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    index = list(range(6))
    for step, targets in ((0, data.noisy_labels[index]), (11, torch.ones(6).long())):
        noisy = run.once(index, [1, 2, 3], step=step).noisy
        torch.testing.assert_close(noisy, cross_entropy(run.logits(run.noisy[index])[1], targets).mean())
    assert (data.noisy_labels[index] != 1).any()


def test_an_average_is_the_running_mean_of_the_posterior() -> None:
    data = random_set(votes=None, clean_votes=None)
    run = Run.of(data, replace(PLAIN, correction="average", average_momentum=0.6))
    index, mean = [4, 9, 2], None
    for _ in range(3):
        run.once(index, [1, 2, 3])
        p = torch.softmax(run.logits(run.noisy[index])[0], dim=1)
        q = posterior(p, run.step.estimate.each()[0], data.noisy_labels[index])
        mean = q if mean is None else 0.6 * mean + 0.4 * q
        torch.testing.assert_close(run.step.state()["average"][index], mean, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            run.loop.network.clean_head.bias.add_(torch.tensor([0.0, 2.0, -1.0]))
    assert mean is not None
    assert torch.equal(run.step.corrected_labels()[index], mean.argmax(dim=1))


def test_samples_of_which_nobody_said_anything_teach_the_clean_head_nothing() -> None:
    data = random_set(votes=torch.full((18, 3), -1))
    run = Run.of(data, Method(clean_loss_weight=0.0, noisy_loss_weight=0.0, correction="none", annotators=True))
    losses = run.once(list(range(6)), [1, 2, 3])
    assert losses.forward.item() == pytest.approx(0, abs=1e-5)
    assert all(gradient.abs().max() < 1e-6 for gradient in run.gradients(losses).values())
