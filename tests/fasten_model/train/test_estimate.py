"""T̂ while training goes on: what each estimator's sums are, and that every row it gives is a distribution."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasten_model.train.estimate import TransitionEstimate
from fasten_model.train.method import Estimator, Method
from fasten_model.train.process import ALONE
from fasten_model.transition import (
    bulk_counts,
    clean_counts,
    dirichlet_transition,
    estimate_transition,
    identity_transition,
    log_evidence,
)

STEPS_PER_PASS, SAMPLES_PER_PASS = 5.0, 40.0


def estimate(method: Method, pairs: Tensor, steps_per_pass: float = STEPS_PER_PASS) -> TransitionEstimate:
    return TransitionEstimate(
        method, pairs, steps_per_pass=steps_per_pass, samples_per_pass=SAMPLES_PER_PASS, process=ALONE
    )


class Steps:
    """What some steps say: noisy logits, labels and weights of clean batches; p and votes of noisy ones."""

    def __init__(self, seed: int, num_classes: int, annotators: int, count: int, *, batch: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)

        def logits() -> Tensor:
            return 4 * torch.randn(batch, num_classes, generator=generator)

        def labels(lowest: int, *shape: int) -> Tensor:
            return torch.randint(lowest, num_classes, shape, generator=generator)

        self.clean = [
            (logits(), labels(0, batch), torch.rand(batch, generator=generator).round()) for _ in range(count)
        ]
        self.bulk = [(torch.softmax(logits(), dim=1), labels(-1, batch, annotators)) for _ in range(count)]
        self.pairs = labels(0, annotators, num_classes, num_classes).float()

    def renamed(self, order: Tensor) -> "Steps":
        """The same with class order[i] called i."""
        other = object.__new__(Steps)
        new = order.argsort()
        other.clean = [(logits[:, order], new[labels], weights) for logits, labels, weights in self.clean]
        other.bulk = [(p[:, order], torch.where(v >= 0, new[v.clamp(min=0)], v)) for p, v in self.bulk]
        other.pairs = self.pairs[:, order][:, :, order]
        return other

    def tell(self, found: TransitionEstimate) -> TransitionEstimate:
        for clean, bulk in zip(self.clean, self.bulk, strict=True):
            found.add_clean(*clean)
            found.add_bulk(*bulk)
        return found


@st.composite
def situations(draw: st.DrawFn) -> tuple[Method, Steps]:
    """A method of any estimator, with and without pairs, with and without annotators told apart; and some steps."""
    estimator = draw(st.sampled_from(get_args(Estimator)))
    method = Method(
        estimator=estimator,
        pairs=draw(st.booleans()),
        pair_weight=draw(st.sampled_from([0.0, 1.0, 7.0])),
        memory=draw(st.sampled_from([0.1, 1.0, 3.0])),
        prior_strength=draw(st.sampled_from([1e-3, 10.0])),
        smoothing=draw(st.sampled_from([1e-6, 1e-3])),
    )
    annotators = draw(st.integers(1, 3)) if method.counts_bulk else 1
    return method, Steps(draw(st.integers(0, 2**31)), draw(st.integers(2, 6)), annotators, draw(st.integers(0, 4)))


@given(situations())
@settings(max_examples=60)
def test_every_row_of_every_estimate_is_a_positive_distribution(situation: tuple[Method, Steps]) -> None:
    method, steps = situation
    found = steps.tell(estimate(method, steps.pairs))
    torch.testing.assert_close(found.shared().sum(dim=-1), torch.ones(steps.pairs.shape[1]))
    each = found.each()
    assert each.shape == steps.pairs.shape
    torch.testing.assert_close(each.sum(dim=-1), torch.ones(each.shape[:2]))
    assert (each > 0).all()
    votes = steps.bulk[0][1] if steps.bulk else torch.zeros(1, len(each)).long()
    torch.testing.assert_close(found.log_evidence(votes), log_evidence(each, votes))


@given(situations(), st.integers(0, 2**31))
@settings(max_examples=60)
def test_renaming_the_classes_renames_rows_and_columns_of_every_estimate(
    situation: tuple[Method, Steps], seed: int
) -> None:
    method, steps = situation
    order = torch.randperm(steps.pairs.shape[1], generator=torch.Generator().manual_seed(seed))
    renamed = steps.renamed(order)
    found, other = steps.tell(estimate(method, steps.pairs)), renamed.tell(estimate(method, renamed.pairs))
    torch.testing.assert_close(other.each(), found.each()[:, order][:, :, order], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(other.shared(), found.shared()[order][:, order], rtol=1e-4, atol=1e-6)


@given(situations())
@settings(max_examples=30)
def test_the_order_within_a_clean_batch_does_not_matter(situation: tuple[Method, Steps]) -> None:
    method, steps = situation
    found = steps.tell(estimate(method, steps.pairs)).each()
    steps.clean = [(logits.flip(0), labels.flip(0), weights.flip(0)) for logits, labels, weights in steps.clean]
    torch.testing.assert_close(steps.tell(estimate(method, steps.pairs)).each(), found)


def test_the_references_estimate_is_that_of_the_last_batch_and_keeps_a_missing_class() -> None:
    method, steps = Method(estimator="clean_batch", pairs=False), Steps(0, 4, 1, 3)
    steps.clean = [(logits, labels, weights * (labels != 3)) for logits, labels, weights in steps.clean]
    expected = identity_transition(4)
    for logits, labels, weights in steps.clean:
        expected = estimate_transition(expected, logits, labels, weights)
    found = steps.tell(estimate(method, steps.pairs)).shared()
    torch.testing.assert_close(found, expected)
    assert found[3].tolist() == [0, 0, 0, 1], "a class that no clean sample estimates"
    assert (found[:3] < 1).all()


@given(
    st.sampled_from(["clean_decayed", "bulk", "bulk_posterior"]),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.integers(0, 2**31),
)
@settings(max_examples=30)
def test_decayed_counts_are_the_sum_of_all_batches_each_worth_less_by_its_age(
    estimator: Estimator, memory: float, seed: int
) -> None:
    method, steps = Method(estimator=estimator, memory=memory, pairs=False), Steps(seed, 3, 2, 6)
    pairs = steps.pairs if method.counts_bulk else steps.pairs[:1]
    found = estimate(method, pairs)
    decay = 1 - 1 / (memory * STEPS_PER_PASS)
    expected = found.counts * decay**6
    steps.tell(found)
    for number in range(6):
        said = bulk_counts(*steps.bulk[number]) if method.counts_bulk else clean_counts(*steps.clean[number])[None]
        expected = expected + decay ** (5 - number) * said
    torch.testing.assert_close(found.counts, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ["clean_decayed", "bulk", "bulk_posterior"])
def test_the_first_guess_is_worth_what_the_sums_will_remember(estimator: Estimator) -> None:
    """Neither ten batches of memory too strong to be forgotten, nor so weak that the first batch decides alone."""
    found = estimate(Method(estimator=estimator, memory=2.0, pairs=False), torch.zeros(1, 4, 4))
    torch.testing.assert_close(found.counts.sum(), torch.tensor(2 * SAMPLES_PER_PASS))
    assert found.shared().diagonal().min() > found.shared()[0, 1], "labels are taken to be mostly right"
    assert found.shared().diagonal().max() < 1


def test_a_memory_shorter_than_a_step_is_the_last_batch_alone() -> None:
    steps = Steps(0, 3, 1, 2)
    method = Method(estimator="bulk", memory=1e-3, pairs=False)
    torch.testing.assert_close(steps.tell(estimate(method, steps.pairs, 1.0)).counts, bulk_counts(*steps.bulk[-1]))


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_pairs_join_the_estimate_as_direct_counts(estimator: Estimator) -> None:
    steps = Steps(1, 3, 1, 4)
    method = Method(estimator=estimator, pairs=True, pair_weight=2.0, pooled_strength=30.0)
    found = steps.tell(estimate(method, steps.pairs))
    with_counts = estimate(replace(method, pairs=False), steps.pairs)
    with_counts.counts = found.counts
    torch.testing.assert_close(found.shared(), dirichlet_transition(2 * steps.pairs[0], with_counts.shared(), 30.0))
    many = estimate(replace(method, pair_weight=1e6), steps.pairs).shared()
    frequencies = steps.pairs[0] / steps.pairs[0].sum(dim=1, keepdim=True).clamp(min=1)
    seen = steps.pairs[0].sum(dim=1) > 0
    torch.testing.assert_close(many[seen], frequencies[seen], rtol=0, atol=1e-3)


def test_pairs_that_are_switched_off_change_nothing() -> None:
    steps = Steps(2, 4, 2, 3)
    off = Method(estimator="bulk", pairs=False)
    nothing = torch.zeros_like(steps.pairs)
    torch.testing.assert_close(steps.tell(estimate(off, steps.pairs)).each(), steps.tell(estimate(off, nothing)).each())


def test_an_annotators_own_rows_are_shrunk_to_the_shared_ones() -> None:
    steps = Steps(3, 3, 3, 6)
    method = Method(estimator="bulk", pairs=False, smoothing=1e-6)
    far = steps.tell(estimate(replace(method, annotator_strength=1e9), steps.pairs))
    torch.testing.assert_close(far.each(), far.shared().expand(3, 3, 3), rtol=0, atol=1e-4)
    own = steps.tell(estimate(replace(method, annotator_strength=1e-6), steps.pairs))
    frequencies = own.counts / own.counts.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(own.each(), frequencies, rtol=0, atol=1e-4)
    middle = steps.tell(estimate(replace(method, annotator_strength=20.0), steps.pairs)).each()
    between = (middle - far.each()) * (own.each() - far.each())
    assert (between > -1e-4).all(), "each lies on the way from the shared row to its own"
    assert not torch.allclose(middle, far.each(), atol=1e-3)


def test_annotators_who_differ_are_told_apart() -> None:
    """One who is right and one who names the next class, over one truth that p knows."""
    truth = torch.arange(30) % 3
    p = torch.nn.functional.one_hot(truth, 3).float()
    found = estimate(Method(estimator="bulk", pairs=False, annotator_strength=1.0), torch.zeros(2, 3, 3))
    for _ in range(40):
        found.add_bulk(p, torch.stack([truth, (truth + 1) % 3], dim=1))
    right, next_class = found.each()
    assert right.diagonal().min() > 0.9
    assert next_class[[0, 1, 2], [1, 2, 0]].min() > 0.9


def test_each_estimator_hears_only_what_it_is_made_from() -> None:
    steps = Steps(4, 3, 1, 1)
    for estimator in get_args(Estimator):
        method = Method(estimator=estimator)
        found = estimate(method, steps.pairs)
        before = found.counts.clone()
        if method.counts_bulk:
            found.add_clean(*steps.clean[0])
        else:
            found.add_bulk(*steps.bulk[0])
        assert torch.equal(found.counts, before)


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_a_thousand_classes_of_which_few_are_ever_seen_have_finite_evidence(estimator: Estimator) -> None:
    steps = Steps(5, 1000, 1, 2, batch=16)
    method = Method(estimator=estimator, smoothing=1e-6)
    found = steps.tell(estimate(method, torch.zeros(1, 1000, 1000)))
    torch.testing.assert_close(found.each().sum(dim=-1), torch.ones(1, 1000))
    assert torch.isfinite(found.log_evidence(steps.bulk[0][1])).all()
