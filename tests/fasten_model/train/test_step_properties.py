"""FastenStep by property: what may and what may not change its losses, its T̂ and its corrections, under any switches.

Images are single pixels: a random crop of one, padded with its own edge, is itself, so augmentation changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fasten_model.calibrate import fit_temperature
from fasten_model.correction import correct_labels
from fasten_model.images.augment import normalize
from fasten_model.images.source import Images
from fasten_model.loss import cross_entropy, forward_loss
from fasten_model.posterior import posterior
from fasten_model.train import PAPER, EpochMetrics, Method, TrainConfig, TrainingSet
from fasten_model.train.batch import Batch, Part, StepLosses
from fasten_model.train.fasten_step import FastenStep
from fasten_model.train.loop import Loop
from fasten_model.train.method import Correction, Estimator
from fasten_model.transition import bulk_counts, estimate_transition, identity_transition

EPOCHS = 4
PLAIN = Method(
    forwards="separate", estimator="clean_batch", pairs=False, annotators=False, correction="none",
    clean_loss_weight=0.5,
)  # fmt: skip
"""Switches of which tests turn one or two."""


def colour_trunk(*, batch_norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        norm = [nn.BatchNorm1d(6)] if batch_norm else []
        return nn.Sequential(nn.Flatten(), nn.Linear(3, 6), *norm, nn.Tanh())


def pixels(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(256, (count, 3, 1, 1), dtype=torch.uint8, generator=generator)


def random_set(seed: int = 0, *, num_classes: int = 3, noisy: int = 18, clean: int = 12, **changes: Any) -> TrainingSet:
    """Three annotators, some of whom said nothing; a quarter of the clean set was not drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def labels(lowest: int, *shape: int) -> Tensor:
        return torch.randint(lowest, num_classes, shape, generator=generator)

    fields: dict[str, Any] = {
        "noisy_images": pixels(noisy, generator),
        "noisy_labels": labels(0, noisy),
        "votes": labels(-1, noisy, 3),
        "clean_images": pixels(clean, generator),
        "clean_labels": labels(0, clean),
        "clean_estimates": torch.arange(clean) % 4 != 0,
        "clean_votes": labels(-1, clean, 3),
        "num_classes": num_classes,
    }
    return TrainingSet(**{**fields, **changes})


def in_memory(images: Tensor | Images | None) -> Tensor:
    assert isinstance(images, Tensor)
    return images


@dataclass
class Run:
    """A loop and its step over a set, to be run as a whole or taken by the step."""

    data: TrainingSet
    loop: Loop
    step: FastenStep

    @classmethod
    def of(cls, data: TrainingSet, method: Method, *, batch_norm: bool = False) -> "Run":
        config = TrainConfig(
            preset="resnet34", image_size=1, epochs=EPOCHS, noisy_batch=6, clean_batch=4, lr=0.3, device="cpu",
            horizontal_flip=False, method=method,
        )  # fmt: skip
        loop = Loop(config, data.num_classes, trunk=colour_trunk(batch_norm=batch_norm))
        return cls(data, loop, FastenStep(loop, data, config))

    @property
    def noisy(self) -> Tensor:
        return in_memory(self.data.noisy_images)

    @property
    def clean(self) -> Tensor:
        return in_memory(self.data.clean_images)

    def whole(self) -> tuple[EpochMetrics, ...]:
        return self.loop.run(self.step, noisy_images=self.data.noisy_images, clean_images=self.data.clean_images)

    def once(self, noisy: list[int], clean: list[int], step: int = 0) -> StepLosses:
        """The step's losses, without descending; `step` of those of a whole run."""

        def part(images: Tensor, index: list[int]) -> Part:
            return Part(index=torch.tensor(index), images=images[index], positions=None, size=len(index))

        noisy_part, clean_part = part(self.noisy, noisy), part(self.clean, clean)
        steps = EPOCHS * len(self.data.noisy_labels) // 6
        return self.step(Batch(step=step, steps=steps, lr=0.1, noisy=noisy_part, clean=clean_part))

    def gradients(self, losses: StepLosses) -> dict[str, Tensor]:
        named = dict(self.loop.network.named_parameters())
        found = torch.autograd.grad(losses.total, list(named.values()), materialize_grads=True)
        return dict(zip(named, found, strict=True))

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.loop.forward(normalize(images))


def gradients_move(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)


