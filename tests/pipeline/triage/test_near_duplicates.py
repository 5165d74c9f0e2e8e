"""Copies are told from members of a class that the trunk has drawn onto one spot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pipeline.triage import Candidate
from pipeline.triage.candidates import Open
from pipeline.triage.near_duplicates import FEWEST, AlreadyShown, Features


def opened(groups: list[str], *, same_bytes: bool = False) -> list[Open]:
    return [
        Open(
            candidate=Candidate(
                sample_id=f"s{number}",
                image_url="/data/s.png",
                image_sha256="same" if same_bytes else "",
                given_label=group,
                model_label=group,
                model_label_probability=0.6,
                confidence=0.6,
                error_probability=0.4,
                decision="low_confidence",
                priority=0.4,
                model_version="fasten/1",
            ),
            push_key=f"{number:024x}",
            row=number,
        )
        for number, group in enumerate(groups)
    ]


def left_out(features: Features, groups: list[str]) -> NDArray[np.bool_]:
    """Which of the candidates, tried one after another, are left out."""
    tried = opened(groups)
    shown, skipped = AlreadyShown(tried, features), []
    for one in tried:
        skipped.append(shown.resembles(one))
        if not skipped[-1]:
            shown.choose(one)
    return np.array(skipped)


def collapsed(random: np.random.Generator, members: int, *, spread: float) -> tuple[NDArray[np.float32], list[str]]:
    """Ten classes as a trained trunk has them: far apart, their members close together in 12 of 64 directions."""
    groups = np.repeat(np.arange(10), members)
    centres = random.normal(size=(10, 64)) * 10
    within = random.normal(size=(len(groups), 12)) * np.linspace(1, 0.2, 12) @ random.normal(size=(12, 64))
    return (centres[groups] + spread * within).astype(np.float32), [str(group) for group in groups]


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.03])
def test_copies_are_left_out_and_members_of_a_collapsed_class_are_not(spread: float) -> None:
    random = np.random.default_rng(0)
    features, groups = collapsed(random, 60, spread=spread)
    copies = random.choice(600, 60, replace=False)
    noise = 0.02 * spread * random.normal(size=(60, 64))
    together = np.concatenate([features, features[copies] + noise]).astype(np.float32)
    skipped = left_out(together, [*groups, *(groups[i] for i in copies)])
    assert skipped[600:].mean() >= 0.95
    assert skipped[:600].mean() <= 0.01


def test_real_digits_and_darker_copies_of_them() -> None:
    digits = load_digits()
    pixels, groups = digits.data[:1000].astype(np.float32), [str(name) for name in digits.target[:1000]]
    darker = np.round(pixels[::10] * 0.8)
    skipped = left_out(np.concatenate([pixels, darker]).astype(np.float16), [*groups, *groups[::10]])
    assert skipped[1000:].mean() >= 0.95
    assert skipped[:1000].mean() <= 0.03


def test_a_burst_of_copies_is_asked_about_once() -> None:
    random = np.random.default_rng(1)
    features, groups = collapsed(random, 30, spread=0.1)
    burst = features[5] + 0.002 * random.normal(size=(40, 64)).astype(np.float32)
    skipped = left_out(np.concatenate([features, burst]), [*groups, *[groups[5]] * 40])
    assert skipped[300:].all()
    assert skipped[:300].mean() <= 0.02


@given(seed=st.integers(0, 99))
def test_no_two_of_a_batch_resemble_each_other(seed: int) -> None:
    random = np.random.default_rng(seed)
    features, groups = collapsed(random, 8, spread=0.1)
    together = np.concatenate([features, features])
    skipped = left_out(together, [*groups, *groups])
    assert skipped[80:].all()


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), float("inf")])
def test_features_that_say_nothing_leave_nothing_out(value: float) -> None:
    features = np.full((FEWEST, 8), value, np.float16)
    assert not left_out(features, ["3"] * FEWEST).any()


def test_a_row_that_is_not_finite_resembles_nothing() -> None:
    features, groups = collapsed(np.random.default_rng(2), 10, spread=1.0)
    features[[3, 4]] = np.nan
    together = np.concatenate([features, features[3:6]])
    assert np.flatnonzero(left_out(together, [*groups, *groups[3:6]])).tolist() == [102]


def test_among_a_handful_only_identical_bytes_count() -> None:
    assert not left_out(np.ones((FEWEST - 1, 4), np.float16), ["3"] * (FEWEST - 1)).any()
    tried = opened(["3"] * 3, same_bytes=True)
    shown = AlreadyShown(tried, None)
    shown.choose(tried[0])
    assert shown.resembles(tried[1])
