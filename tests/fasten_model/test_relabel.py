"""ρ from a target precision: the promise is kept as often as it says, on whatever model, and the evidence is shown."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasten_model.binomial import lower_bound
from fasten_model.relabel import NEVER, RhoChoice, Suggestions, choose_rho, judge_rho, suggestions


def suggested(
    confidence: Tensor | list[float],
    right: Tensor | list[bool] | None = None,
    *,
    of: int,
    classes: Tensor | list[int] | None = None,
) -> Suggestions:
    """Suggestions of class 0 unless `classes` says of which."""
    count = len(confidence)
    return Suggestions(
        confidence=torch.as_tensor(confidence, dtype=torch.float64).reshape(-1),
        suggested=torch.as_tensor([0] * count if classes is None else classes, dtype=torch.int64).reshape(-1),
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
    assert found.suggested.tolist() == [1, 0]
    assert found.right.tolist() == [True, False]
    assert found.of == 4


def test_no_samples_give_no_suggestions() -> None:
    found = suggestions(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    assert (len(found.confidence), len(found.right), found.of) == (0, 0, 0)


def reference(bulk: Suggestions, pairs: Suggestions, rho: float) -> float:
    """The expected precision at ρ by loops over a finer grid, every confidence as it is."""
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
    return sum(p * weight for p, weight in possible) / total


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_rho_set_by_hand_is_judged_by_the_recalibrated_model_and_by_the_pairs_alone(seed: int) -> None:
    bulk, pairs = drawn(12, seed, of=40), drawn(9, 100 + seed)
    found = judge_rho(0.5, bulk, pairs)
    tried = pairs.right[pairs.confidence >= 0.5]
    assert found.expected_precision == pytest.approx(reference(bulk, pairs, 0.5), abs=0.01)
    assert found.promised_precision == lower_bound(int(tried.sum()), len(tried), 1 - 0.9)
    assert found.coverage == int((bulk.confidence >= 0.5).sum()) / 40
    assert (found.pairs, found.pairs_right) == (len(tried), int(tried.sum()))
    assert (found.rho, found.per_class, found.target_precision) == (0.5, None, None)


Truth = Callable[[Tensor], Tensor]
"""Confidence → probability that a suggestion is right."""

CALIBRATED: Truth = lambda c: c  # noqa: E731
TRUTHS: dict[str, Truth] = {
    "calibrated": CALIBRATED,
    "badly over-confident": lambda c: 0.35 + 0.5 * c,
    "over-confident, and the surest the worst": lambda c: 1 - 0.4 * c,
    "just not good enough, everywhere": lambda c: torch.full_like(c, 0.9499),
    "wrong below 0.97": lambda c: torch.where(c >= 0.97, 0.99, 0.5).double(),
    "wrong above 0.97": lambda c: torch.where(c >= 0.97, 0.9, 0.96).double(),
}


def of_a_model(truth: Truth, count: int, seed: int, *, num_classes: int = 1) -> Suggestions:
    """Suggestions of a confident model, right as often as `truth` says."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.sigmoid(3 + 1.5 * torch.randn(count, generator=generator).double())
    right = torch.rand(count, generator=generator).double() < truth(confidence)
    return suggested(confidence, right, of=3 * count, classes=torch.randint(num_classes, (count,), generator=generator))


@pytest.mark.parametrize(("pairs", "draws"), [(60, 300), (200, 200), (600, 100)])
@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_the_promise_is_broken_as_seldom_as_it_says(truth: Truth, pairs: int, draws: int) -> None:
    """Over draws of the pairs; judged by the probability that a relabel is right, not by how the bulk's turn out."""
    bulk = of_a_model(truth, 1000, 1)
    broken, changed = 0, 0
    for seed in range(draws):
        found = choose_rho(bulk, of_a_model(truth, pairs, 100 + seed), 0.95, certainty=0.9)
        let_through = bulk.confidence[bulk.confidence >= found.rho]
        changed += len(let_through) > 0
        broken += bool(len(let_through)) and float(truth(let_through).mean()) < 0.95
    assert broken / draws <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / draws)
    if truth is CALIBRATED and pairs == 600:
        assert changed > 0.9 * draws, "a rule that never relabels would keep its promise, too"