@st.composite
def methods(draw: st.DrawFn) -> Method:
    return Method(
        forwards=draw(st.sampled_from(["separate", "joint"])),
        clean_loss_weight=draw(st.sampled_from([None, 0.3])),
        prior_correction=draw(st.booleans()),
        estimator=draw(st.sampled_from(get_args(Estimator))),
        evaluation_features=draw(st.booleans()),
        folds=draw(st.sampled_from([1, 2])),
        pairs=draw(st.booleans()),
        annotators=draw(st.booleans()),
        noisy_head_labels=draw(st.sampled_from(["original", "corrected"])),
        correction=draw(st.sampled_from(get_args(Correction))),
        rho=draw(st.sampled_from([0.0, 0.5, 2.0])),
        correction_start=draw(st.sampled_from([0.0, 0.5])),
    )


@given(methods(), st.integers(0, 2**31))
@settings(max_examples=25)
def test_renaming_the_classes_renames_everything_that_training_leaves(method: Method, seed: int) -> None:
    data = random_set(seed, num_classes=4)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    new = order.argsort()

    def renamed(labels: Tensor | None) -> Tensor:
        assert labels is not None
        return torch.where(labels >= 0, new[labels.clamp(min=0)], labels)

    names = ("noisy_labels", "clean_labels", "votes", "clean_votes")
    labels: dict[str, Any] = {name: renamed(getattr(data, name)) for name in names}
    changed = replace(data, **labels)
    one, other = Run.of(data, method), Run.of(changed, method)
    with torch.no_grad():
        for head in (other.loop.network.clean_head, other.loop.network.noisy_head):
            head.weight.copy_(head.weight[order].clone())
            head.bias.copy_(head.bias[order].clone())
    history, other_history = one.whole(), other.whole()
    for epoch, other_epoch in zip(history, other_history, strict=True):
        assert other_epoch.loss == pytest.approx(epoch.loss, rel=1e-3, abs=1e-4)
    assert torch.equal(other.step.corrected_labels(), new[one.step.corrected_labels()])
    transitions = one.step.estimate.each()[:, order][:, :, order]
    torch.testing.assert_close(other.step.estimate.each(), transitions, rtol=1e-2, atol=1e-4)
    for logits, other_logits in zip(one.logits(one.noisy), other.logits(one.noisy), strict=True):
        torch.testing.assert_close(other_logits, logits[:, order], rtol=1e-2, atol=1e-3)


@given(methods(), st.integers(0, 2**31))
@settings(max_examples=25)
def test_shuffling_the_clean_batch_changes_nothing(method: Method, seed: int) -> None:
    data = random_set(seed)
    one, other = Run.of(data, method), Run.of(data, method)
    noisy, clean = list(range(6)), [0, 5, 6, 2, 11, 7]
    shuffled = [clean[place] for place in torch.randperm(6, generator=torch.Generator().manual_seed(seed)).tolist()]
    losses, other_losses = one.once(noisy, clean), other.once(noisy, shuffled)
    for name in ("total", "forward", "clean", "noisy"):
        torch.testing.assert_close(getattr(other_losses, name), getattr(losses, name))
    torch.testing.assert_close(other.step.estimate.each(), one.step.estimate.each())
    assert not gradients_move(one.gradients(losses), other.gradients(other_losses))


@given(methods(), st.integers(0, 2**31))
@settings(max_examples=25)
def test_every_t_in_training_is_a_positive_distribution_and_every_loss_is_finite(method: Method, seed: int) -> None:
    data = random_set(seed, num_classes=5, clean=6)
    run = Run.of(data, method)
    history = run.whole()
    assert all(torch.tensor([m.loss, m.forward_loss, m.clean_loss, m.noisy_loss]).isfinite().all() for m in history)
    each = run.step.estimate.each()
    assert each.shape == (3 if method.annotators and method.counts_bulk else 1, 5, 5)
    torch.testing.assert_close(each.sum(dim=-1), torch.ones(each.shape[:2]))
    assert (each > 0).all()


# --- labels


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


@pytest.mark.parametrize("correction", ["confidence", "posterior"])
def test_a_correction_is_trained_on_at_the_next_visit_and_undone_when_confidence_falls(correction: Correction) -> None:
    data = random_set(votes=None, clean_votes=None, noisy_labels=torch.zeros(18, dtype=torch.int64))
    method = replace(PLAIN, correction=correction, rho=0.9, correction_start=0.0, smoothing=0.5)
    run = Run.of(data, method)
    head = run.loop.network.clean_head
    index, clean = list(range(6)), [1, 2, 3]

    def sure_of(label: int | None) -> None:
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.zeros(3) if label is None else 20.0 * nn.functional.one_hot(torch.tensor(label), 3))

    def expected(label: int) -> Tensor:
        logits = run.logits(run.noisy[index])[0]
        labels = torch.full((6,), label)
        if correction == "posterior" and label != 0:
            return cross_entropy(logits, labels).mean()
        return forward_loss(logits, labels, run.step.estimate.each()[0]).mean()

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


