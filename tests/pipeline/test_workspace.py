"""The workspace: what counts as new, and what a run is called."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.records import LabelControl, ProjectState
from pipeline.settings import Settings
from pipeline.workspace import Completed, Workspace, config_digest, fingerprint, run_key, write_whole


def state(project_id: int, tasks: int, annotations: int, newest: str) -> ProjectState:
    return ProjectState(project_id=project_id, tasks=tasks, annotations=annotations, newest_change=newest)


LABELS = state(1, 10, 12, "2026-01-01")
CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))


def seen(states: dict[str, ProjectState]) -> str:
    return fingerprint(states, CONTROL)


def test_making_and_filling_the_queue_is_nothing_new_but_an_answer_is() -> None:
    before = seen({"labels": LABELS})
    assert seen({"labels": LABELS, "review": state(2, 0, 0, "")}) == before
    assert seen({"labels": LABELS, "review": state(2, 0, 1, "2026-01-02")}) != before


@pytest.mark.parametrize(
    "changed", [state(1, 11, 12, "2026-01-01"), state(1, 10, 11, "2026-01-01"), state(1, 10, 12, "2026-01-02")]
)
def test_every_change_of_a_project_is_something_new(changed: ProjectState) -> None:
    assert seen({"labels": changed}) != seen({"labels": LABELS})


def test_a_class_more_is_something_new() -> None:
    more = replace(CONTROL, classes=("cat", "dog", "cow"))
    assert fingerprint({"labels": LABELS}, more) != fingerprint({"labels": LABELS}, CONTROL)


def test_what_decides_which_images_and_which_queue_is_part_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTEN_HOME", "/nowhere")
    others = [Settings(allowed_image_hosts=("images.example",)), Settings(review_project="another")]
    assert len({config_digest(settings) for settings in (Settings(), *others)}) == 3


def test_which_answers_count_is_part_of_the_configuration_and_not_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_HOME", "/nowhere")
    others = [Settings(leave_out_annotators=("7",)), Settings(skipped="ignore"), Settings(drafts="count")]
    assert len({config_digest(settings) for settings in (Settings(), *others)}) == 4
    assert len({run_key("abc", settings) for settings in (Settings(), *others)}) == 1


def test_a_draft_is_something_new_where_drafts_are_looked_at() -> None:
    looked = [replace(LABELS, drafts=drafts) for drafts in ("", "a", "b")]
    assert len({seen({"labels": state}) for state in looked}) == 3


def test_how_kernels_are_launched_makes_no_other_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(Settings().training, compile=True)
    keys = []
    for made in (config, replace(config, cuda_graphs=True)):
        with monkeypatch.context() as patch:
            patch.setattr(Settings, "training", made)
            keys.append(run_key("abc", Settings()))
    assert keys[0] == keys[1]


def test_the_key_of_a_run_changes_with_what_is_learnt_from_and_not_with_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTEN_HOME", "/nowhere")
    base = Settings()
    assert run_key("abc", base) == run_key("abc", Settings(queue_size=3))
    assert config_digest(base) != config_digest(Settings(queue_size=3))
    assert len({run_key("abc", base), run_key("abd", base), run_key("abc", Settings(seed=1))}) == 3


def test_a_file_in_the_place_of_the_data_folder_is_no_damaged_record(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    workspace = Workspace(folder=tmp_path / "data" / "project-7")
    assert workspace.review_queue() is None
    with pytest.raises(OSError, match="data"), workspace.one_writer():
        pass


def test_a_completed_round_is_remembered_and_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path / "project-1")
    assert workspace.completed() is None
    completed = Completed(fingerprint="f", snapshot_id="s", config="c", run_key="k")
    workspace.remember(completed)
    assert workspace.completed() == completed
    (workspace.folder / "completed.json").write_text("{")
    with pytest.raises(DataError, match=r"completed\.json is damaged"):
        workspace.completed()


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [("file", b"two")]
