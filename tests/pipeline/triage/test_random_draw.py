"""The random slice estimates the pool it was drawn from, whatever the model picks beside it."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.triage import Candidate
from pipeline.triage.candidates import Open
from pipeline.triage.random_draw import due, first


def opened(name: str, project: int = 7) -> Open:
    one = Candidate(
        sample_id=name,
        image_url="/data/s.png",
        given_label="3",
        model_label="8",
        model_label_probability=0.6,
        confidence=0.6,
        error_probability=0.6,
        decision="low_confidence",
        priority=0.6,
        model_version="fasten/1",
    )
    return Open(candidate=one, push_key=hashlib.sha256(f"{project}\0{name}".encode()).hexdigest()[:24], row=0)


@given(share=st.floats(0, 1), sizes=st.lists(st.integers(0, 20), max_size=50))
def test_the_shares_of_any_batches_add_up(share: float, sizes: list[int]) -> None:
    drawn, before = 0, 0
    for size in sizes:
        now = due(share, before=before, batch=size)
        assert 0 <= now <= size
        drawn, before = drawn + now, before + size
    assert drawn == pytest.approx(share * before, abs=1)


def test_batches_of_one_still_draw_one_in_ten() -> None:
    assert [due(0.1, before=before, batch=1) for before in range(20)] == ([0] * 9 + [1]) * 2


def test_the_order_is_one_of_its_own_for_each_draw_and_project() -> None:
    pool = [opened(f"s{number}") for number in range(200)]
    audits = [each.candidate.sample_id for each in first(pool, 50, "audit slice")]
    assert audits == [each.candidate.sample_id for each in first(reversed(pool), 50, "audit slice")]
    assert audits != [each.candidate.sample_id for each in first(pool, 50, "check")]
    elsewhere = [opened(f"s{number}", project=8) for number in range(200)]
    assert audits != [each.candidate.sample_id for each in first(elsewhere, 50, "audit slice")]
    assert audits[:20] == [each.candidate.sample_id for each in first(pool, 20, "audit slice")]


def test_each_slice_estimates_the_pool_of_its_round_though_the_doubtful_are_taken_out_meanwhile() -> None:
    """Ten rounds on labels of which a third is wrong; a good model takes the wrong ones out first."""
    gaps = []
    for project in range(30):
        random = np.random.default_rng(project)
        wrong = {f"s{number}": bool(random.random() < 1 / 3) for number in range(600)}
        doubt = {name: 0.7 * is_wrong + 0.3 * random.random() for name, is_wrong in wrong.items()}
        pool = {name: opened(name, project) for name in wrong}
        for _ in range(10):
            share = np.mean([wrong[name] for name in pool])
            slice_ = [each.candidate.sample_id for each in first(pool.values(), 20, "audit slice")]
            gaps.append(np.mean([wrong[name] for name in slice_]) - share)
            doubtful = sorted(pool.keys() - set(slice_), key=lambda name: -doubt[name])[:20]
            pool = {name: each for name, each in pool.items() if name not in {*slice_, *doubtful}}
    assert abs(np.mean(gaps)) < 0.02  # twice its standard error is 0.01
