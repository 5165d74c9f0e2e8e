"""ρ from a target precision: against the rule in plain loops, and never a promise that the pairs do not carry."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasten_model.relabel import LEAST_PAIRS, NEVER, RhoChoice, Suggestions, choose_rho, judge_rho, suggestions


def suggested(confidence: Tensor | list[float], right: Tensor | list[bool] | None = None, *, of: int) -> Suggestions:
    return Suggestions(
        confidence=torch.as_tensor(confidence, dtype=torch.float64).reshape(-1),
        right=torch.as_tensor([] if right is None else right, dtype=torch.bool).reshape(-1),
        of=of,
    )


def drawn(count: int, seed: int, *, offset: float = 0.0, of: int | None = None) -> Suggestions:
    """Suggestions of many confidences, right with probability σ(offset + log-odds): calibrated where offset = 0."""
    generator = torch.Generator().manual_seed(seed)
    log_odds = 1.5 + 1.8 * torch.randn(count, generator=generator).double()
    right = torch.rand(count, generator=generator).double() < torch.sigmoid(offset + log_odds)
    return suggested(torch.sigmoid(log_odds), right, of=of or count)


def test_a_suggestion_is_a_sample_whose_posterior_prefers_another_class() -> None:
    q = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9]])
    found = suggestions(q, torch.tensor([0, 0, 1, -1]), torch.tensor([0, 1, 1, 1]))
    assert found.confidence.tolist() == pytest.approx([0.8, 0.6])
    assert found.right.tolist() == [True, False]
    assert found.of == 4


def test_no_samples_give_no_suggestions() -> None:
    found = suggestions(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    assert (len(found.confidence), len(found.right), found.of) == (0, 0, 0)


def reference(bulk: Suggestions, pairs: Suggestions, rho: float) -> tuple[float, float]:
    """(promised, expected) precision at ρ by loops over a finer grid, every confidence as it is."""
    possible = []
    for i in range(121):
        for j in range(41):
            a, log_b = -6 + 10.5 * i / 120, -0.9 + 1.8 * j / 40
            log_weight = -((a / 1.5) ** 2) / 2 - (log_b / 0.3) ** 2 / 2

            def chance(confidence: float, a: float = a, b: float = math.exp(log_b)) -> float:
                return 1 / (1 + math.exp(-(a + b * math.log(confidence / (1 - confidence)))))

            for confidence, right in zip(pairs.confidence.tolist(), pairs.right.tolist(), strict=True):
                log_weight += math.log(chance(confidence) if right else 1 - chance(confidence))
            changed = [c for c in bulk.confidence.tolist() if c >= rho]
            possible.append((sum(map(chance, changed)) / len(changed), math.exp(log_weight)))
    total = sum(weight for _, weight in possible)
    expected, below, promised = sum(p * weight for p, weight in possible) / total, 0.0, 0.0
    for precision, weight in sorted(possible):
        below += weight / total
        promised = precision
        if below >= 0.1:
            break
    return promised, expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_promise_and_expectation_are_those_of_the_recalibrated_model(seed: int) -> None:
    bulk, pairs = drawn(12, seed, of=40), drawn(9, 100 + seed)
    found = judge_rho(0.5, bulk, pairs)
    promised, expected = reference(bulk, pairs, 0.5)
    assert found.promised_precision == pytest.approx(promised, abs=0.015)
    assert found.expected_precision == pytest.approx(expected, abs=0.01)
    assert found.coverage == int((bulk.confidence >= 0.5).sum()) / 40
    assert (found.pairs, found.pairs_right) == (
        int((pairs.confidence >= 0.5).sum()),
        int(pairs.right[pairs.confidence >= 0.5].sum()),
    )


@given(st.integers(0, 2**31), st.sampled_from([-2.0, 0.0, 1.0]), st.floats(0.55, 0.99), st.integers(0, 150))
@settings(max_examples=40)
def test_the_choice_keeps_its_own_promise_or_is_never(seed: int, offset: float, target: float, count: int) -> None:
    bulk, pairs = drawn(500, seed), drawn(count, seed + 1, offset=offset)
    found = choose_rho(bulk, pairs, target)
    assert found.pairs_held_out == count
    if found.rho >= NEVER:
        assert (found.coverage, found.pairs, found.promised_precision) == (0.0, 0, None)
    else:
        assert found.pairs >= LEAST_PAIRS
        assert found.promised_precision is not None
        assert found.promised_precision >= target - 0.005
        assert judge_rho(found.rho, bulk, pairs) == replace(found, target_precision=None)


def test_the_promise_is_kept_in_nine_of_ten_draws_of_the_pairs_where_the_model_of_precision_holds() -> None:
    kept, coverage = [], []
    for seed in range(60):
        offset = 1.5 * float(torch.randn(1, generator=torch.Generator().manual_seed(seed)))
        bulk, pairs = drawn(2000, 1000 + seed, offset=offset), drawn(40, 2000 + seed, offset=offset)
        found = choose_rho(bulk, pairs, 0.95)
        changed = bulk.confidence >= found.rho
        kept.append(not changed.any() or bool(bulk.right[changed].double().mean() >= 0.945))
        coverage.append(found.coverage)
    assert sum(kept) >= 54
    assert sum(coverage) / 60 > 0.15, "a rule that never relabels would keep its promise too"


def test_an_over_confident_model_is_found_out_by_a_dozen_pairs() -> None:
    bulk = suggested(torch.linspace(0.5, 0.97, 200), of=2000)
    wrong = suggested(torch.linspace(0.5, 0.95, 16), [i % 5 == 0 for i in range(16)], of=71)
    assert choose_rho(bulk, wrong, 0.95).rho == NEVER
    judged = judge_rho(0.8, bulk, wrong)
    assert judged.expected_precision is not None
    assert judged.expected_precision < 0.5


def test_more_pairs_that_are_right_allow_more_relabels() -> None:
    bulk = drawn(1000, 3)
    few, many = drawn(20, 4, offset=1.0), drawn(400, 4, offset=1.0)
    assert choose_rho(bulk, many, 0.9).coverage > choose_rho(bulk, few, 0.9).coverage > 0


def test_a_higher_target_never_relabels_more() -> None:
    bulk, pairs = drawn(1000, 5), drawn(150, 6)
    coverage = [choose_rho(bulk, pairs, target).coverage for target in (0.6, 0.8, 0.9, 0.95, 0.99)]
    assert coverage == sorted(coverage, reverse=True)
    assert coverage[0] > coverage[-2]


@pytest.mark.parametrize("count", [0, LEAST_PAIRS - 1])
def test_nothing_is_promised_where_too_few_pairs_have_seen_rho_at_work(count: int) -> None:
    pairs = suggested([0.999] * count, [True] * count, of=count)
    assert choose_rho(suggested([0.9999] * 50, of=100), pairs, 0.6).rho == NEVER


def test_the_surest_and_the_least_sure_of_suggestions_are_finite() -> None:
    bulk = suggested([1.0, 1.0 - 1e-16, 0.01], of=3)
    pairs = suggested([1.0, 0.01] * 10, [True, False] * 10, of=20)
    found = judge_rho(0.0, bulk, pairs)
    assert found.expected_precision is not None
    assert 0 < found.expected_precision < 1


def a_choice(**changes: object) -> RhoChoice:
    values: dict[str, object] = {
        "rho": 0.931, "target_precision": 0.95, "promised_precision": 0.951, "expected_precision": 0.964,
        "coverage": 0.0412, "pairs": 12, "pairs_right": 12, "pairs_held_out": 71,
    }  # fmt: skip
    return RhoChoice(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (
            a_choice(),
            "relabels from 0.93 on; expected precision 96.4 % (12 of 12 held-out pairs), 4.12 % of labels",
        ),
        (
            a_choice(rho=0.8, target_precision=None, expected_precision=0.4, pairs_right=4),
            "relabels from 0.80 on (set by hand); expected precision 40 % (4 of 12 held-out pairs), 4.12 % of labels",
        ),
        (a_choice(rho=NEVER), "relabels nothing: on 71 held-out pairs no precision of 95 % can be promised"),
        (
            a_choice(rho=NEVER, pairs_held_out=0),
            "relabels nothing: no held-out audited sample has its bulk label, so nothing can be promised",
        ),
        (a_choice(rho=NEVER, target_precision=None), "relabels nothing, as it was set"),
        (a_choice(rho=0.9971, expected_precision=None), "relabels from 0.9971 on; there is nothing to relabel"),
    ],
)
def test_a_choice_says_what_to_expect(choice: RhoChoice, says: str) -> None:
    assert choice.sentence() == says


def test_a_rho_above_one_is_never() -> None:
    assert judge_rho(1.5, drawn(50, 0), drawn(50, 1)).rho == NEVER
