"""Which samples make up which step: whatever the step that a process begins with."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fasten_model.train.plan import CleanPlan, noisy_epoch, steps_per_epoch

sizes = st.integers(1, 60)


@given(sizes, st.integers(1, 20), st.integers(0, 5))
def test_an_epoch_is_every_sample_once_and_a_function_of_its_number(count: int, batch: int, epoch: int) -> None:
    order = noisy_epoch(count, batch, seed=3, epoch=epoch)
    assert len(order) == steps_per_epoch(count, batch)
    assert max(map(len, order)) <= batch
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
        groups.append((torch.arange(first, first + size), share))
        first += size
    plan = CleanPlan(groups, seed=1)
    drawn = [plan.batch(number) for number in range(step + 1)]
    assert torch.equal(CleanPlan(groups, seed=1).batch(step), drawn[step]), "begun in the midst"
    assert torch.equal(plan.batch(0), drawn[0]), "and back"
    visits = torch.bincount(torch.cat(drawn), minlength=first)
    for samples, share in groups:
        of_group = visits[samples]
        assert int(of_group.sum()) == share * (step + 1)
        assert int(of_group.max() - of_group.min()) <= 1


def test_a_plan_keeps_no_more_than_the_passes_that_it_is_in() -> None:
    plan = CleanPlan([(torch.arange(5), 3), (torch.arange(5, 9), 2)], seed=0)
    for step in range(200):
        plan.batch(step)
    assert len(plan._passes) <= 4
