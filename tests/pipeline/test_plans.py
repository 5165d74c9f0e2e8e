"""A plan that a push began and did not end stands as it is; any other is composed anew."""

from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.loop.plans import begin, begun_plan, end, keep_plan, plan_path, read_plan
from pipeline.records import ReviewTask
from pipeline.settings import Settings
from pipeline.triage import Plan


@pytest.fixture
def settings(own_folder: Path) -> Settings:
    return Settings(data_dir=own_folder / "data", queue_size=50)


@pytest.fixture
def path(own_folder: Path) -> Path:
    """Of a plan that is kept."""
    kept = plan_path(own_folder / "run" / "scores.parquet")
    keep_plan(plan("s1", "s2"), kept)
    return kept


def plan(*samples: str) -> Plan:
    return Plan.of(
        ReviewTask(
            push_key=f"key of {sample}", sample_id=sample, image_url="/x.png", current_label="cat", model_label="dog",
            confidence=0.9, reason="", priority=0.5, model_version="1",
        )
        for sample in samples
    )  # fmt: skip


def test_a_plan_is_read_as_it_was_kept(path: Path) -> None:
    assert read_plan(path) == plan("s1", "s2")


def test_a_plan_that_was_begun_stands_until_it_has_ended(path: Path, settings: Settings) -> None:
    assert begun_plan(path, settings) is None
    begin(path, settings)
    assert begun_plan(path, settings) == plan("s1", "s2")
    end(path)
    assert begun_plan(path, settings) is None
    end(path)  # a push that died right after its end is ended again


def test_a_begun_plan_does_not_outlive_the_settings_that_it_was_made_with(path: Path, settings: Settings) -> None:
    begin(path, settings)
    assert begun_plan(path, settings.model_copy(update={"queue_size": 10})) is None
    assert begun_plan(path, settings.model_copy(update={"review_project": "another"})) is None


def test_another_plan_in_its_place_was_not_begun(path: Path, settings: Settings) -> None:
    begin(path, settings)
    keep_plan(plan("s3"), path)
    assert begun_plan(path, settings) is None


def test_a_damaged_plan_is_one_line_and_none_to_take_up(path: Path, settings: Settings) -> None:
    path.write_bytes(b"{")
    begin(path, settings)
    assert begun_plan(path, settings) is None
    with pytest.raises(DataError, match="missing or damaged"):
        read_plan(path)


def test_rechecks_have_a_plan_of_their_own(path: Path) -> None:
    assert plan_path(path.with_name("scores.parquet"), recheck=3) != path