# --- losses


def test_the_total_is_the_mean_over_both_batches_and_lambda_times_the_noisy_heads() -> None:
    data = random_set()
    noisy, clean = list(range(6)), [1, 2, 3, 9]
    for weight, share in ((None, 4 / 10), (0.25, 0.25), (0.0, 0.0), (1.0, 1.0)):
        method = replace(PLAIN, noisy_loss_weight=0.7, clean_loss_weight=weight)
        losses = Run.of(data, method).once(noisy, clean)
        expected = (1 - share) * losses.forward + share * losses.clean + 0.7 * losses.noisy
        torch.testing.assert_close(losses.total.detach(), expected)


def test_each_loss_moves_the_head_it_belongs_to() -> None:
    data = random_set()
    noisy, clean = list(range(6)), [1, 2, 3, 9]
    run = Run.of(data, replace(PLAIN, noisy_loss_weight=0.0))
    found = run.gradients(run.once(noisy, clean))
    assert found["noisy_head.weight"].abs().max() == 0
    assert found["clean_head.weight"].abs().max() > 0, "T̂ is a constant, so the noisy head hears nothing through it"
    run = Run.of(data, replace(PLAIN, noisy_loss_weight=1.0))
    both = run.gradients(run.once(noisy, clean))
    assert both["noisy_head.weight"].abs().max() > 0
    torch.testing.assert_close(both["clean_head.weight"], found["clean_head.weight"])
    assert not torch.allclose(both["trunk.1.weight"], found["trunk.1.weight"]), "the noisy head's loss moves the trunk"


def test_one_pass_over_both_batches_differs_from_two_by_batch_norm_alone() -> None:
    data = random_set()
    for batch_norm in (False, True):
        totals = [
            Run.of(data, replace(PLAIN, forwards=forwards), batch_norm=batch_norm).once([0, 1, 2], [4, 5]).total.item()
            for forwards in ("separate", "joint")
        ]
        assert (totals[0] == pytest.approx(totals[1], rel=1e-5)) is not batch_norm


def test_resampling_is_cross_entropy_over_a_batch_drawn_by_the_weights() -> None:
    data = random_set(votes=None, clean_votes=None)
    run = Run.of(data, replace(PLAIN, loss="resample"))
    index = list(range(6))
    each = cross_entropy(run.logits(run.noisy[index])[0], data.noisy_labels[index])
    seen = {round(run.once(index, [1, 2, 3], step=step).forward.item(), 5) for step in range(6)}
    assert len(seen) > 1, "another draw in each step"
    assert all(each.min() - 1e-4 <= loss <= each.max() + 1e-4 for loss in seen)
    again = Run.of(data, replace(PLAIN, loss="resample"))
    first = again.once(index, [1, 2, 3]).forward
    assert torch.equal(first, Run.of(data, replace(PLAIN, loss="resample")).once(index, [1, 2, 3]).forward)


def test_resampling_leaves_labels_that_p_rules_out_undrawn() -> None:
    data = random_set(votes=None, clean_votes=None, noisy_labels=torch.tensor([0, 1] * 9))
    run = Run.of(data, replace(PLAIN, loss="resample"))
    with torch.no_grad():
        run.loop.network.clean_head.weight.zero_()
        run.loop.network.clean_head.bias.copy_(torch.tensor([30.0, 0.0, 0.0]))
    assert run.once(list(range(6)), [1, 2, 3]).forward.item() == pytest.approx(0, abs=1e-4)


# --- the clean batch


def test_a_class_missing_from_the_clean_batch_keeps_its_row() -> None:
    data = random_set(clean_labels=torch.arange(12) % 3, clean_estimates=torch.ones(12, dtype=torch.bool))
    run = Run.of(data, PLAIN)
    run.once([0, 1], [0, 1, 3, 4])  # classes 0 and 1
    first = run.step.estimate.shared()
    assert first[2].tolist() == [0, 0, 1]
    assert first[0, 0] < 1
    with torch.no_grad():
        run.loop.network.noisy_head.bias.add_(torch.tensor([1.0, 0.0, -1.0]))
    run.once([0, 1], [2, 5])  # class 2 alone
    second = run.step.estimate.shared()
    assert torch.equal(second[:2], first[:2])
    assert second[2, 2] < 1


