"""A first load reads the real server's exports, and leaves nothing of them behind, whatever fails or dies."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.label_studio import exports, reading
from tests.integration.studio import Studio, said


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the project, exports are the door, of twelve tasks each."""
    monkeypatch.setattr(reading, "EXPORT_FROM", 1)
    monkeypatch.setattr(reading, "EXPORT_TASKS", 12)


def _left(studio: Studio) -> tuple[list[Any], list[Any]]:
    """Tabs and exports that the project has."""
    number = studio.project.project_id
    views = studio.http.get("/api/dm/views/", params={"project": number}).raise_for_status().json()
    kept = studio.http.get(f"/api/projects/{number}/exports/").raise_for_status().json()
    ours = [view for view in views if exports.TITLE in json.dumps(view)]
    return ours, kept


@pytest.mark.usefixtures("exporting")
def test_both_doors_give_the_same_snapshot(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio.add(30)
    studio.star(0)
    studio.say(1, was_cancelled=True, result=[])
    studio.add(2, answered=False)
    studio.take_back(2)
    exported = studio.pull(tmp_path / "exports")
    assert sum("/download" in str(each.url) for each in studio.wire.requests) == 3
    monkeypatch.setattr(reading, "EXPORT_FROM", 10**9)
    assert studio.pull(tmp_path / "pages").snapshot.snapshot_id == exported.snapshot.snapshot_id


@pytest.mark.usefixtures("exporting")
def test_exports_leave_nothing_in_the_project(studio: Studio, tmp_path: Path) -> None:
    studio.add(30)
    studio.pull(tmp_path)
    assert _left(studio) == ([], [])


@pytest.mark.usefixtures("exporting")
def test_nothing_is_removed_while_the_server_exports(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite that waits for the export, for five seconds and no longer."""
    studio.add(60)
    sent, exporting, meanwhile = studio.wire.handle_request, set[int](), list[str]()

    def watched(request: httpx.Request) -> httpx.Response:
        makes = request.method == "POST" and request.url.path.endswith("/exports/")
        if exporting:
            meanwhile.append(f"{request.method} {request.url.path.rpartition('/')[2]}")
        if not makes:
            return sent(request)
        exporting.add(id(request))
        try:
            return sent(request)
        finally:
            exporting.clear()

    monkeypatch.setattr(studio.wire, "handle_request", watched)
    assert len(said(studio.pull(tmp_path))) == 60
    assert set(meanwhile) <= {"GET download"}, "what the server has made is read while it makes the next"
    assert _left(studio) == ([], [])


def test_a_small_first_load_takes_five_requests(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "EXPORT_FROM", 1)
    monkeypatch.setattr(reading, "RECENT", 50)  # the tasks are not older than the lag
    studio.add(30)
    studio.wire.requests.clear()
    assert len(said(studio.pull(tmp_path))) == 30
    asked = [(each.method, re.sub(r"\d+", "N", each.url.path)) for each in studio.wire.requests]
    state, made, read, *others = asked
    assert (state, made) == (("GET", "/api/tasks/"), ("POST", "/api/projects/N/exports/"))
    assert read == ("GET", "/api/projects/N/exports/N/download")
    assert sorted(others) == [("DELETE", "/api/projects/N/exports/N"), ("GET", "/api/tasks/")], "and what has changed"


@pytest.mark.usefixtures("exporting")
@pytest.mark.parametrize("later", [1, 10**9])
def test_a_load_that_died_goes_on_after_its_last_chunk_and_tidies_up(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    studio.add(30)
    studio.wire.requests.clear()
    sent = studio.wire.handle_request

    def killed(request: httpx.Request) -> httpx.Response:
        """As if the process had been killed right after it asked for the second export."""
        second = request.method == "POST" and "/exports" in str(request.url) and studio.wire.read_tasks()
        if second or request.method == "DELETE":
            raise KeyboardInterrupt
        return sent(request)

    with monkeypatch.context() as patch:
        patch.setattr(studio.wire, "handle_request", killed)
        with pytest.raises(KeyboardInterrupt):
            studio.pull(tmp_path)
    assert _left(studio) != ([], [])
    monkeypatch.setattr(reading, "EXPORT_FROM", later)  # what is left may be little enough for pages
    studio.wire.requests.clear()
    result = studio.pull(tmp_path)
    assert len(said(result)) == 30
    assert _left(studio) == ([], [])


@pytest.mark.usefixtures("exporting")
def test_what_a_server_finishes_for_a_dead_pull_only_later_is_removed_too(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.add(30)
    sent, made = studio.wire.handle_request, list[dict[str, Any]]()
    exporting = f"/api/projects/{studio.project.project_id}/exports/"

    def dying(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and request.url.path == exporting:
            made.append(json.loads(request.read()))
            raise KeyboardInterrupt
        return sent(request)

    def late(request: httpx.Request) -> httpx.Response:
        """The export that the dead pull asked for is there after the next one has looked for it."""
        answer = sent(request)
        if request.method == "GET" and request.url.path == exporting and made:
            studio.http.post(exporting, json={"title": made.pop()["title"]}).raise_for_status()
        return answer

    monkeypatch.setattr(studio.wire, "handle_request", dying)
    with pytest.raises(KeyboardInterrupt):
        studio.pull(tmp_path)
    monkeypatch.setattr(studio.wire, "handle_request", late)
    assert len(said(studio.pull(tmp_path))) == 30
    assert not made
    assert _left(studio) == ([], [])


@pytest.mark.usefixtures("exporting")
@pytest.mark.parametrize("failed", [1, 3])
def test_an_export_that_could_not_be_removed_is_removed_at_the_end(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failed: int
) -> None:
    studio.add(30)
    sent, removals = studio.wire.handle_request, list[str]()

    def failing(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE" and "/exports/" in request.url.path:
            removals.append(request.url.path)
            if len(removals) == failed:
                return httpx.Response(500)
        return sent(request)

    monkeypatch.setattr(studio.wire, "handle_request", failing)
    studio.wire.requests.clear()
    assert len(said(studio.pull(tmp_path))) == 30
    assert _left(studio) == ([], [])
    assert not [each for each in studio.wire.requests if "fields=all" in str(each.url)]
    assert len(removals) == 4
    assert "exports do not work" not in caplog.text


@pytest.mark.usefixtures("exporting")
def test_a_server_that_does_not_export_is_read_in_pages(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.add(30)
    sent, done = studio.wire.handle_request, []

    def refusing(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and "/exports" in str(request.url):
            done.append(request)
            if len(done) > 1:
                return httpx.Response(504)
        return sent(request)

    studio.wire.requests.clear()
    monkeypatch.setattr(studio.wire, "handle_request", refusing)
    assert len(said(studio.pull(tmp_path))) == 30
    pages = [each for each in studio.wire.requests if "fields=all" in str(each.url)]
    assert len(pages) == 2, "eighteen tasks are left after the first export"
    assert _left(studio) == ([], [])
