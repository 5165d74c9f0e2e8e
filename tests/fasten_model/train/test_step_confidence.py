"""FastenStep's temperature: where a calibrated p counts, and how it is fitted."""

from dataclasses import replace

import pytest
import torch

from fasten_model.calibrate import fit_temperature
from fasten_model.correction import correct_labels
from fasten_model.posterior import posterior
from fasten_model.train.method import Correction
from fasten_model.transition import bulk_counts
from tests.fasten_model.train.one_step import PLAIN, Run, in_memory, pixels, random_set


@pytest.mark.parametrize("correction", ["confidence", "posterior"])
def test_a_calibrated_p_counts_and_corrects_but_the_losses_take_the_logits_as_they_are(correction: Correction) -> None:
    data = random_set(votes=None, clean_votes=None)
    data = replace(data, clean_estimates=torch.ones_like(data.clean_estimates))  # reviews would weigh the clean loss
    generator = torch.Generator().manual_seed(7)
    held_out = pixels(40, generator)
    calibrating = replace(data, held_out_images=held_out, held_out_labels=torch.randint(3, (40,), generator=generator))
    method = replace(PLAIN, estimator="bulk", calibrated=True, correction=correction, rho=0.5, correction_start=0.0)
    index = list(range(6))
    losses = []
    for known, chosen in ((data, method), (calibrating, replace(method, calibrated=False)), (calibrating, method)):
        run = Run.of(known, chosen)
        with torch.no_grad():
            run.loop.network.clean_head.weight.mul_(20)
        temperature = 1.0
        if known is calibrating and chosen.calibrated:
            temperature = fit_temperature(run.logits(held_out)[0], in_memory(calibrating.held_out_labels))
            assert temperature > 2, "labels at random, of which the head is sure"
        before, transition = run.step.estimate.counts.clone(), run.step.estimate.each()[0]
        losses.append(run.once(index, [1, 2, 3]).total.item())
        p = torch.softmax(run.logits(run.noisy[index])[0] / temperature, dim=1)
        expected = (1 - 6 / 18) * before + bulk_counts(p, data.noisy_labels[index, None])
        torch.testing.assert_close(run.step.estimate.counts, expected, rtol=1e-4, atol=1e-5)
        believed = p if correction == "confidence" else posterior(p, transition, data.noisy_labels[index])
        written = correct_labels(believed, data.noisy_labels[index], 0.5)
        assert torch.equal(run.step.corrected_labels()[index], written)
        assert run.loop.network.training
    assert losses == pytest.approx([losses[0]] * 3)


def test_one_held_out_sample_calibrates_nothing() -> None:
    """BatchNorm has no statistics of one."""
    data = random_set(held_out_images=pixels(1, torch.Generator()), held_out_labels=torch.zeros(1).long())
    run = Run.of(data, replace(PLAIN, calibrated=True), batch_norm=True)
    run.once([0, 1, 2], [1, 2, 3])
    assert run.step.state()["temperature"] == 1


def test_many_held_out_samples_calibrate_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(3, (40,), generator=generator)
    data = random_set(held_out_images=pixels(40, generator), held_out_labels=labels)
    temperatures = []
    for at_once in (40, 7):
        monkeypatch.setattr("fasten_model.train.fasten_step._HELD_OUT_AT_ONCE", at_once)
        run = Run.of(data, replace(PLAIN, calibrated=True))
        run.once([0, 1, 2], [1, 2, 3])
        temperatures.append(run.step.state()["temperature"].item())
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-4) != 1