def test_a_review_trains_but_never_estimates() -> None:
    _every_clean_sample(
        replace(PLAIN, clean_loss_weight=0.5),
        step=0,
        expected=lambda data, sample: (True, bool(data.clean_estimates[sample])),
    )


def test_with_folds_a_sample_either_estimates_or_trains_in_an_epoch_and_each_gets_its_turn() -> None:
    turns: dict[int, list[bool]] = {}
    for epoch in range(3):
        for step in (3 * epoch, 3 * epoch + 2):  # 18 samples in batches of 6: three steps in an epoch
            roles = _every_clean_sample(replace(PLAIN, folds=3), step=step, expected=None)
            assert sum(estimates for _, estimates in roles.values()) == 4, "a third of twelve"
            for sample, (trains, estimates) in roles.items():
                assert trains is not estimates
                turns.setdefault(sample, []).append(estimates)
    assert all(turn[::2] == turn[1::2] for turn in turns.values()), "the same throughout an epoch"
    assert [sum(turn[::2]) for turn in turns.values()] == [1] * 12, "one epoch of three"


def _every_clean_sample(
    method: Method, *, step: int, expected: Callable[[TrainingSet, int], tuple[bool, bool]] | None
) -> dict[int, tuple[bool, bool]]:
    """By clean sample: whether another image in its place changes (the gradient, T̂)."""
    clean_estimates = torch.ones(12, dtype=torch.bool) if expected is None else torch.arange(12) % 4 != 0
    # Labels under a uniform T̂ say nothing, so that T̂ reaches the gradient through nothing but the clean batch.
    data = random_set(clean_estimates=clean_estimates, clean_labels=torch.arange(12) % 3)
    method = replace(method, smoothing=1.0)

    def outcome(data: TrainingSet) -> tuple[dict[str, Tensor], Tensor]:
        run = Run.of(data, method)
        losses = run.once(list(range(6)), list(range(12)), step=step)
        return run.gradients(losses), run.step.estimate.shared()

    gradients, transition = outcome(data)
    roles = {}
    for sample in range(12):
        images = in_memory(data.clean_images).clone()
        images[sample] = 255 - images[sample]
        new_gradients, new_transition = outcome(replace(data, clean_images=images))
        moved = not torch.allclose(new_transition, transition, rtol=0, atol=1e-6)
        roles[sample] = (gradients_move(gradients, new_gradients), moved)
        assert expected is None or roles[sample] == expected(data, sample)
    return roles


def test_clean_features_in_evaluation_mode_estimate_and_leave_training_mode_on() -> None:
    data = random_set(clean_estimates=torch.ones(12, dtype=torch.bool))
    clean = list(range(12))
    run = Run.of(data, replace(PLAIN, evaluation_features=True), batch_norm=True)
    before = {name: value.clone() for name, value in run.loop.network.state_dict().items()}
    run.once([0, 1, 2], clean)
    assert run.loop.network.training
    after_training_forwards = run.loop.network.eval()
    with torch.no_grad():
        logits = after_training_forwards(normalize(run.clean))[1]
    expected = estimate_transition(identity_transition(3), logits, data.clean_labels, data.clean_estimates)
    torch.testing.assert_close(run.step.estimate.shared(), expected)
    plain = Run.of(data, PLAIN, batch_norm=True)
    plain.once([0, 1, 2], clean)
    assert not torch.allclose(plain.step.estimate.shared(), expected)
    counted = run.loop.network.state_dict()["trunk.2.num_batches_tracked"] - before["trunk.2.num_batches_tracked"]
    assert counted == 2, "the forward in evaluation mode leaves the running statistics alone"


# --- confidence


@pytest.mark.parametrize("correction", ["confidence", "posterior"])
def test_a_calibrated_p_counts_and_corrects_but_the_losses_take_the_logits_as_they_are(correction: Correction) -> None:
    data = random_set(votes=None, clean_votes=None)
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


# --- several annotators


def test_what_was_corrected_by_confidence_is_said_by_nobody_twice() -> None:
    """A corrected label is one label, however many annotators the sample had."""
    method = replace(PLAIN, estimator="bulk", annotators=True, correction="confidence")
    several, one = random_set(), random_set(votes=None, clean_votes=None)
    losses = [Run.of(data, method).once([0, 1, 2, 3], [1, 2, 3]).total.item() for data in (several, one)]
    assert losses[0] == pytest.approx(losses[1])


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


# --- T̂ of the bulk


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
