"""Which samples make up which step: whatever the step that a process begins with."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasten_model.train.plan import (
    CleanGroup,
    CleanPlan,
    class_weights,
    clean_frequencies,
    clean_groups,
    noisy_epoch,
    steps_per_epoch,
    times_shown,
)

sizes = st.integers(1, 60)


@given(sizes, st.integers(2, 20), st.integers(0, 5))
def test_an_epoch_is_every_sample_once_and_a_function_of_its_number(count: int, batch: int, epoch: int) -> None:
    order = noisy_epoch(count, batch, seed=3, epoch=epoch)
    assert len(order) == steps_per_epoch(count, batch)
    assert max(map(len, order)) <= (batch if batch > 2 else 2 + count % 2)
    assert min(map(len, order)) >= min(2, count), "BatchNorm has no statistics of one"
    assert max(map(len, order)) - min(map(len, order)) <= 1
    assert torch.cat(order).sort().values.tolist() == list(range(count))
    again = noisy_epoch(count, batch, seed=3, epoch=epoch)
    assert all(torch.equal(one, other) for one, other in zip(order, again, strict=True))


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=3), st.integers(0, 40))
def test_a_clean_batch_is_a_function_of_its_step_and_groups_are_visited_evenly(
    shape: list[tuple[int, int]], step: int
) -> None:
    groups, first = [], 0
    for size, share in [*shape, (1, 1)]:
        groups.append(CleanGroup(torch.arange(first, first + size), share))
        first += size
    plan = CleanPlan(groups, seed=1)
    drawn = [plan.batch(number) for number in range(step + 1)]
    assert torch.equal(CleanPlan(groups, seed=1).batch(step), drawn[step]), "begun in the midst"
    assert torch.equal(plan.batch(0), drawn[0]), "and back"
    visits = torch.bincount(torch.cat(drawn), minlength=first)
    for group in groups:
        of_group = visits[group.samples]
        assert int(of_group.sum()) == group.size * (step + 1)
        assert int(of_group.max() - of_group.min()) <= 1


def test_a_plan_keeps_no_more_than_the_passes_that_it_is_in() -> None:
    plan = CleanPlan([CleanGroup(torch.arange(5), 3), CleanGroup(torch.arange(5, 9), 2)], seed=0)
    for step in range(200):
        plan.batch(step)
    assert len(plan._passes) <= 4


def test_clean_batches_are_full_visit_every_sample_evenly_and_can_begin_at_any_step() -> None:
    groups = clean_groups(torch.arange(4), torch.ones(4, dtype=torch.bool), 6, balanced=False)
    plan = CleanPlan(groups, seed=3)
    drawn = [plan.batch(step) for step in range(4)]
    assert torch.bincount(torch.cat(drawn)).tolist() == [6, 6, 6, 6]
    assert torch.equal(CleanPlan(groups, seed=3).batch(2), drawn[2])


def test_reviews_never_crowd_the_audited_samples_out_of_a_clean_batch() -> None:
    estimates = torch.tensor([True] * 5 + [False] * 200)
    groups = clean_groups(torch.zeros(205).long(), estimates, 8, balanced=False)
    plan = CleanPlan(groups, seed=0)
    batches = [plan.batch(step) for step in range(20)]
    assert all(len(batch) == 8 and int(estimates[batch].sum()) == 4 for batch in batches)
    assert len(set(torch.cat(batches).tolist())) == 5 + 80, "every one of both is taken in turn"


def test_a_few_reviews_take_only_their_share_of_a_clean_batch() -> None:
    estimates = torch.tensor([True] * 75 + [False] * 25)
    plan = CleanPlan(clean_groups(torch.zeros(100).long(), estimates, 8, balanced=True), seed=0)
    assert int(estimates[plan.batch(0)].sum()) == 6
    one = clean_groups(torch.zeros(100).long(), torch.arange(100) > 0, 8, balanced=False)
    assert [group.size for group in one] == [7, 1], "a single review is not left out"


def test_balanced_clean_batches_hold_as_many_of_each_class_where_that_can_be() -> None:
    labels, estimates = torch.tensor([0] * 90 + [1] * 6 + [2] * 4), torch.ones(100, dtype=torch.bool)
    plan = CleanPlan(clean_groups(labels, estimates, 6, balanced=True), seed=0)
    assert all(torch.bincount(labels[plan.batch(step)]).tolist() == [2, 2, 2] for step in range(10))


@given(st.integers(2, 40), st.integers(1, 12), st.booleans(), st.integers(0, 2**31))
def test_balanced_clean_batches_are_full_and_no_class_is_more_than_one_ahead(
    batch: int, num_classes: int, reviews: bool, seed: int
) -> None:
    """Whether or not the classes divide the batch, or outnumber it."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(num_classes), torch.randint(num_classes, (30,), generator=random)])
    estimates = torch.ones(len(labels), dtype=torch.bool)
    if reviews:
        estimates[num_classes:] = torch.rand(30, generator=random) < 0.5
    groups = clean_groups(labels, estimates, batch, balanced=True)
    plan = CleanPlan(groups, seed=seed)
    drawn = [plan.batch(step) for step in range(2 * num_classes)]
    assert {len(chosen) for chosen in drawn} == {batch}
    for audited in (True, False):
        classes = torch.unique(labels[estimates == audited])
        parts = [chosen[estimates[chosen] == audited] for chosen in drawn]
        assert len({len(part) for part in parts}) == 1
        for part in parts if len(parts[0]) else []:
            counts = torch.bincount(labels[part], minlength=num_classes)[classes]
            assert int(counts.max() - counts.min()) <= 1
        if len(parts[0]):
            visits = torch.bincount(labels[torch.cat(parts[: len(classes)])], minlength=num_classes)[classes]
            assert int(visits.max() - visits.min()) == 0, "as many turns have all had the sample more"


