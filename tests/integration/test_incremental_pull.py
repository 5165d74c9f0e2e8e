"""A pull from the real server reads what has changed, by either door, and asks little."""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline import loop
from pipeline.label_studio import reading
from pipeline.records import Chunk
from pipeline.review_screen import review_config
from pipeline.settings import Settings, load_settings
from pipeline.snapshot import catch_up, comparing
from pipeline.workspace import Completed, Workspace
from tests.integration.studio import CONFIG, PIXEL, Server, Studio, answer, said


def test_everything_that_people_do_arrives_and_nothing_else_is_read(studio: Studio, tmp_path: Path) -> None:
    studio.add(30)
    studio.add(3, answered=False)
    first = studio.pull(tmp_path / "long")
    assert said(first) == {f"s{number}": [("class", "cat", False)] for number in range(30)}
    expected: dict[str, Any] = dict(said(first))

    deeds: Mapping[str, Callable[[int], None]] = {
        "edit": studio.edit,
        "star": studio.star,
        "skip": lambda number: studio.say(number, was_cancelled=True, result=[]),
        "answer": studio.say,
        "take back": studio.take_back,
        "delete": studio.delete,
    }
    for number, deed in enumerate(deeds.values()):
        deed(number)
    expected |= {
        "s0": [("class", "dog", False)],
        "s1": [("class", "cat", True)],
        "s2": [("class", "cat", False), ("skipped", None, False)],
        "s3": [("class", "cat", False), ("class", "dog", False)],
    }
    del expected["s4"], expected["s5"]
    studio.say(31)
    expected["s31"] = [("class", "dog", False)]

    second = studio.pull(tmp_path / "long")
    assert said(second) == expected
    assert second.snapshot.manifest.parent == first.snapshot.snapshot_id
    assert second.snapshot.snapshot_id == studio.pull(tmp_path / "fresh").snapshot.snapshot_id


def test_a_deleted_task_is_found_by_counting_ranges_of_ids(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "FEW", 4)
    monkeypatch.setattr(catch_up, "LAG", timedelta(0))
    studio.add(40)
    studio.add(3, answered=False)
    studio.pull(tmp_path / "long")
    studio.delete(17)
    studio.wire.requests.clear()
    found = studio.pull(tmp_path / "long")
    listed = [each for each in studio.wire.requests if "page_size=10000" in str(each.url)]
    assert (len(listed), studio.wire.read_tasks()) == (2, 0), "what has changed, and one range of four"
    assert len(studio.wire.requests) <= 8
    assert set(said(found)) == {f"s{number}" for number in range(40) if number != 17}
    assert found.snapshot.snapshot_id == studio.pull(tmp_path / "fresh").snapshot.snapshot_id


def test_annotations_that_removing_duplicates_has_moved_are_kept(studio: Studio, tmp_path: Path) -> None:
    """Label Studio moves them without touching the time of the task that they come to."""
    entries = [{"image": PIXEL}, {"image": PIXEL}]
    labels = ["cat", "dog"]
    studio.door.import_tasks(
        studio.project.project_id,
        [
            {"data": data, "annotations": [{**answer(label), "ground_truth": False}]}
            for data, label in zip(entries, labels, strict=True)
        ],
    )
    assert sorted(label for _, label, _ in chain(*said(studio.pull(tmp_path)).values()) if label) == labels
    removing = {"id": "remove_duplicates", "project": str(studio.project.project_id)}
    everything = {"selectedItems": {"all": True, "excluded": []}}
    studio.http.post("/api/dm/actions", params=removing, json=everything).raise_for_status()
    [answers] = said(studio.pull(tmp_path)).values()
    assert sorted(label for _, label, _ in answers if label) == labels


def test_an_unchanged_project_costs_one_request_and_writes_nothing(studio: Studio, tmp_path: Path) -> None:
    studio.add(5)
    first = studio.pull(tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*") if file.name != ".pull.lock"}
    studio.wire.requests.clear()
    second = studio.pull(tmp_path)
    assert len(studio.wire.requests) == 1
    assert (second.snapshot, second.is_new) == (first.snapshot, False)
    assert files == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*") if file.name != ".pull.lock"}


def test_tasks_are_read_in_chunks_that_say_how_far_they_go(studio: Studio) -> None:
    studio.add(25)
    chunks: list[Chunk] = list(studio.door.all_answered(studio.project))
    assert [len(each.tasks) for each in chunks] == [10, 10, 5]
    later = list(studio.door.all_answered(studio.project, after=chunks[0].through))
    assert [task.task_id for chunk in later for task in chunk.tasks] == studio.ids[10:]


def configured(
    studio: Studio, label_studio: Server, home: Path, patch: pytest.MonkeyPatch, **settings: str
) -> Settings:
    """The settings of a loop over the studio's project, whatever this machine's environment says."""
    for name in [name for name in os.environ if name.startswith("FASTEN_")]:
        patch.delenv(name)
    patch.setenv("FASTEN_HOME", str(home))
    patch.chdir(home)
    return load_settings(
        label_studio_url=label_studio.url,
        label_studio_token=label_studio.token,
        labels_project=studio.project.title,
        **settings,
    )


def test_where_people_have_decided_everything_a_later_round_has_nothing_to_do(
    studio: Studio, label_studio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.add(2)
    settings = configured(studio, label_studio, tmp_path, monkeypatch)
    found = loop.survey(settings)
    pulled = loop.pull_labels(settings, found)
    before = Completed(fingerprint="", snapshot_id=pulled.snapshot_id, config="", run_key="one")
    Workspace.of(settings, studio.project.project_id).remember(before)
    assert loop.pull_labels(settings, found).nothing_new == "", "other settings are something new"
    for number in range(2):
        studio.star(number)
    decided = loop.pull_labels(settings, loop.survey(settings))
    assert decided.nothing_new.startswith(f"people have decided every labelled sample of “{studio.project.title}”")


def test_a_survey_with_nothing_new_takes_at_most_five_requests(
    studio: Studio, label_studio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.add(4)
    titles = {role: f"{role} of {studio.project.project_id}" for role in ("audit", "review")}
    studio.door.create_project(titles["audit"], CONFIG)
    studio.door.create_project(titles["review"], review_config(("cat", "dog")))
    settings = configured(
        studio, label_studio, tmp_path, monkeypatch, audit_project=titles["audit"], review_project=titles["review"]
    )
    first = loop.pull_labels(settings, loop.survey(settings))
    asked: list[httpx.Request] = []
    send = httpx.HTTPTransport.handle_request

    def counting(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return send(transport, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", counting)
    second = loop.pull_labels(settings, loop.survey(settings))
    assert second.snapshot_id == first.snapshot_id
    assert len(asked) <= 5, [str(each.url) for each in asked]


def test_a_task_that_the_server_fails_over_is_counted_and_hides_no_other(studio: Studio, tmp_path: Path) -> None:
    studio.add(12)
    first = studio.pull(tmp_path)
    # Label Studio takes it, and answers 500 for every page that it is on ever after.
    half = '{"data": {"image": "x", "sample_id": "\\ud800"}, "annotations": [{"ground_truth": false, "result": []}]}'
    path = f"/api/projects/{studio.project.project_id}/import"
    sent = studio.http.post(path, content=f"[{half}]".encode(), headers={"Content-Type": "application/json"})
    sent.raise_for_status()
    studio.say(3)
    second = studio.pull(tmp_path)
    assert len(said(second)["s3"]) == 2
    assert second.snapshot.manifest.rejected == {reading.UNREAD: 1}
    assert said(studio.pull(tmp_path / "fresh")) == said(second)
    assert len(said(first)) == len(said(second)) == 12
