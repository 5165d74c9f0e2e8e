"""The draw of one cell."""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.data import Cell, NoiseSpec, Role, Source, draw_cell, load_source, parse_noise
from benchmarks.data.cell import long_tail
from fasten_model.errors import DataError

SYM = parse_noise("sym:0.4")


def draw(source: Source, noise: NoiseSpec = SYM, **changes: Any) -> Cell:
    return draw_cell(source, noise, **({"noisy": 3000, "clean": 200, "validation": 300, "seed": 1} | changes))


def test_no_sample_is_in_two_sets(source: Source) -> None:
    cell = draw(source)
    rows = torch.cat([cell.noisy_rows, cell.clean_rows, cell.validation_rows])
    assert len(rows) == len(set(rows.tolist())) == 3500


def test_images_and_labels_belong_together(source: Source) -> None:
    cell = draw(source)
    problem = cell.problem
    assert torch.equal(problem.noisy_images, source.train_images[cell.noisy_rows])
    assert torch.equal(cell.truth, source.train_labels[cell.noisy_rows])
    assert torch.equal(problem.clean_images, source.train_images[cell.clean_rows])
    assert torch.equal(problem.clean_labels, source.train_labels[cell.clean_rows])
    assert torch.equal(cell.validation_images, source.train_images[cell.validation_rows])
    assert torch.equal(cell.validation_labels, source.train_labels[cell.validation_rows])
    assert torch.equal(cell.test_labels, source.test_labels)


def test_clean_set_is_balanced_and_knows_what_was_said_of_it(source: Source) -> None:
    problem = draw(source).problem
    assert torch.bincount(problem.clean_labels).tolist() == [20] * 10
    assert float((problem.clean_given != problem.clean_labels).double().mean()) == pytest.approx(0.36, abs=0.1)


def test_a_class_that_runs_short_is_made_up_for(source: Source) -> None:
    rare = (source.train_labels != 4) | (torch.arange(len(source.train_labels)) < 50)
    few = replace(source, train_images=source.train_images[rare], train_labels=source.train_labels[rare], human={})
    available = int((few.train_labels == 4).sum())
    counts = torch.bincount(draw(few).problem.clean_labels).tolist()
    assert counts[4] == available < 20
    assert sum(counts) == 200
    assert max(counts[:4] + counts[5:]) - min(counts[:4] + counts[5:]) <= 1


def test_the_seed_decides_the_whole_cell(source: Source) -> None:
    one, same, other = draw(source), draw(source), draw(source, seed=2)
    assert torch.equal(one.problem.noisy_labels, same.problem.noisy_labels)
    assert torch.equal(one.noisy_rows, same.noisy_rows)
    assert torch.equal(one.clean_rows, same.clean_rows)
    assert not torch.equal(one.noisy_rows, other.noisy_rows)


def test_more_clean_samples_leave_the_noisy_set_as_it_is(source: Source) -> None:
    few, many = draw(source, clean=50), draw(source, clean=500)
    assert torch.equal(few.noisy_rows, many.noisy_rows)
    assert torch.equal(few.problem.noisy_labels, many.problem.noisy_labels)
    assert set(few.clean_rows.tolist()) <= set(many.clean_rows.tolist())


def test_transition_is_counted_from_the_pairs_drawn(source: Source) -> None:
    cell = draw(source, parse_noise("asym:0.4"))
    torch.testing.assert_close(cell.true_transition.sum(dim=1), torch.ones(10))
    mine = cell.problem.noisy_labels[cell.truth == 2]
    assert float(cell.true_transition[2, 3]) == pytest.approx(float((mine == 3).double().mean()))
    assert cell.expected_transition is not None
    assert float(cell.expected_transition[2, 3]) == pytest.approx(0.4)


def test_votes_are_those_of_the_noisy_samples(source: Source) -> None:
    cell = draw(source, parse_noise("annotators:2"))
    assert cell.problem.votes is not None
    assert cell.problem.votes.shape == (3000, 2)
    assert (cell.problem.votes == cell.problem.noisy_labels[:, None]).any(dim=1).all()
    assert cell.expected_transition is None


def test_long_tail_shrinks_to_one_part_in_imbalance(source: Source) -> None:
    cell = draw(source, noisy=1500, imbalance=10)
    counts = torch.bincount(cell.truth, minlength=10)
    assert counts.sum() == 1500
    assert float(counts[0] / counts[9]) == pytest.approx(10, rel=0.05)
    assert (counts.diff() < 0).all()
    assert torch.bincount(cell.problem.clean_labels).tolist() == [20] * 10


@pytest.mark.parametrize(("count", "classes", "imbalance"), [(1000, 10, 100.0), (7, 3, 2.0), (5000, 100, 50.0)])
def test_long_tail_sums_to_what_was_asked(count: int, classes: int, imbalance: float) -> None:
    sizes = long_tail(count, classes, imbalance)
    assert sum(sizes) == count
    assert len(sizes) == classes


def test_roles_of_the_data_are_kept(source: Source) -> None:
    """Unknown truths, samples without a given label and a validation set of the data's own."""
    count = len(source.train_labels)
    role = torch.full((count,), Role.NOISY)
    role[:1000], role[1000:2000], role[2000:3000] = Role.CLEAN, Role.VALIDATION, Role.ANY
    truth = torch.where(role == Role.NOISY, -1, source.train_labels)
    given = torch.where(role == Role.CLEAN, -1, source.human["worst"])
    cell = draw(replace(source, train_labels=truth, given=given, role=role), parse_noise("own"), clean=500)
    assert (role[cell.clean_rows] != Role.VALIDATION).all()
    assert (role[cell.clean_rows] != Role.NOISY).all()
    assert (role[cell.validation_rows] == Role.VALIDATION).all()
    assert {Role.NOISY, Role.ANY} == set(role[cell.noisy_rows].tolist())
    assert (cell.problem.noisy_labels >= 0).all()
    assert -1 in cell.truth
    assert -1 in cell.problem.clean_given
    # Few truths are known among the noisy samples: T comes from all pairs.
    assert float(cell.true_transition[0, 1]) == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"noisy": 5900}, "toy: noisy samples: 5900 wanted, and 5500 are left"),
        ({"clean": 7000}, "toy: clean samples: 7000 wanted, and 6000 are left"),
        ({"validation": 5900}, "toy: validation samples: 5900 wanted, and 5800 are left"),
        ({"noisy": 0}, "noisy 0, clean 200"),
        ({"clean": -1}, "clean -1"),
        ({"imbalance": 0.5}, "imbalance 0.5"),
        ({"imbalance": float("nan")}, "imbalance nan"),
        ({"imbalance": 100.0}, "the long tail wants .* noisy samples of class a"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line(source: Source, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as raised:
        draw(source, **changes)
    assert "\n" not in str(raised.value)


def test_drawing_digits_takes_less_than_a_second() -> None:
    digits = load_source("digits", size=32)
    started = time.process_time()
    draw_cell(digits, parse_noise("instance:0.4"), noisy=900, clean=100, validation=100, seed=1)
    assert time.process_time() - started < 1


def test_the_clean_set_knows_who_had_said_what_of_it(source: Source) -> None:
    problem = draw(source, parse_noise("annotators:2")).problem
    assert problem.clean_votes is not None
    assert problem.clean_votes.shape == (len(problem.clean_labels), 2)
    assert (problem.clean_votes == problem.clean_given[:, None]).any(dim=1).all()
    assert draw(source, parse_noise("sym:0.4")).problem.clean_votes is None
