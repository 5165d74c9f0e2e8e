"""Figures of the review loop, on rows whose figures can be told by hand."""

import pytest
import torch

from benchmarks.review_loop.evidence import reliability_table
from benchmarks.review_loop.measures import area, curve, precision, promise_kept, reviews_to_reach
from benchmarks.review_loop.reliability import reliability
from benchmarks.review_loop.report import markdown
from benchmarks.review_loop.rows import RoundRow


def row(number: int, handed: list[float], **more: object) -> RoundRow:
    count = len(handed) - 1
    values: dict[str, object] = {
        "dataset": "digits", "noise": "sym:0.4", "seed": 0, "policy": "random", "round": number, "samples": 100,
        "audited": 10, "spent": 10 + count * (number - 1), "noise_rate": 0.4, "picked": list(range(count)),
        "asked_as": ["audit"] * count, "wrong": [True] * count, "contradicted": [True] * count, "handed": handed,
        "suggested": handed, "bin_count": [0] * 9 + [4], "bin_predicted": [0.0] * 9 + [3.8], "bin_wrong": [0] * 9 + [3],
    }  # fmt: skip
    return RoundRow(**{**values, **more})  # type: ignore[arg-type]


def test_the_curve_goes_on_from_the_new_models_labels() -> None:
    assert curve([row(1, [0.5, 0.6, 0.7]), row(2, [0.8, 0.9])]) == [0.5, 0.6, 0.8, 0.9]


def test_the_area_is_the_mean_height_and_a_short_curve_goes_on_as_it_ended() -> None:
    assert area([0.0, 1.0, 1.0], 2) == pytest.approx(0.75)
    assert area([0.0, 1.0], 4) == pytest.approx(0.875)
    assert area([0.5, 1.0], 0) == 0.5


def test_a_share_is_reached_where_the_curve_stays_above_it() -> None:
    values = [0.5, 0.95, 0.94, 0.96, 0.97]
    assert reviews_to_reach(values, 0.95, 10) == 13
    assert reviews_to_reach(values, 0.5, 10) == 10
    assert reviews_to_reach(values, 0.98, 10) is None


def test_precision_counts_the_first_questions_of_all_rounds() -> None:
    first = row(1, [0.5] * 4, wrong=[True, False, True], asked_as=["targeted", "audit", "targeted"])
    second = row(2, [0.5] * 4, wrong=[False, True, True], asked_as=["targeted"] * 3)
    assert precision([first, second], 0.04) == 0.5
    assert precision([first, second], 0.03, targeted=True) == pytest.approx(2 / 3)
    assert precision([first, second], 0.07) is None


def test_a_promise_is_kept_by_the_share_of_what_was_changed() -> None:
    made = {"changed": 20, "target_precision": 0.95}
    assert promise_kept(row(1, [0.5], changed_right=19, **made))
    assert promise_kept(row(1, [0.5], changed_right=18, **made)) is False
    assert promise_kept(row(1, [0.5], changed=0, changed_right=0, target_precision=0.95)) is None


def test_reliability_puts_each_probability_in_its_bin() -> None:
    found = reliability(torch.tensor([0.0, 0.05, 0.1, 0.95, 1.0]), torch.tensor([False, True, False, True, True]))
    assert found.count.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.wrong.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.predicted.tolist()[0] == pytest.approx(0.05)
    assert found.expected_error() == pytest.approx((0.95 + 0.1 + 0.05) / 5)
    assert reliability(torch.empty(0), torch.empty(0, dtype=torch.bool)).expected_error() is None


def test_bins_are_added_over_seeds() -> None:
    text = reliability_table([row(1, [0.5]), row(1, [0.5], seed=1)])
    assert text.startswith("ECE 20.00 %")
    assert "| 0.9–1.0           |      8 |        95.0 |    75.0 |" in text


def test_what_is_not_reached_is_said_with_where_the_curve_ends() -> None:
    rows = [row(1, [0.5, 0.96], seed=0), row(1, [0.5, 0.94], seed=1), row(1, [], error="ValueError: no", seed=2)]
    text = markdown("t", rows, ["made so"])
    assert "> 11 (95.0, 1 of 2 did)" in text
    assert "seed 2, random, round 1: ValueError: no" in text
    assert "100 labels, 40.0 % of them wrong; 10 audited before the first round; rounds of 1 questions." in text


def test_a_run_that_was_stopped_half_way_is_not_compared() -> None:
    whole = [row(1, [0.5, 0.6]), row(2, [0.6, 0.7])]
    text = markdown("t", [*whole, row(1, [0.5, 0.9], policy="margin")], [])
    assert "| random" in text
    assert "margin" not in text
