"""A pull from the real server reads what has changed, by either door, and asks little."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import httpx
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from pipeline import loop
from pipeline.images import ImageConfig, Images
from pipeline.label_studio import LabelStudio, LabelStudioConfig, exports, reading
from pipeline.records import Chunk, Project
from pipeline.review_screen import review_config
from pipeline.settings import load_settings
from pipeline.snapshot import catch_up, comparing
from pipeline.snapshot.pull import PullResult, pull

CONFIG = """<View><Image name="image" value="$image"/><Choices name="label" toName="image">
<Choice value="cat"/><Choice value="dog"/></Choices></View>"""
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


class Server(Protocol):
    """What these tests need of the session's server."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> str: ...


class Counting(httpx.HTTPTransport):
    """Passes requests on to the real server and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return super().handle_request(request)

    def read_tasks(self) -> int:
        """Requests that read answers, be it in pages or by an export."""
        return sum("fields=all" in str(each.url) or "/download" in str(each.url) for each in self.requests)


@dataclass
class Studio:
    """One project on the real server, and what a person does in it."""

    door: LabelStudio
    project: Project
    http: httpx.Client
    wire: Counting
    ids: list[int] = field(default_factory=list)

    def add(self, count: int, *, answered: bool = True) -> None:
        first = len(self.ids)
        said = [{**answer("cat"), "ground_truth": False}] if answered else []
        tasks = [{"data": {"image": PIXEL, "sample_id": f"s{first + n}"}, "annotations": said} for n in range(count)]
        self.door.import_tasks(self.project.project_id, tasks)
        found = {task.sample_id: task.task_id for task in self.door.iter_tasks(self.project)}
        self.ids = [found[f"s{number}"] for number in range(first + count)]

    def annotation(self, number: int) -> str:
        listed = self.http.get(f"/api/tasks/{self.ids[number]}/annotations/").raise_for_status().json()
        return f"/api/annotations/{listed[0]['id']}/"

    def edit(self, number: int) -> None:
        self.http.patch(self.annotation(number), json=answer("dog")).raise_for_status()

    def star(self, number: int) -> None:
        self.http.patch(self.annotation(number), json={"ground_truth": True}).raise_for_status()

    def take_back(self, number: int) -> None:
        self.http.delete(self.annotation(number)).raise_for_status()

    def say(self, number: int, **more: Any) -> None:
        body = {**answer("dog"), **more}
        self.http.post(f"/api/tasks/{self.ids[number]}/annotations/", json=body).raise_for_status()

    def delete(self, number: int) -> None:
        self.http.delete(f"/api/tasks/{self.ids[number]}/").raise_for_status()

    def pull(self, root: Path) -> PullResult:
        state = self.door.project_state(self.project)
        with Images(ImageConfig(), root=root, base_url=self.door.url, authorization=self.door.authorization) as images:
            return pull(self.door, images, labels=self.project, data_dir=root, states=[state])


def answer(label: str) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"result": [region]}


@pytest.fixture
def studio(label_studio: Server, request: pytest.FixtureRequest) -> Iterator[Studio]:
    wire = Counting()
    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token), page_size=10)
    with (
        LabelStudio(config, transport=wire) as door,
        httpx.Client(base_url=label_studio.url, headers=door.authorization()) as http,
    ):
        project = door.create_project(request.node.name.removeprefix("test_")[:50], CONFIG)
        yield Studio(door, project, http, wire)


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the project, exports are the door, of twelve tasks each."""
    monkeypatch.setattr(reading, "EXPORT_FROM", 1)
    monkeypatch.setattr(reading, "EXPORT_TASKS", 12)


def said(result: PullResult) -> dict[str, list[tuple[str, str | None, bool]]]:
    found: dict[str, list[tuple[str, str | None, bool]]] = {}
    for row in pq.read_table(result.snapshot.labels_path).to_pylist():
        found.setdefault(row["sample_id"], []).append((row["answer"], row["label"], row["ground_truth"]))
    return found


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


def test_tasks_are_read_in_chunks_that_say_how_far_they_go(studio: Studio) -> None:
    studio.add(25)
    chunks: list[Chunk] = list(studio.door.all_answered(studio.project))
    assert [len(each.tasks) for each in chunks] == [10, 10, 5]
    later = list(studio.door.all_answered(studio.project, after=chunks[0].through))
    assert [task.task_id for chunk in later for task in chunk.tasks] == studio.ids[10:]


def _left(studio: Studio) -> tuple[list[Any], list[Any]]:
    """Tabs and exports that the project has."""
    number = studio.project.project_id
    views = studio.http.get("/api/dm/views/", params={"project": number}).raise_for_status().json()
    kept = studio.http.get(f"/api/projects/{number}/exports/").raise_for_status().json()
    ours = [view for view in views if exports.TITLE in json.dumps(view)]
    return ours, kept


def test_a_survey_with_nothing_new_takes_at_most_five_requests(
    studio: Studio, label_studio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.add(4)
    titles = {role: f"{role} of {studio.project.project_id}" for role in ("audit", "review")}
    studio.door.create_project(titles["audit"], CONFIG)
    studio.door.create_project(titles["review"], review_config(("cat", "dog")))
    for name in [name for name in os.environ if name.startswith("FASTEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FASTEN_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        label_studio_url=label_studio.url,
        label_studio_token=label_studio.token,
        labels_project=studio.project.title,
        audit_project=titles["audit"],
        review_project=titles["review"],
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