def test_reviews_are_seen_less_often_than_the_few_that_were_audited() -> None:
    """100 audited at random and 1,000 reviewed, 16 of each in a batch: seen every 6.25th and 62.5th step."""
    estimates = torch.arange(1100) < 100
    groups = clean_groups(torch.zeros(1100).long(), estimates, 32, balanced=False)
    assert times_shown(groups) == pytest.approx((1 / 6.25 + 1 / 62.5) / 2)
    assert times_shown(groups[:1]) == pytest.approx(1 / 6.25)
    by_class = clean_groups(torch.arange(12) % 3, torch.ones(12).bool(), 6, balanced=True)
    assert times_shown(by_class) == pytest.approx(1 / 2)


def test_clean_frequencies_are_those_of_what_is_drawn() -> None:
    labels, estimates = torch.tensor([0] * 90 + [1] * 6 + [2] * 4), torch.ones(100, dtype=torch.bool)
    plain, balanced = (
        clean_frequencies(clean_groups(labels, estimates, 6, balanced=balanced), labels, 3)
        for balanced in (False, True)
    )
    torch.testing.assert_close(plain, torch.tensor([91.0, 7, 5]) / 103)
    torch.testing.assert_close(balanced, torch.full((3,), 1 / 3))
    reviewed = clean_frequencies(clean_groups(labels, labels == 1, 6, balanced=False), labels, 4)
    torch.testing.assert_close(reviewed, torch.tensor([1 + 50 * 90 / 94, 51, 1 + 50 * 4 / 94, 1]) / 104)


def test_reviews_do_not_move_the_class_frequencies_that_the_clean_head_learns() -> None:
    audited, reviewed, held_out = [0] * 10 + [1] * 8 + [2] * 2, [0] * 70 + [1] * 10, [0] * 20 + [1] * 22 + [2] * 18
    labels, estimates = torch.tensor(audited + reviewed), torch.arange(100) < 20
    drawn = clean_frequencies(clean_groups(labels, estimates, 8, balanced=False), labels, 3)
    weights = class_weights(drawn, labels, estimates, torch.tensor(held_out))
    torch.testing.assert_close(drawn * weights, torch.tensor([31.0, 31, 21]) / 83)
    assert weights[2] > 3, "the class that nobody was asked about counts for more"
    torch.testing.assert_close(drawn * class_weights(drawn, labels, estimates, None), torch.tensor([11.0, 9, 3]) / 23)


def test_without_reviews_every_clean_sample_counts_once() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    drawn = torch.tensor([0.9, 0.1])
    for estimates in (torch.ones(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)):
        assert torch.equal(class_weights(drawn, labels, estimates, torch.zeros(50, dtype=torch.int64)), torch.ones(2))