def test_a_test_that_is_wrong_as_often_as_it_may_be_is_no_more_often_wrong() -> None:
    """At the least favourable truth, with just enough pairs, the level is used up: 0.95^45 = 9.9 %."""
    truth = TRUTHS["just not good enough, everywhere"]
    bulk = of_a_model(truth, 1000, 1)
    chosen = [choose_rho(bulk, of_a_model(truth, 45, seed), 0.95).rho < NEVER for seed in range(1000)]
    assert 0.07 < sum(chosen) / 1000 < 0.13


@given(st.integers(0, 2**31), st.sampled_from([-2.0, 0.0, 2.0]), st.floats(0.55, 0.97), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_a_choice_passes_its_own_test_or_is_never(seed: int, offset: float, target: float, count: int) -> None:
    bulk, pairs = drawn(500, seed), drawn(count, seed + 1, offset=offset)
    found = choose_rho(bulk, pairs, target)
    assert (found.pairs_held_out, found.pairs_doubted) == (count, count)
    if found.rho >= NEVER:
        assert (found.coverage, found.pairs, found.promised_precision) == (0.0, 0, None)
        assert found.pairs_needed > 0
    else:
        lowest = float(bulk.confidence[bulk.confidence >= found.rho].min())
        assert 0 < lowest - found.rho <= 1.1e-5, "a rounding error in its confidence would leave it out"
        assert found.promised_precision is not None
        assert found.promised_precision >= target - 1e-12
        assert judge_rho(found.rho, bulk, pairs) == replace(found, target_precision=None)


def test_what_is_right_below_the_first_failure_is_not_looked_at() -> None:
    """However good the pairs are further down: what was tested after a failure would have been picked for passing."""
    bulk = suggested(torch.linspace(0.99, 0.6, 100), of=100)
    confidence = torch.linspace(0.99, 0.6, 400).double()
    good = suggested(confidence, [True] * 400, of=400)
    bad_in_the_middle = suggested(confidence, [not 100 <= i < 130 for i in range(400)], of=400)
    assert choose_rho(bulk, good, 0.9).coverage == 1.0
    found = choose_rho(bulk, bad_in_the_middle, 0.9)
    assert float(confidence[130]) <= found.rho < NEVER
    at_the_end = judge_rho(0.6, bulk, bad_in_the_middle).promised_precision
    assert at_the_end is not None
    assert at_the_end > 0.9


def test_an_over_confident_model_is_found_out_by_a_dozen_pairs() -> None:
    bulk = suggested(torch.linspace(0.5, 0.97, 200), of=2000)
    wrong = suggested(torch.linspace(0.5, 0.95, 16), [i % 5 == 0 for i in range(16)], of=71)
    assert choose_rho(bulk, wrong, 0.95).rho == NEVER
    judged = judge_rho(0.8, bulk, wrong)
    assert judged.expected_precision is not None
    assert judged.expected_precision < 0.5


def test_more_pairs_that_are_right_allow_more_relabels() -> None:
    bulk = drawn(1000, 3)
    few, many = drawn(60, 4, offset=1.0), drawn(800, 4, offset=1.0)
    assert choose_rho(bulk, many, 0.9).coverage > choose_rho(bulk, few, 0.9).coverage > 0


@pytest.mark.parametrize(("certainty", "enough"), [(0.9, 45), (0.95, 59), (0.99, 90)])
def test_nothing_is_promised_on_fewer_pairs_than_it_takes_and_the_choice_says_how_many_lack(
    certainty: float, enough: int
) -> None:
    bulk = suggested([0.9999] * 50, of=100)
    for count in (0, 1, enough - 1):
        found = choose_rho(bulk, suggested([0.99999] * count, [True] * count, of=count), 0.95, certainty=certainty)
        assert (found.rho, found.pairs_needed) == (NEVER, enough - count)
    found = choose_rho(bulk, suggested([0.99999] * enough, [True] * enough, of=enough), 0.95, certainty=certainty)
    assert found.rho == pytest.approx(0.9999, abs=2e-5)
    assert (found.pairs_needed, found.certainty) == (0, certainty)


def test_an_error_among_the_pairs_calls_for_more_of_them() -> None:
    bulk = suggested([0.9] * 50, of=100)
    pairs = suggested([0.99] * 60, [True] * 50 + [False] + [True] * 9, of=200)
    assert choose_rho(bulk, pairs, 0.95).pairs_needed == 77 - 60


def three_classes(seed: int, count: int) -> Suggestions:
    """Class 0 is right where q is sure of it, class 1 nearly always, class 2 hardly ever."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(3, (count,), generator=generator)
    confidence = 0.5 + 0.5 * torch.rand(count, generator=generator).double()
    chance = torch.stack(
        [torch.where(confidence > 0.8, 0.995, 0.6), torch.full((count,), 0.99), torch.full((count,), 0.3)]
    )
    right = torch.rand(count, generator=generator) < chance[classes, torch.arange(count)]
    return suggested(confidence, right, of=2 * count, classes=classes)


def test_a_class_with_pairs_of_its_own_has_a_rho_of_its_own_and_one_without_has_that_of_the_others() -> None:
    bulk, pairs = three_classes(0, 6000), three_classes(1, 3000)
    found = choose_rho(bulk, pairs, 0.95, num_classes=3)
    assert found.per_class is not None
    sure, always, never = found.per_class
    assert 0.75 < sure < 0.9
    assert always < 0.55
    assert never == NEVER
    assert choose_rho(bulk, pairs, 0.95).rho == NEVER, "together they break the promise"
    few = three_classes(1, 200)
    assert choose_rho(bulk, few, 0.95, num_classes=3) == choose_rho(bulk, few, 0.95)


def test_every_class_keeps_the_promise_at_once() -> None:
    """Five classes that are just not good enough: accepting any of them breaks it."""
    truth = TRUTHS["just not good enough, everywhere"]
    bulk = of_a_model(truth, 1000, 1, num_classes=5)
    draws, broken = 150, 0
    for seed in range(draws):
        found = choose_rho(bulk, of_a_model(truth, 2000, 100 + seed, num_classes=5), 0.95, num_classes=5)
        broken += min(found.thresholds) < NEVER
    assert 0 < broken / draws <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / draws)


def test_a_class_whose_few_pairs_are_wrong_is_left_out_of_what_all_share() -> None:
    bulk = suggested([0.9] * 1000, of=2000, classes=[i % 10 for i in range(1000)])
    classes = [i % 9 for i in range(330)] + [9] * 8
    pairs = suggested([0.95] * 338, [c != 9 for c in classes], of=500, classes=classes)
    found = choose_rho(bulk, pairs, 0.95, num_classes=10)
    assert found.rho == pytest.approx(0.9, abs=2e-5)
    assert found.per_class == (*[pytest.approx(0.9, abs=2e-5)] * 9, NEVER)
    assert (found.coverage, found.pairs, found.pairs_right) == (0.45, 330, 330)
    assert choose_rho(bulk, pairs, 0.95).per_class is None


def after(taken: int | list[int], pairs: Suggestions, *, of_class: int = 0, num_classes: int = 1) -> Suggestions:
    """Pairs since whose draw reviews have changed so many labels into one class; a list: of each pair."""
    counts = torch.zeros(len(pairs.right), num_classes, dtype=torch.int64)
    counts[:, of_class] = torch.as_tensor(taken)
    return replace(pairs, taken=counts)


@pytest.mark.parametrize("taken", [0, 500, 1500])
def test_the_promise_is_about_what_reviews_have_left_however_they_were_chosen(taken: int) -> None:
    """Pairs show suggestions of which 98.5 % are right; people were asked about right ones only, so all wrong ones are
    left."""
    generator, draws = torch.Generator().manual_seed(0), 200
    left = 2000 - taken
    confidence = torch.sigmoid(4 + 1.5 * torch.randn(left, generator=generator).double())
    wrong = torch.randperm(left, generator=generator) < 30
    bulk = suggested(confidence, of=3 * left)
    broken, changed = {False: 0, True: 0}, 0
    for _ in range(draws):
        sure = torch.sigmoid(4 + 1.5 * torch.randn(600, generator=generator).double())
        pairs = suggested(sure, torch.rand(600, generator=generator) < 0.985, of=1800)
        for told in broken:
            rho = choose_rho(bulk, after(taken, pairs) if told else pairs, 0.95).rho
            let_through = confidence >= rho
            broken[told] += bool(let_through.any()) and float(wrong[let_through].double().mean()) > 0.05
            changed += told and bool(let_through.any())
    assert broken[True] / draws <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / draws)
    if taken == 1500:
        assert broken[False] / draws > 0.5, "6 % of what is left are wrong, and the pairs do not show it"
    else:
        assert changed / draws > 0.7, "a good model still relabels"


def test_reviews_of_one_class_make_its_own_test_stricter_and_no_others() -> None:
    bulk, pairs = three_classes(0, 6000), three_classes(1, 3000)
    before = choose_rho(bulk, pairs, 0.95, num_classes=3)
    assert before == choose_rho(bulk, after(0, pairs, num_classes=3), 0.95, num_classes=3)
    found = choose_rho(bulk, after(1_000, pairs, of_class=0, num_classes=3), 0.95, num_classes=3)
    assert found.per_class is not None
    assert before.per_class is not None
    assert found.per_class[0] > before.per_class[0]
    assert found.per_class[1:] == before.per_class[1:]
    assert found.reviewed == 1_000
    more = choose_rho(bulk, after(10_000, pairs, of_class=0, num_classes=3), 0.95, num_classes=3)
    assert more.coverage < found.coverage < before.coverage


def test_what_reviews_have_left_is_promised_no_more_than_that() -> None:
    """100 of 100 pairs are right: 97.7 % by Clopper and Pearson, and so 95.5 % where as many as are left were taken."""
    bulk, pairs = suggested([0.9] * 50, of=100), suggested([0.9] * 100, [True] * 100, of=200)
    whole, half = judge_rho(0.8, bulk, pairs), judge_rho(0.8, bulk, after(50, pairs))
    assert whole.promised_precision == pytest.approx(0.1 ** (1 / 100))
    assert half.promised_precision == pytest.approx(1 - 2 * (1 - 0.1 ** (1 / 100)))
    found = choose_rho(bulk, after(50, pairs), 0.95)
    assert found.promised_precision == pytest.approx(half.promised_precision)
    more = choose_rho(bulk, after(100, pairs), 0.95)
    assert (more.rho, more.pairs_needed) == (NEVER, math.ceil(math.log(0.1) / math.log(1 - 0.05 / 3)) - 100)
    assert "(90 % certain, the 100 changed in reviews allowed for)" in more.sentence()
    assert "(100 of 100 held-out relabels right, the 50 changed in reviews allowed for)" in found.sentence()


def test_pairs_drawn_after_the_reviews_stand_for_what_these_have_left() -> None:
    bulk, old = suggested([0.9] * 50, of=100), suggested([0.9] * 100, [True] * 100, of=200)
    assert choose_rho(bulk, after(1000, old), 0.95).rho == NEVER
    found = choose_rho(bulk, after([1000] * 67 + [0] * 33, old), 0.95)
    assert found.rho == NEVER, "a third of them show little"
    assert found.pairs_needed < choose_rho(bulk, after(1000, old), 0.95).pairs_needed
    fresh = suggested([0.9] * 150, [True] * 150, of=300)
    mixed = choose_rho(bulk, after([1000] * 100 + [0] * 50, fresh), 0.95)
    assert mixed.rho == pytest.approx(0.9, abs=2e-5)
    share = (100 * 50 / 1050 + 50) / 150
    assert mixed.promised_precision == pytest.approx(1 - (1 - 0.1 ** (1 / 150)) / share)


def test_no_doubted_label_needs_no_rho() -> None:
    found = choose_rho(suggested([], of=100), drawn(100, 1), 0.9, num_classes=2)
    assert (found.rho, found.coverage, found.per_class, found.pairs_needed) == (NEVER, 0.0, None, 0)
    assert found.sentence() == "relabels nothing: the model doubts none of the labels"


def test_confidences_too_low_for_any_hope_are_tested_all_the_same() -> None:
    bulk = suggested([0.01] * 100, of=100)
    right = suggested([0.01] * 500, [True] * 500, of=500)
    assert choose_rho(bulk, right, 0.95).rho == pytest.approx(0.01, abs=2e-5)
    wrong = suggested([0.01] * 500, [True] * 400 + [False] * 100, of=500)
    found = choose_rho(bulk, wrong, 0.95)
    assert found.rho == NEVER
    assert found.pairs_needed > 0


def test_the_surest_and_the_least_sure_of_suggestions_are_finite() -> None:
    bulk = suggested([1.0, 1.0 - 1e-16, 0.01], of=3)
    pairs = suggested([1.0, 0.01] * 10, [True, False] * 10, of=20)
    found = judge_rho(0.0, bulk, pairs)
    assert found.expected_precision is not None
    assert 0 < found.expected_precision < 1


def a_choice(**changes: object) -> RhoChoice:
    values: dict[str, object] = {
        "rho": 0.931, "per_class": None, "target_precision": 0.95, "certainty": 0.9, "promised_precision": 0.951,
        "expected_precision": 0.964, "coverage": 0.0412, "pairs": 52, "pairs_right": 52, "pairs_doubted": 60,
        "pairs_held_out": 171, "pairs_needed": 0,
    }  # fmt: skip
    return RhoChoice(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (
            a_choice(),
            "relabels from 0.93 on: at least 95 % right, 90 % certain; expected precision 96.4 % (52 of 52 held-out "
            "relabels right), 4.12 % of labels",
        ),
        (
            a_choice(per_class=(0.931, 0.9, NEVER)),
            "relabels from 0.90 on (classes differ): at least 95 % right, 90 % certain; expected precision 96.4 % (52 "
            "of 52 held-out relabels right), 4.12 % of labels",
        ),
        (
            a_choice(rho=0.8, target_precision=None, expected_precision=0.4, pairs_right=4),
            "relabels from 0.80 on (set by hand); expected precision 40 % (4 of 52 held-out relabels right), 4.12 % of "
            "labels",
        ),
        (
            a_choice(rho=NEVER, pairs_doubted=12, pairs_held_out=71, pairs_needed=33),
            "relabels nothing: 12 suggestions on 71 held-out pairs do not promise that 95 % are right (90 % certain); "
            "that takes at least 33 more, all of them right, about 196 more held-out pairs",
        ),
        (
            a_choice(rho=NEVER, pairs_doubted=0, pairs_needed=45),
            "relabels nothing: 0 suggestions on 171 held-out pairs do not promise that 95 % are right (90 % certain); "
            "that takes at least 45 more, all of them right",
        ),
        (
            a_choice(rho=NEVER, pairs_held_out=0),
            "relabels nothing: no held-out audited sample has its bulk label (where annotators are told apart: "
            "by one of the bulk's), so nothing can be promised",
        ),
        (a_choice(rho=NEVER, target_precision=None), "relabels nothing, as it was set"),
        *(
            (a_choice(rho=rho, expected_precision=None), f"relabels from {shown} on; there is nothing to relabel")
            for rho, shown in (
                (0.9971, "0.9971"),
                (0.99996, "0.99996"),
                (0.9999997, "0.9999997"),
                (1 - 2**-53, "0.9999999999999999"),
                (1.0, "1.0000"),
            )
        ),
    ],
)
def test_a_choice_says_what_to_expect(choice: RhoChoice, says: str) -> None:
    assert choice.sentence() == says


def test_a_rho_above_one_is_never() -> None:
    assert judge_rho(1.5, drawn(50, 0), drawn(50, 1)).rho == NEVER
