"""FastenStep where T̂ comes from the bulk: what is counted, and whose labels they are."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fasten_model.loss import cross_entropy
from fasten_model.posterior import posterior
from fasten_model.train import PAPER, Method
from fasten_model.train.method import Estimator
from fasten_model.transition import bulk_counts
from tests.fasten_model.train.one_step import PLAIN, Run, random_set


@pytest.mark.parametrize("loss", ["forward", "resample"])
def test_what_was_corrected_by_confidence_is_one_label_however_many_annotators_there_are(loss: Any) -> None:
    """T̂ counts what the annotators had said; a label that the model put in its place is not asked of it."""
    method = Method(estimator="bulk", correction="confidence", loss=loss, rho=0.9, correction_start=0.0)
    several, one = random_set(), random_set(votes=None, clean_votes=None)
    index = list(range(6))
    for data in (several, one):
        run = Run.of(data, method)
        with torch.no_grad():
            run.loop.network.clean_head.weight.zero_()
            run.loop.network.clean_head.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
        run.once(index, [1, 2, 3])
        assert run.step.corrected_labels()[index].tolist() == [1] * 6
        second = run.once(index, [1, 2, 3]).forward
        expected = cross_entropy(run.logits(run.noisy[index])[0], torch.ones(6).long()).mean()
        torch.testing.assert_close(second, expected)


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        (Method(correction="posterior"), "original"),
        (Method(correction="confidence"), "original"),
        (Method(correction="confidence", estimator="bulk", loss="resample"), "original"),
        (replace(PAPER, noisy_head_labels="original"), "original"),
        (PAPER, "corrected"),
        (replace(PAPER, loss="resample"), "corrected"),
    ],
)
def test_t_is_asked_about_the_labels_that_it_is_of(method: Method, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_set(votes=None, clean_votes=None, noisy_labels=torch.zeros(18).long())
    run = Run.of(data, replace(method, rho=0.9, correction_start=0.0))
    log_evidence, heard = run.step.estimate.log_evidence, []

    def hearing(votes: Tensor) -> Tensor:
        heard.append(votes.flatten().tolist())
        return log_evidence(votes)

    monkeypatch.setattr(run.step.estimate, "log_evidence", hearing)
    with torch.no_grad():
        run.loop.network.clean_head.bias.copy_(torch.tensor([0.0, 30.0, 0.0]))
    for _ in range(2):
        run.once([3, 1, 4], [1, 2, 3])
    assert run.step.corrected_labels()[[3, 1, 4]].tolist() == [1, 1, 1]
    assert heard == [[0, 0, 0], [0, 0, 0] if asked == "original" else [1, 1, 1]]


def test_annotators_who_are_not_told_apart_are_their_majority_in_the_audits_too() -> None:
    """T̂ is then of the majority's label: every single vote, as a pair, would tell of another T."""
    right, wrong = torch.arange(12) % 3, (torch.arange(12) + 1) % 3
    clean_votes = torch.stack([right, right, wrong], dim=1)
    data = random_set(clean_labels=right, clean_votes=clean_votes, clean_estimates=torch.ones(12, dtype=torch.bool))
    strict: dict[str, Any] = {"pooled_strength": 1e-3, "smoothing": 1e-6}
    together = Run.of(data, Method(annotators=False, **strict)).step.estimate.each()
    torch.testing.assert_close(together, torch.eye(3)[None], rtol=0, atol=1e-3)
    apart = Run.of(data, Method(annotators=True, annotator_strength=1e-3, **strict)).step.estimate.each()
    assert apart.diagonal(dim1=1, dim2=2).mean(dim=1).tolist() == pytest.approx([1, 1, 0], abs=1e-2)


def test_resampling_takes_annotators_together() -> None:
    """Its weight is p[ȳ]/p(ȳ | x) of one label: by the likelihood of all votes, samples with many would be favoured."""
    method = Method(loss="resample", correction="none")
    assert Run.of(random_set(), method).step.estimate.each().shape == (1, 3, 3)
    losses = [
        Run.of(data, method).once(list(range(6)), [1, 2, 3]).forward
        for data in (random_set(clean_votes=None), random_set(votes=None, clean_votes=None))
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_an_ensemble_believes_the_posterior_of_its_average() -> None:
    data = random_set(votes=None, clean_votes=None)
    run = Run.of(data, replace(PLAIN, estimator="bulk", correction="ensemble"))
    index = [2, 7, 11, 0]
    run.once(index, [1, 2, 3])
    p = torch.softmax(run.logits(run.noisy[index])[0], dim=1)
    q = posterior(p, run.step.estimate.each()[0], data.noisy_labels[index])
    expected = data.noisy_labels.clone()
    expected[index] = q.argmax(dim=1)
    assert torch.equal(run.step.corrected_labels(), expected)


@pytest.mark.parametrize("estimator", ["bulk", "bulk_posterior"])
def test_the_bulk_is_counted_by_p_or_by_the_posterior_under_the_t_so_far(estimator: Estimator) -> None:
    data = random_set(votes=None, clean_votes=None)
    run = Run.of(data, replace(PLAIN, estimator=estimator, memory=2.0))
    index = [2, 7, 11, 0]
    before, transition = run.step.estimate.counts.clone(), run.step.estimate.each()[0]
    run.once(index, [1, 2, 3])
    p = torch.softmax(run.logits(run.noisy[index])[0], dim=1)
    seen = p if estimator == "bulk" else posterior(p, transition, data.noisy_labels[index])
    decay = 1 - 1 / (2.0 * 18 / 6)
    expected = decay * before + bulk_counts(seen, data.noisy_labels[index, None])
    torch.testing.assert_close(run.step.estimate.counts, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("estimator", ["clean_decayed", "bulk", "bulk_posterior"])
def test_decayed_sums_hold_as_many_samples_as_their_memory_says(estimator: Estimator, memory: float) -> None:
    """From the first guess on: 18 noisy samples in batches of 6, or 12 clean ones in batches of 4."""
    data = random_set(votes=None, clean_votes=None, clean_estimates=torch.ones(12, dtype=torch.bool))
    run = Run.of(data, replace(PLAIN, estimator=estimator, memory=memory))
    run.whole()
    held = memory * (12 if estimator == "clean_decayed" else 18)
    assert run.step.estimate.counts.sum().item() == pytest.approx(held, rel=1e-4)
