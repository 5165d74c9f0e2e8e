"""Expected seconds per answer, from lead times that people really have."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.records import AskedAs
from pipeline.schema import LABELS
from pipeline.triage import Pace, pace_of
from pipeline.triage.pace import DEFAULT_S, SHRINKAGE


def labels(
    *answers: tuple[str | None, float | None],
    origin: str = "review",
    cancelled: bool = False,
    suggestion: str | None = None,
) -> pa.Table:
    """An answer, always “3”, for each (asked as, lead time)."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {
            "sample_id": f"s{number}",
            "project_id": 1,
            "task_id": number,
            "annotation_id": number,
            "annotator": "user:1",
            "answer": "class",
            "label": "3",
            "ground_truth": False,
            "was_cancelled": cancelled,
            "lead_time_s": seconds,
            "created_at": now,
            "updated_at": now,
            "origin": origin,
            "asked_as": kind,
            "suggestion": suggestion,
        }
        for number, (kind, seconds) in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, LABELS)


def test_without_answers_every_question_takes_the_default() -> None:
    kinds: tuple[AskedAs, ...] = ("audit", "check", "targeted", "tie_break", "recheck")
    assert [pace_of(labels()).of(kind) for kind in kinds] == [DEFAULT_S] * 5
    assert Pace().of("targeted") == DEFAULT_S


def test_many_answers_are_believed_and_few_are_drawn_to_everybody() -> None:
    pace = pace_of(labels(*[("targeted", 2.0)] * 2000, *[("tie_break", 30.0)] * 5))
    assert pace.of("targeted") == pytest.approx(2.0, abs=0.05)
    overall = (2005 * 2.0 + SHRINKAGE * DEFAULT_S) / (2005 + SHRINKAGE)
    assert pace.of("tie_break") == pytest.approx((5 * 30.0 + SHRINKAGE * overall) / (5 + SHRINKAGE))
    assert pace.of("audit") == pytest.approx(overall)


def test_a_lunch_a_forgotten_tab_and_answers_that_took_no_time_are_left_out() -> None:
    real = [("targeted", 3.0)] * 50
    odd = [("targeted", 3600.0)] * 40 + [("targeted", 0.0)] * 40 + [("targeted", None)] * 40 + [("targeted", -1.0)]
    assert pace_of(labels(*real, *odd)) == pace_of(labels(*real))


def test_only_finished_reviews_count() -> None:
    bulk, skipped = labels(("targeted", 90.0), origin="labels"), labels(("targeted", 90.0), cancelled=True)
    assert pace_of(pa.concat_tables([bulk, skipped])) == pace_of(labels())


def test_an_answer_to_a_question_of_unknown_kind_counts_for_everybody() -> None:
    pace = pace_of(labels(*[(None, 10.0)] * 1000))
    assert pace.of("audit") == pace.of("targeted") == pytest.approx(10.0, abs=0.2)


def test_confirming_a_suggestion_and_correcting_it_take_their_own_time() -> None:
    confirmed = labels(*[("targeted", 1.0)] * 2000, suggestion="3")
    corrected = labels(*[("targeted", 7.0)] * 1000, suggestion="8")
    pace = pace_of(pa.concat_tables([confirmed, corrected]))
    assert pace.of_targeted(1.0) == pytest.approx(1.0, abs=0.05)
    assert pace.of_targeted(0.5) == pytest.approx(4.0, abs=0.15)
    assert pace.quickest_targeted == pace.of_targeted(1.0)
    assert Pace(seconds={"targeted": 3.0}).of_targeted(0.2) == pytest.approx(3.0)


def test_the_file_says_what_its_rows_say(tmp_path: Path) -> None:
    rows = labels(("audit", 5.0), ("targeted", 7.0))
    pq.write_table(rows, tmp_path / "labels.parquet")
    assert pace_of(tmp_path / "labels.parquet") == pace_of(rows)
