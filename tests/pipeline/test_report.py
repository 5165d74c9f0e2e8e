"""The report: every figure, and nothing from outside that could act."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import RoundReport, escape, headline, markdown, wilson_interval


def a_report(**changes: object) -> RoundReport:
    values: dict[str, object] = {
        "labels_project": "digits",
        "review_project": "digits, review",
        "snapshot_id": "abc123",
        "noisy": 1200,
        "audited": 200,
        "reviewed": 0,
        "rejected": {},
        "pairs": 200,
        "pairs_wrong": 60,
        "expected_wrong": 357.6,
        "decisions": {"keep": 800, "relabel": 300, "low_confidence": 100},
        "relabels": "relabels from 0.93 on; expected precision 96.4 % (12 of 12 held-out pairs), 4.12 % of labels",
        "temperature": 1.5,
        "held_out": 48,
        "accuracy": 0.97,
        "queue_added": 400,
        "queue_waiting": 400,
        "mode": "suggest",
        "checks": 0,
        "checks_right": 0,
        "planned": {"audit": 40, "targeted": 360, "check": 0, "tie_break": 0, "recheck": 0},
        "minutes": 21.4,
        "corrections": 350.2,
        "undecided": {},
        "contradicted": 0,
        "model_version": "fasten/1",
        "links": {"Queue": "http://127.0.0.1:1/projects/3"},
    }
    return RoundReport(**{**values, **changes})  # type: ignore[arg-type]


def test_the_headline_says_what_was_decided_and_queued() -> None:
    assert headline(a_report()) == (
        "1200 labels scored: 300 relabeled, 100 low-confidence; 400 added to the queue, 400 waiting"
    )


def test_the_report_tells_noise_with_its_interval_and_where_to_look() -> None:
    text = markdown(a_report())
    assert "60 of 200 audited labels were wrong: 30.0% (95 % interval 24.1%–36.7%)" in text
    assert "| Mode | suggest: only people change labels |" in text
    assert "| Relabels | the model relabels from 0.93 on; expected precision 96.4 % (12 of 12 held-out" in text
    planned = "40 drawn at random, 360 where the model doubts; about 21 minutes, 350 labels set right"
    assert f"| Questions of this round | {planned} |" in text
    assert "[Queue](http://127.0.0.1:1/projects/3)" in text


def test_what_people_said_of_applied_relabels_and_could_not_decide_is_told() -> None:
    text = markdown(a_report(mode="auto", checks=20, checks_right=19, undecided={"disputed": 2, "not_sure": 1}))
    assert "| Mode | auto: relabels are applied in the corrected data set |" in text
    assert "| Applied relabels checked | 19 of 20 right: 95.0% (95 % interval 76.4%–99.1%) |" in text
    assert "| Looked at without a decision | 2 disputed, 1 not sure of |" in text
    assert "recheck" in markdown(a_report(contradicted=3))
    assert not {"checked", "decision |", "recheck"} & set(markdown(a_report()).split())


def test_the_section_on_people_comes_last() -> None:
    assert markdown(a_report(people="## Annotators\n\n| a |\n")).endswith("\n\n## Annotators\n\n| a |\n")


def test_without_pairs_or_held_out_samples_the_report_says_so_instead_of_a_figure() -> None:
    text = markdown(a_report(pairs=0, pairs_wrong=0, accuracy=None, held_out=0))
    assert "noise rate is not known" in text
    assert "no audited sample was held out" in text


def test_a_link_that_is_no_web_address_is_left_out() -> None:
    assert "javascript" not in markdown(a_report(links={"x": "javascript:alert(1)"}))


@given(st.text())
def test_text_from_outside_cannot_leave_its_cell_or_become_markup(text: str) -> None:
    shown = escape(text)
    assert "\n" not in shown
    assert "<" not in shown
    for mark in "|[`*":
        assert shown.replace("\\\\", "").replace(f"\\{mark}", "").count(mark) == 0


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (60, 200), (1, 1)])
def test_the_wilson_interval_solves_its_defining_equation(successes: int, trials: int) -> None:
    share = successes / trials
    for bound in wilson_interval(successes, trials):
        if 1e-9 < bound < 1 - 1e-9:  # at the ends of the range the equation holds trivially
            assert abs(share - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / trials) ** 0.5, rel=1e-5)


def test_the_interval_without_trials_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
