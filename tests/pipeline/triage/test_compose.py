"""One batch of questions: its budget, its shares, its floors and its order hold for any scores."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fasten_model.scoring import Decision
from pipeline.errors import DataError
from pipeline.records import AskedAs, Mode
from pipeline.triage import Budget, Candidate, Dispute, Pace, Plan, compose, stand
from pipeline.triage.targeted import MOST_FOR_FLOORS, NEGLIGIBLE

CLASSES = ("3", "5", "8")
MODES = st.sampled_from(["suggest", "auto"])
SLOW_TO_SETTLE = Pace(
    seconds={"audit": 5.0, "check": 6.0, "targeted": 4.0, "tie_break": 9.0}, confirming=2.0, correcting=7.0
)


def key(sample_id: str, question: str) -> str:
    return hashlib.sha256(f"7\0{sample_id}\0{question}".encode()).hexdigest()[:24]


def candidate(number: int, error: float, *, label: str = "3", guess: str = "8", decision: Decision) -> Candidate:
    return Candidate(
        sample_id=f"s{number:05}",
        image_url=f"/data/{number}.png",
        image_sha256=f"{number:064x}",
        given_label=label,
        model_label=guess,
        model_label_probability=1 - error if guess == label else error,
        confidence=0.5,
        error_probability=error,
        decision=decision,
        priority=error,
        model_version="fasten/1",
    )


def scored(errors: Sequence[float], *, seed: int = 0, promise: float = 0.9) -> list[Candidate]:
    """A candidate for each probability of an error, with labels at random, decided as the model decides."""
    random = np.random.default_rng(seed)
    found = []
    for number, error in enumerate(errors):
        label, other = random.permutation(CLASSES)[:2].tolist()
        guess = other if error > 0.5 else label
        decision: Decision = "keep" if error <= 0.05 else "relabel" if error >= promise else "low_confidence"
        found.append(candidate(number, error, label=label, guess=guess, decision=decision))
    return found


def dispute(number: int, answers: Iterable[tuple[str, str | None]] = (("class", "3"), ("class", "8"))) -> Dispute:
    told = tuple((f"user:{who}", answer, label) for who, (answer, label) in enumerate(answers))
    return Dispute(sample_id=f"d{number}", image_url="/data/d.png", given_label="3", answers=told, answered=len(told))


def composed(candidates: Sequence[Candidate], disputes: Iterable[Dispute] = (), **changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "asked": frozenset(),
        "budget": Budget(reviews=100),
        "pace": Pace(),
        "mode": "suggest",
        "audit_share": 0.1,
        "check_share": 0.05,
        "class_floor": 0.0,
        "overlap": 1,
        "classes": CLASSES,
        "features": None,
        "key": key,
        "references": {},
        "run_key": "run",
    }
    return compose(candidates, disputes, **(arguments | changes))


def asked_as(plan: Plan, kind: AskedAs) -> list[str]:
    return [task.sample_id for task in plan.tasks if task.asked_as == kind]


ERRORS = st.lists(st.floats(0, 1), max_size=60)
ANY: Mapping[str, st.SearchStrategy[Any]] = {
    "mode": MODES,
    "audit_share": st.floats(0, 1),
    "check_share": st.floats(0, 1),
    "class_floor": st.floats(0, 1),
    "overlap": st.integers(1, 3),
    "budget": st.builds(Budget, reviews=st.integers(0, 70), minutes=st.none() | st.floats(0, 10)),
}


@given(errors=ERRORS, stuck=st.integers(0, 5), known=st.sets(st.integers(0, 59)), changes=st.fixed_dictionaries(ANY))
def test_no_batch_exceeds_its_budget_repeats_a_question_or_asks_of_one_sample_twice(
    errors: list[float], stuck: int, known: set[int], changes: dict[str, Any]
) -> None:
    candidates = scored(errors)
    asked = {key(f"s{number:05}", "") for number in known} | {key("d0", "tie_break/2")}
    plan = composed(candidates, map(dispute, range(stuck)), asked=asked, pace=SLOW_TO_SETTLE, **changes)
    budget = changes["budget"]
    assert len(plan.tasks) * changes["overlap"] <= budget.reviews
    assert plan.minutes <= (float("inf") if budget.minutes is None else budget.minutes + 1e-9)
    seconds = sum(
        SLOW_TO_SETTLE.of_targeted(task.confidence) if task.asked_as == "targeted" else SLOW_TO_SETTLE.of(task.asked_as)
        for task in plan.tasks
    )
    assert plan.minutes == pytest.approx(seconds * changes["overlap"] / 60)
    assert not asked & {task.push_key for task in plan.tasks}
    assert len({task.sample_id for task in plan.tasks}) == len(plan.tasks) == sum(plan.counts.values())
    ranks = [task.rank for task in plan.tasks]
    assert ranks == sorted(ranks)
    assert all(0 <= rank <= 1 for rank in ranks)
    assert all(0 <= task.priority <= 1 for task in plan.tasks)


@given(errors=ERRORS, seed=st.integers(0, 9), changes=st.fixed_dictionaries(ANY))
def test_the_same_input_in_any_order_makes_the_same_batch(
    errors: list[float], seed: int, changes: dict[str, Any]
) -> None:
    candidates, disputes = scored(errors), [dispute(number) for number in range(3)]
    looks = np.random.default_rng(1).normal(size=(len(candidates), 6)).astype(np.float16)
    order = np.random.default_rng(seed).permutation(len(candidates))
    once = composed(candidates, disputes, features=looks, **changes)
    again = composed([candidates[i] for i in order], disputes[::-1], features=looks[order], **changes)
    assert once == again


@given(errors=st.lists(st.floats(0, 1), min_size=1, max_size=60), seed=st.integers(0, 9), mode=MODES)
def test_shuffling_the_scores_leaves_the_audit_slice_as_it_is(errors: list[float], seed: int, mode: Mode) -> None:
    shuffled = np.random.default_rng(seed).permutation(errors).tolist()
    slices = [
        asked_as(composed(scored(each), mode=mode, audit_share=0.3, budget=Budget(reviews=20)), "audit")
        for each in (errors, shuffled, [0.0] * len(errors))
    ]
    assert slices[0] == slices[1] == slices[2]
    assert len(slices[0]) == min(6, len(errors))


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=40), share=st.sampled_from([0.05, 0.1, 0.25, 0.29]))
def test_the_audit_share_is_exact_over_many_small_batches(sizes: list[int], share: float) -> None:
    candidates, asked, audits = scored([0.6] * sum(sizes)), set[str](), 0
    for size in sizes:
        plan = composed(candidates, asked=asked, budget=Budget(reviews=size), audit_share=share)
        assert len(plan.tasks) == size
        audits += plan.counts["audit"]
        asked |= {task.push_key for task in plan.tasks}
    assert audits == int(share * sum(sizes) + 1e-9)


@given(errors=st.lists(st.floats(0.06, 1), min_size=30, max_size=60), class_floor=st.floats(0, 0.2), mode=MODES)
def test_every_class_has_its_floor_where_it_has_as_many_doubtful_labels(
    errors: list[float], class_floor: float, mode: Mode
) -> None:
    candidates = scored(errors)
    plan = composed(candidates, mode=mode, class_floor=class_floor, audit_share=0.0, budget=Budget(reviews=20))
    about = Counter(name for task in plan.tasks for name in {task.current_label, task.model_label})
    there = Counter(
        name for each in candidates if each.gain(mode) >= NEGLIGIBLE for name in {each.given_label, each.model_label}
    )
    floor = int(min(class_floor, MOST_FOR_FLOORS / len(CLASSES)) * 20 + 1e-9)
    assert all(about[name] >= min(floor, there[name]) for name in CLASSES)


def test_a_rare_class_is_asked_about_though_its_doubts_are_small() -> None:
    common = [candidate(number, 0.8, decision="low_confidence") for number in range(100)]
    rare = [candidate(100 + number, 0.1, label="5", guess="5", decision="low_confidence") for number in range(9)]
    without = composed([*common, *rare], audit_share=0.0, budget=Budget(reviews=50))
    assert not any(task.current_label == "5" for task in without.tasks)
    with_floor = composed([*common, *rare], audit_share=0.0, class_floor=0.1, budget=Budget(reviews=50))
    assert sum(task.current_label == "5" for task in with_floor.tasks) == 5


def test_the_targeted_questions_are_the_best_ones_and_kept_labels_are_none() -> None:
    candidates = scored([0.5, 0.9, 0.02, 0.7, 0.3, 0.04])
    plan = composed(candidates, audit_share=0.0, budget=Budget(reviews=3))
    assert [task.sample_id for task in plan.tasks] == ["s00001", "s00003", "s00000"]
    assert plan.expected_corrections == pytest.approx(2.1)
    assert composed(candidates, audit_share=0.0).counts["targeted"] == 4


def test_of_two_doubts_the_one_that_a_key_confirms_comes_first_where_that_is_quicker() -> None:
    unsure = replace(scored([0.80])[0], sample_id="unsure", model_label_probability=0.4)
    sure = replace(scored([0.75])[0], sample_id="sure", model_label_probability=0.75)
    for pace, best in ((Pace(), "unsure"), (Pace(confirming=1.5, correcting=6.0), "sure")):
        assert composed([unsure, sure], audit_share=0.0, pace=pace).tasks[0].sample_id == best


def test_what_the_machine_changes_by_itself_is_asked_last_and_what_is_next_to_certain_never() -> None:
    candidates = scored([0.97, 0.6, 0.9, 0.999, 0.3])
    plan = composed(candidates, mode="auto", audit_share=0.0, check_share=0.0)
    assert [task.sample_id for task in plan.tasks] == ["s00001", "s00004", "s00002", "s00000"]
    assert composed(candidates, audit_share=0.0).tasks[0].sample_id == "s00003"


def test_checks_are_drawn_among_the_labels_that_the_machine_changes_and_only_where_it_does() -> None:
    candidates = scored([0.95] * 50 + [0.4] * 150)
    plan = composed(candidates, mode="auto", check_share=0.2)
    assert plan.counts == {"audit": 10, "check": 20, "targeted": 70, "tie_break": 0, "recheck": 0}
    assert all(sample < "s00050" for sample in asked_as(plan, "check"))
    assert composed(candidates, mode="suggest", check_share=0.2).counts["check"] == 0


def test_random_questions_show_nothing_that_tells_what_the_model_thinks() -> None:
    references = dict.fromkeys(CLASSES, ("/a.png", "/b.png"))
    plan = composed(scored([0.95] * 50 + [0.4] * 150), mode="auto", check_share=0.2, references=references)
    drawn = [task for task in plan.tasks if task.asked_as != "targeted"]
    assert {(task.reason, task.references) for task in drawn} == {("Random check: say what you see.", ())}
    assert {task.references for task in plan.tasks if task.asked_as == "targeted"} == {("/a.png", "/b.png")}
    assert all(task.current_label and task.model_label for task in drawn)


@given(reviews=st.integers(5, 60), share=st.sampled_from([0.1, 0.2, 0.5]))
def test_whoever_stops_early_has_done_their_share_of_the_random_questions(reviews: int, share: float) -> None:
    plan = composed(scored([0.6] * 80), audit_share=share, budget=Budget(reviews=reviews))
    done = 0
    for number, task in enumerate(plan.tasks, 1):
        done += task.asked_as == "audit"
        assert abs(done - share * number) <= 1.5


def test_a_leftover_of_an_older_batch_keeps_its_place_among_new_questions() -> None:
    older = composed(scored([0.5, 0.3]), audit_share=0.0).tasks
    newer = composed([replace(each, sample_id="new") for each in scored([0.4])], audit_share=0.0).tasks
    assert older[0].rank < newer[0].rank < older[1].rank


def test_people_who_disagree_come_first_and_within_the_budget() -> None:
    plan = composed(scored([0.6] * 20), map(dispute, range(4)), budget=Budget(reviews=10))
    assert [task.asked_as for task in plan.tasks[:4]] == ["tie_break"] * 4
    assert plan.counts["audit"] == 1
    assert len(plan.tasks) == 10
    assert composed(scored([0.6]), map(dispute, range(4)), budget=Budget(reviews=3)).counts["tie_break"] == 3


def test_a_disputed_sample_is_not_asked_about_as_if_nobody_had_seen_it() -> None:
    candidates = [replace(each, sample_id="d0") for each in scored([0.9])]
    assert [(task.sample_id, task.asked_as) for task in composed(candidates, [dispute(0)]).tasks] == [
        ("d0", "tie_break")
    ]
    waiting = {key("d0", ""), key("d0", "tie_break/2")}
    assert composed(candidates, [dispute(0)], asked=waiting).tasks == ()


def test_minutes_bind_as_well_as_reviews_and_overlap_costs() -> None:
    candidates = scored([0.6] * 200)
    assert len(composed(candidates, budget=Budget(reviews=100, minutes=2.0)).tasks) == 30
    assert len(composed(candidates, budget=Budget(reviews=100, minutes=2.0), overlap=3).tasks) == 10
    assert len(composed(candidates, budget=Budget(reviews=100), overlap=3).tasks) == 33
    assert composed(candidates, budget=Budget(reviews=100, minutes=2.0)).minutes == pytest.approx(2.0)
    assert composed(candidates, budget=Budget(reviews=100, minutes=0.0)).tasks == ()


def test_an_image_that_two_samples_share_is_asked_about_once_unless_chance_says_so() -> None:
    candidates = [replace(each, image_sha256="same") for each in scored([0.6] * 10)]
    plan = composed(candidates, audit_share=0.0)
    assert (len(plan.tasks), plan.near_duplicates) == (1, 9)
    unknown = [replace(each, image_sha256="") for each in candidates]
    assert len(composed(unknown, audit_share=0.0).tasks) == 10
    drawn = composed(candidates, audit_share=0.3, budget=Budget(reviews=10))
    assert drawn.counts["audit"] == 3
    assert drawn.counts["targeted"] == 0


def test_a_sample_with_two_scores_and_features_of_other_samples_are_refused() -> None:
    twice = [*scored([0.6]), *scored([0.7])]
    with pytest.raises(DataError, match="'s00000' has two scores"):
        composed(twice)
    with pytest.raises(DataError, match="2 rows of features for 1 scored samples"):
        composed(scored([0.6]), features=np.zeros((2, 4), np.float16))


def test_a_plan_is_kept_as_json() -> None:
    plan, whole = composed(scored([0.6] * 20), [dispute(0)]), TypeAdapter(Plan)
    assert whole.validate_json(whole.dump_json(plan)) == plan


def test_twenty_thousand_candidates_of_512_features_make_a_batch() -> None:
    random = np.random.default_rng(0)
    candidates = scored((random.random(20_000) ** 2).tolist())
    plan = composed(
        candidates,
        map(dispute, range(5)),
        features=random.normal(size=(20_000, 512)).astype(np.float16),
        budget=Budget(reviews=500),
        mode="auto",
        class_floor=0.02,
    )
    assert len(plan.tasks) == 500


@pytest.mark.parametrize(("most", "drawn"), [(None, 10), (4, 4), (0, 0), (50, 10)])
def test_a_queue_that_is_filled_again_and_again_does_not_fill_with_random_questions(
    most: int | None, drawn: int
) -> None:
    plan = composed(scored([0.0] * 200), most_audits=most)
    assert (plan.counts["audit"], len(plan.tasks)) == (drawn, drawn)


def test_a_label_that_is_changed_already_is_asked_about_only_where_the_model_would_not_change_it_so_again() -> None:
    unsure: Any = {"model_label_probability": 0.99, "decision": "low_confidence"}
    doubted = [replace(each, **unsure) for each in scored([0.99, 0.99, 0.99])]
    [first, second, third] = [each.sample_id for each in doubted]
    standing = {first: doubted[0].model_label, second: "another class"}
    ready = stand(doubted, standing)
    assert [each.decision for each in ready] == ["relabel", "low_confidence", "low_confidence"]
    plan = composed(ready, mode="auto", audit_share=0.0, check_share=0.0)
    assert set(asked_as(plan, "targeted")[:2]) == {second, third}
    assert first not in asked_as(plan, "targeted")[:2]
