"""Which project the reviewers' queue is: found by its id once it was filled, whatever people call it."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from pipeline.errors import ConfigError
from pipeline.label_studio import LabelStudio, MissingProjectError
from pipeline.loop import find_projects, find_review_project, review_title
from pipeline.records import LabelControl, Project
from pipeline.settings import Settings
from pipeline.workspace import ReviewQueue, Workspace

CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
LABELS = Project(project_id=1, title="animals", control=CONTROL)


class Door:
    """Projects by title and id."""

    def __init__(self, **titles: int) -> None:
        self.titles = titles

    def find_project(self, ref: int | str, *, control: str | None = None) -> Project:
        del control
        for title, project_id in self.titles.items():
            if ref in (title, project_id, str(project_id)):
                return Project(project_id=project_id, title=title, control=CONTROL)
        raise MissingProjectError(f"no project {ref}")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FASTEN_HOME", str(tmp_path))
    return Settings(labels_project="1")


def find(settings: Settings, **titles: int) -> int | None:
    found = find_review_project(settings, cast(LabelStudio, Door(**titles)), LABELS)
    return None if found is None else found.project_id


def filled(settings: Settings, project_id: int) -> None:
    queue = ReviewQueue(setting=settings.review_project or "", project_id=project_id)
    Workspace.of(settings, LABELS.project_id).remember_queue(queue)


def test_each_labels_project_has_a_queue_of_its_own_unless_one_is_set(settings: Settings) -> None:
    titles = {"animals, review": 5, "shared": 6}
    assert find(settings, **titles) == 5
    assert find(settings.model_copy(update={"review_project": "shared"}), **titles) == 6
    assert find(settings, shared=6) is None


@pytest.mark.parametrize("title", ["x" * 50, "x" * 43, "x" * 24 + " " + "y" * 25, "ünïcödé " * 6])
def test_the_queue_of_a_project_with_a_long_title_has_a_title_that_label_studio_takes(
    settings: Settings, title: str
) -> None:
    titles = {review_title(settings, replace(LABELS, project_id=number, title=title)) for number in (7, 1234567)}
    assert len(titles) == 2, "projects that begin alike have queues of their own"
    for one in titles:
        assert len(one) <= 50
        assert one[:20] == title[:20]
        assert one.endswith("7, review")
    assert review_title(settings, replace(LABELS, title="x" * 42)) == "x" * 42 + ", review"


def test_a_renamed_queue_is_the_same_queue(settings: Settings) -> None:
    filled(settings, 5)
    assert find(settings, **{"renamed": 5, "animals, review": 7}) == 5


def test_a_queue_that_is_gone_is_not_silently_started_anew(settings: Settings) -> None:
    filled(settings, 5)
    with pytest.raises(ConfigError, match=r"review project 5 is gone.*review_project\.json"):
        find(settings, **{"animals, review": 7})


def test_another_queue_can_be_set_and_the_reviews_left_behind_are_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    filled(settings, 5)
    assert find(settings.model_copy(update={"review_project": "new"}), old=5, new=6) == 6
    assert "reviews made in project 5 are no longer pulled" in caplog.text


def test_an_id_that_does_not_exist_is_an_error_not_a_title(settings: Settings) -> None:
    with pytest.raises(ConfigError):
        find(settings.model_copy(update={"review_project": "12"}))


class OneProject:
    """A server with labels project 1, made at a time of its own, and nothing else."""

    def __init__(self, created_at: str) -> None:
        self.labels = replace(LABELS, created_at=created_at)

    def find_project(self, ref: int | str, *, control: object = None) -> Project:
        del control
        if ref in ("1", "animals"):
            return self.labels
        raise MissingProjectError(f"no project {ref}")


def test_the_workspace_of_another_servers_project_is_not_taken_for_this_ones(settings: Settings) -> None:
    ours, theirs = "2026-01-01T00:00:00.000001+00:00", "2026-01-01T00:00:00.000002+00:00"
    filled(settings, 3)
    workspace = Workspace.of(settings, 1)
    workspace.remember_project(OneProject(ours).labels, "http://ours")
    workspace.remember_project(OneProject(theirs).labels, "http://theirs")
    with pytest.raises(ConfigError, match=r"is of “animals” at http://ours, not of .* set FASTEN_DATA_DIR"):
        find_projects(settings, cast(LabelStudio, OneProject(theirs)))
    for same in (OneProject(ours), OneProject("")):  # which says nothing
        with pytest.raises(ConfigError, match="review project 3 is gone"):
            find_projects(settings, cast(LabelStudio, same))


def test_a_renamed_project_on_a_server_that_has_moved_is_the_same(settings: Settings) -> None:
    workspace = Workspace.of(settings, 1)
    labels = replace(LABELS, created_at="2026-01-01T00:00:00+00:00")
    workspace.remember_project(labels, "http://before")
    workspace.check_project(replace(labels, title="renamed"))
