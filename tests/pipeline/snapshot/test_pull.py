"""A pull turns what people said in three projects into noisy and clean samples that share none."""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.answer_filter import AnswerFilter
from pipeline.errors import ConfigError, ServiceUnavailable
from pipeline.images import ImageConfig, Images
from pipeline.queue import push_key
from pipeline.records import Annotation, Chunk, LabelControl, Project, Task
from pipeline.snapshot.pull import PullResult, pull
from pipeline.snapshot.settle import AUDIT_OVER_REVIEW, DIFFERENT_IMAGE
from tests.pipeline.snapshot.task_source import TaskSource

CLASSES = ("cat", "dog", "eel")
START = datetime(2026, 1, 1, tzinfo=UTC)


def project(number: int, title: str = "", classes: tuple[str, ...] = CLASSES) -> Project:
    control = LabelControl(name="label", to_name="image", image_field="image", classes=classes)
    return Project(project_id=number, title=title or f"project {number}", control=control)


LABELS, AUDIT, REVIEW = project(1, "labels"), project(2, "audit"), project(3, "review")


def picture(colour: int) -> str:
    """A `data:` URI whose bytes differ from those of every other colour."""
    file = BytesIO()
    Image.new("L", (2, 2), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


PICTURES = [picture(colour) for colour in range(40)]


class Server(TaskSource):
    """Tasks in memory, served as the door to Label Studio serves them."""

    def __init__(self) -> None:
        self.tasks: dict[int, list[Task]] = {1: [], 2: [], 3: []}
        self.bad: dict[int, tuple[str, str]] = {}
        self._ids = count(1)

    def tasks_of(self, project: Project) -> list[Task]:
        return self.tasks[project.project_id]

    def problems_of(self, _project: Project, task: Task) -> tuple[tuple[str, str], ...]:
        return (self.bad[task.task_id],) if task.task_id in self.bad else ()

    def add(
        self, where: Project, *said: Annotation, image: Any = PICTURES[0], sample: str | None = None, **more: str
    ) -> Task:
        data = {"image": image, **more} | ({"sample_id": sample} if sample else {})
        numbered = tuple(replace(one, annotation_id=next(self._ids)) for one in said)
        task = Task(task_id=next(self._ids), project_id=where.project_id, data=data, annotations=numbered)
        self.tasks[where.project_id].append(task)
        return task


def says(label: str | None, user: int = 1, minute: int = 0, **more: Any) -> Annotation:
    values: dict[str, Any] = {"kind": "class", "ground_truth": False, "was_cancelled": False, "lead_time_s": 1.5} | more
    time = START + timedelta(minutes=minute)
    return Annotation(
        annotation_id=0, annotator=f"user:{user}", label=label, created_at=time, updated_at=time, **values
    )


def refuse(request: httpx.Request) -> httpx.Response:
    return httpx.Response(404 if "gone" in request.url.path else 503)


def pulled(server: Server, root: Path, **projects: Any) -> PullResult:
    chosen: dict[str, Any] = {"labels": LABELS, "audit": AUDIT, "review": REVIEW} | projects
    config = ImageConfig(retries=0)
    transport = httpx.MockTransport(refuse)
    with Images(config, root=root, base_url="http://host", authorization=dict, transport=transport) as images:
        return pull(server, images, data_dir=root, **chosen)


def rows(result: PullResult, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(result.snapshot.path / f"{table}.parquet").to_pylist()
    return found


def only(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (row,) = found
    return row


@pytest.fixture
def server() -> Server:
    return Server()


def test_annotators_vote_and_every_vote_is_kept(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1, 0), says("dog", 2, 5), sample="s1")
    row = only(rows(pulled(server, tmp_path), "noisy"))
    assert row["sample_id"] == "s1"
    assert row["label"] == "dog"
    assert row["image_url"] == PICTURES[0]
    assert row["votes"] == [{"annotator": "user:1", "label": "cat"}, {"annotator": "user:2", "label": "dog"}]


def test_labels_has_one_row_per_annotation_and_drops_nothing(server: Server, tmp_path: Path) -> None:
    task = server.add(LABELS, says("cat"), says(None, 2, kind="skipped", was_cancelled=True), sample="s1")
    server.add(LABELS, says("zebra", kind="unknown_class"), says(None, 2, kind="empty"), image="/data/gone.png")
    server.add(AUDIT, says("dog", 9), sample="s1")
    server.add(REVIEW, says(None, 8, kind="unusable"), image=PICTURES[1], sample="s2")
    found = rows(pulled(server, tmp_path), "labels")
    assert [(row["sample_id"], row["origin"], row["answer"], row["label"]) for row in found] == [
        ("ls:1:6", "labels", "unknown_class", "zebra"),
        ("ls:1:6", "labels", "empty", None),
        ("s1", "labels", "class", "cat"),
        ("s1", "labels", "skipped", None),
        ("s1", "audit", "class", "dog"),
        ("s2", "review", "unusable", None),
    ]
    row = found[2]
    assert (row["project_id"], row["task_id"], row["annotation_id"]) == (1, task.task_id, 1)
    assert (row["annotator"], row["lead_time_s"], row["created_at"]) == ("user:1", 1.5, START)
    assert found[3]["was_cancelled"]


def test_several_classes_are_no_vote_and_take_back_the_one_before(server: Server, tmp_path: Path) -> None:
    several: dict[str, Any] = {"kind": "several"}
    server.add(LABELS, says("cat", 1), says("dog", 2), says(None, 1, minute=5, **several), sample="s1")
    server.add(LABELS, says(None, 1, **several), sample="s2", image=PICTURES[1])
    server.add(AUDIT, says(None, 9, **several), sample="s1")
    result = pulled(server, tmp_path)
    assert only(rows(result, "noisy"))["votes"] == [{"annotator": "user:2", "label": "dog"}]
    assert rows(result, "clean") == []
    found = [row for row in rows(result, "labels") if row["answer"] == "several"]
    assert [(row["sample_id"], row["origin"], row["label"]) for row in found] == [
        ("s1", "labels", None),
        ("s1", "audit", None),
        ("s2", "labels", None),
    ]
    assert result.report.rejected == {"annotation with several classes": 3}


def test_whom_the_list_names_has_said_nothing_and_is_counted(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 7), says("dog", 1), sample="s1")
    server.add(AUDIT, says("eel", 7), sample="s1")
    server.add(LABELS, says("cat", 7), sample="s2", image=PICTURES[1])
    result = pulled(server, tmp_path, answers=AnswerFilter(annotators=frozenset({"user:7"})))
    assert only(rows(result, "labels"))["annotator"] == "user:1"
    assert only(rows(result, "noisy"))["label"] == "dog"
    assert rows(result, "clean") == []
    assert result.report.rejected == {"annotator on the list": 3}
    assert "left out: 3 (3 × annotator on the list)" in result.report.summary()


def test_a_skip_that_says_nothing_takes_no_label_back(server: Server, tmp_path: Path) -> None:
    skipped: dict[str, Any] = {"kind": "skipped", "was_cancelled": True}
    server.add(LABELS, says("cat", 1), says(None, 1, minute=5, **skipped), sample="s1")
    assert rows(pulled(server, tmp_path), "noisy") == []
    result = pulled(server, tmp_path, answers=AnswerFilter(skipped="ignore"))
    assert only(rows(result, "noisy"))["label"] == "cat"
    assert result.report.rejected == {"skipped, which is set to say nothing": 1}


def test_drafts_count_for_who_has_sent_nothing_where_that_is_set(server: Server, tmp_path: Path) -> None:
    both = server.add(LABELS, says("cat", 1), sample="s1")
    begun = Task(task_id=900, project_id=1, data={"image": PICTURES[1], "sample_id": "s2"})
    drafts = [
        replace(
            both, annotations=(replace(says("dog", 1, 9), annotation_id=-1), replace(says("dog", 2), annotation_id=-2))
        ),
        replace(begun, annotations=(replace(says("eel", 2), annotation_id=-3),)),
    ]

    def read(on_bad: Callable[[str, str], None]) -> list[Task]:
        on_bad("annotation with a malformed author", "task 900 of project 1")
        return drafts

    result = pulled(server, tmp_path, answers=AnswerFilter(drafts="count"), drafts=read)
    assert [(row["sample_id"], row["annotation_id"], row["label"]) for row in rows(result, "labels")] == [
        ("s1", -2, "dog"),
        ("s1", both.annotations[0].annotation_id, "cat"),
        ("s2", -3, "eel"),
    ]
    assert [row["sample_id"] for row in rows(result, "noisy")] == ["s1", "s2"]
    assert result.report.rejected == {"annotation with a malformed author": 1}


def test_an_audited_sample_is_clean_with_what_the_annotators_had_said(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(AUDIT, says("dog", 9, minute=3), sample="s1")
    result = pulled(server, tmp_path)
    assert rows(result, "noisy") == []
    row = only(rows(result, "clean"))
    assert (row["label"], row["given_label"], row["provenance"]) == ("dog", "cat", "audit")
    assert row["image_url"] == PICTURES[0]
    assert (row["auditor"], row["audited_at"]) == ("user:9", START + timedelta(minutes=3))
    assert row["votes"] == [{"annotator": "user:1", "label": "cat"}]
    assert result.report.samples["audit"] == 1


def test_ground_truth_of_the_labels_project_is_an_audit_and_no_vote(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), says("dog", 9, ground_truth=True), sample="s1")
    row = only(rows(pulled(server, tmp_path, audit=None, review=None), "clean"))
    assert (row["label"], row["given_label"], row["provenance"]) == ("dog", "cat", "audit")
    assert [vote["annotator"] for vote in row["votes"]] == ["user:1"]


def test_an_annotation_that_an_auditor_found_right_is_also_what_the_annotator_had_said(
    server: Server, tmp_path: Path
) -> None:
    server.add(LABELS, says("cat", 1), sample="plain")  # which shows that user 1 is an annotator
    server.add(LABELS, says("dog", 1, ground_truth=True), sample="starred")
    server.add(LABELS, says("cat", 1), says("dog", 9, ground_truth=True), sample="corrected")
    found = rows(pulled(server, tmp_path, audit=None, review=None), "clean")
    assert {row["sample_id"]: (row["label"], row["given_label"]) for row in found} == {
        "starred": ("dog", "dog"),
        "corrected": ("dog", "cat"),
    }


def test_a_review_that_was_asked_for_another_labels_project_is_left_out(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(REVIEW, says("dog", 8), sample="s1", push_key=push_key(99, "s1"))
    result = pulled(server, tmp_path)
    assert [row["sample_id"] for row in rows(result, "noisy")] == ["s1"]
    assert result.report.rejected == {"review task was asked for another labels project": 1}
    server.add(REVIEW, says("dog", 8), sample="s1", push_key=push_key(LABELS.project_id, "s1"))
    assert only(rows(pulled(server, tmp_path), "clean"))["provenance"] == "review"


def test_an_audited_sample_that_nobody_labelled_has_no_given_label(server: Server, tmp_path: Path) -> None:
    server.add(AUDIT, says("dog", 9), sample="s1")
    row = only(rows(pulled(server, tmp_path), "clean"))
    assert (row["given_label"], row["votes"], row["image_url"]) == (None, [], None)


def test_a_review_makes_a_sample_clean_but_may_not_estimate(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(REVIEW, says("eel", 8), sample="s1")
    result = pulled(server, tmp_path)
    assert rows(result, "noisy") == []
    row = only(rows(result, "clean"))
    assert (row["label"], row["given_label"], row["provenance"]) == ("eel", "cat", "review")


def test_an_audit_stands_against_a_review_and_the_contradiction_is_told(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(AUDIT, says("dog", 9), sample="s1")
    server.add(REVIEW, says("eel", 8, minute=9), sample="s1")
    result = pulled(server, tmp_path)
    row = only(rows(result, "clean"))
    assert (row["label"], row["provenance"]) == ("dog", "audit")
    assert result.report.notes == {AUDIT_OVER_REVIEW: 1}
    assert len(rows(result, "labels")) == 3


@pytest.mark.parametrize("kind", ["unusable", "not_sure"])
def test_a_sample_without_a_verdict_leaves_the_noisy_ones_but_stays_in_labels(
    server: Server, tmp_path: Path, kind: str
) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(REVIEW, says(None, 8, kind=kind), sample="s1")
    result = pulled(server, tmp_path)
    assert rows(result, "noisy") == rows(result, "clean") == []
    assert [row["answer"] for row in rows(result, "labels")] == ["class", kind]
    assert result.report.samples[kind] == 1


def test_a_skipped_review_leaves_the_sample_noisy(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(REVIEW, says(None, 8, kind="skipped", was_cancelled=True), sample="s1")
    assert only(rows(pulled(server, tmp_path), "noisy"))["label"] == "cat"


def test_projects_without_sample_ids_are_linked_by_image(server: Server, tmp_path: Path) -> None:
    labelled = server.add(LABELS, says("cat", 1), image=PICTURES[3])
    server.add(LABELS, says("cat", 1), image=PICTURES[4])
    server.add(AUDIT, says("dog", 9), image=PICTURES[3])
    result = pulled(server, tmp_path)
    row = only(rows(result, "clean"))
    assert (row["sample_id"], row["given_label"]) == (labelled.sample_id, "cat")
    assert len(rows(result, "noisy")) == 1
    assert result.report.linked_by_image == 1


def test_an_image_that_several_samples_share_links_to_none(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(LABELS, says("eel", 1), sample="s2")
    server.add(AUDIT, says("dog", 9), sample="s3")
    result = pulled(server, tmp_path)
    row = only(rows(result, "clean"))
    assert (row["sample_id"], row["given_label"]) == ("s3", None)
    assert [row["sample_id"] for row in rows(result, "noisy")] == ["s1", "s2"]


def test_ids_that_clash_by_accident_compare_no_labels(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), image=PICTURES[1], sample="7")
    server.add(AUDIT, says("dog", 9), image=PICTURES[2], sample="7")
    result = pulled(server, tmp_path)
    row = only(rows(result, "clean"))
    assert (row["label"], row["given_label"], row["votes"]) == ("dog", None, [])
    labels_image = rows(pulled(server, tmp_path / "other", audit=None), "noisy")[0]["image_sha256"]
    assert row["image_sha256"] != labels_image
    assert result.report.notes == {DIFFERENT_IMAGE: 1}


def test_an_audited_image_that_is_gone_is_taken_from_the_labels_project(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(AUDIT, says("dog", 9), image="/data/gone.png", sample="s1")
    result = pulled(server, tmp_path)
    assert only(rows(result, "clean"))["given_label"] == "cat"
    assert result.report.rejected == {}


def test_one_sample_id_for_two_images_is_rejected(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), image=PICTURES[1], sample="s1")
    server.add(LABELS, says("dog", 2), image=PICTURES[2], sample="s1")
    result = pulled(server, tmp_path)
    assert rows(result, "noisy") == []
    assert result.report.rejected == {"one sample_id stands for several images": 1}


def test_two_tasks_of_one_sample_vote_together(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat", 1), sample="s1")
    server.add(LABELS, says("cat", 2), says("dog", 3, minute=9), sample="s1")
    assert only(rows(pulled(server, tmp_path), "noisy"))["label"] == "cat"


def test_bad_samples_are_counted_reported_and_left_out(server: Server, tmp_path: Path) -> None:
    good = server.add(LABELS, says("cat"), sample="good")
    server.add(LABELS, says("cat"), image="/data/gone.png", sample="dead")
    server.add(LABELS, says("cat"), image="data:image/png;base64,bm8gaW1hZ2U=", sample="text")
    server.add(LABELS, says("cat"), image=None, sample="none")
    server.add(LABELS, says("cat"), image={"x": 1}, sample="object")
    server.add(LABELS, says("cat"), image="http://elsewhere/a.png", sample="elsewhere")
    server.add(LABELS, says("zebra", kind="unknown_class"), sample="zebra")
    server.add(LABELS, says(None, kind="empty"), sample="empty")
    server.add(LABELS, says("cat"), sample="half \ud800 pair")
    server.add(LABELS, says("cat"), sample="x" * 2000)
    server.bad = {good.task_id: ("annotation is malformed", "task 2")}
    result = pulled(server, tmp_path)
    assert [row["sample_id"] for row in rows(result, "noisy")] == ["good"]
    assert result.report.rejected == {
        "task has no image": 2,
        "sample_id is too long or not text": 2,
        "annotation names an unknown class": 1,
        "annotation is empty": 1,
        "image does not decode": 1,
        "image host answered 404": 1,
        "image host is not allowed": 1,
        "annotation is malformed": 1,
    }
    assert result.report.examples["image host answered 404"] == (
        "sample 'dead': image host answered 404: /data/gone.png",
    )
    assert result.snapshot.manifest.rejected == dict(sorted(result.report.rejected.items()))
    assert "left out: 10" in result.report.summary()


def test_labels_that_utf8_cannot_hold_are_kept_as_far_as_it_can(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("ze\udfffbra", kind="unknown_class"), sample="s1")
    assert only(rows(pulled(server, tmp_path), "labels"))["label"] == "ze?bra"


def test_images_are_in_the_store_once(server: Server, tmp_path: Path) -> None:
    for number in range(4):
        server.add(LABELS, says("cat"), image=PICTURES[number % 2], sample=str(number))
    result = pulled(server, tmp_path)
    hashes = {row["image_sha256"] for row in rows(result, "noisy")}
    with Images(ImageConfig(), root=tmp_path, base_url="http://host", authorization=dict) as images:
        assert {sha for sha, _ in images.store.iter_images(hashes)} == hashes
        assert len(hashes) == 2


def test_nothing_new_gives_the_same_snapshot_and_writes_nothing(server: Server, tmp_path: Path) -> None:
    fill(server)
    first = pulled(server, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*") if file.name != ".pull.lock"}
    for tasks in server.tasks.values():
        tasks.reverse()  # the order of pages is nobody's promise
    second = pulled(server, tmp_path)
    assert first.is_new
    assert not second.is_new
    assert second.snapshot == first.snapshot
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*") if file.name != ".pull.lock"} == before


def test_a_new_annotation_gives_a_new_snapshot_with_its_parent(server: Server, tmp_path: Path) -> None:
    fill(server)
    first = pulled(server, tmp_path)
    server.add(REVIEW, says("eel", 8), sample="s3")
    second = pulled(server, tmp_path)
    assert second.is_new
    assert second.snapshot.manifest.parent == first.snapshot.snapshot_id
    assert first.snapshot.path.is_dir()


def test_labels_that_return_to_an_earlier_state_return_to_its_snapshot(server: Server, tmp_path: Path) -> None:
    fill(server)
    first = pulled(server, tmp_path)
    server.add(REVIEW, says("eel", 8), sample="s3")
    pulled(server, tmp_path)
    server.tasks[3].pop()
    third = pulled(server, tmp_path)
    assert third.is_new
    assert third.snapshot == first.snapshot


def fill(server: Server) -> None:
    for number in range(6):
        server.add(LABELS, says(CLASSES[number % 3]), image=PICTURES[number], sample=f"s{number}")
    server.add(AUDIT, says("dog", 9), image=PICTURES[1], sample="s1")


def test_an_outage_of_the_image_host_writes_no_snapshot(server: Server, tmp_path: Path) -> None:
    for number in range(12):
        server.add(LABELS, says("cat"), image=f"/data/{number}.png", sample=str(number))
    with pytest.raises(ServiceUnavailable, match="10 images in a row"):
        pulled(server, tmp_path)
    assert not (tmp_path / "snapshots").exists()
    assert not (tmp_path / "latest.json").exists()


def test_a_door_that_fails_midway_writes_no_snapshot(server: Server, tmp_path: Path) -> None:
    fill(server)

    class Broken(Server):
        def all_answered(self, *arguments: Any, **more: Any) -> Iterator[Chunk]:
            yield from server.all_answered(*arguments, **more)
            raise ServiceUnavailable("Label Studio does not answer")

    with pytest.raises(ServiceUnavailable):
        pulled(Broken(), tmp_path)
    assert not (tmp_path / "snapshots").exists()


@pytest.mark.parametrize("role", ["audit", "review"])
def test_classes_that_differ_between_projects_are_listed(server: Server, tmp_path: Path, role: str) -> None:
    other = project(5, "other", ("cat", "dog", "fox"))
    with pytest.raises(ConfigError, match=f"the {role} project 5 'other' .* lacks 'eel' and has besides 'fox'"):
        pulled(server, tmp_path, **{role: other})
    assert list(tmp_path.glob("snapshots")) == []


def test_classes_in_another_order_are_the_same_classes(server: Server, tmp_path: Path) -> None:
    result = pulled(server, tmp_path, audit=project(2, "audit", ("eel", "dog", "cat")))
    assert result.snapshot.classes == CLASSES


def test_one_project_in_two_roles_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both as the labels and the review project"):
        pulled(server, tmp_path, review=LABELS)


def test_bulk_labels_that_were_imported_as_ground_truth_are_noticed(server: Server, tmp_path: Path) -> None:
    for number in range(12):
        server.add(LABELS, says("cat", ground_truth=True), image=PICTURES[number], sample=str(number))
    notes = pulled(server, tmp_path).report.notes
    assert notes == {"samples marked as ground truth in the labels project are taken as audited": 12}


annotations = st.builds(
    says,
    label=st.sampled_from(CLASSES),
    user=st.integers(1, 3),
    minute=st.integers(0, 3),
    kind=st.sampled_from(["class", "class", "class", "skipped", "unusable", "not_sure", "empty", "unknown_class"]),
    ground_truth=st.sampled_from([False, False, True]),
)
tasks = st.tuples(
    st.sampled_from([LABELS, AUDIT, REVIEW]),
    st.lists(annotations, max_size=3),
    st.sampled_from([*PICTURES[:4], "/data/gone.png"]),
    st.sampled_from(["s1", "s2", "s3", None]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(tasks, max_size=8))
def test_whatever_people_do_no_sample_is_both_noisy_and_clean(
    tmp_path_factory: pytest.TempPathFactory, given_tasks: list[tuple[Project, list[Annotation], str, str | None]]
) -> None:
    server = Server()
    for where, said, image, sample in given_tasks:
        server.add(where, *said, image=image, sample=sample)
    result = pulled(server, tmp_path_factory.mktemp("pull"))
    noisy, clean, labels = (rows(result, table) for table in ("noisy", "clean", "labels"))
    ids = [row["sample_id"] for row in [*noisy, *clean, *rows(result, "undecided")]]
    assert len(set(ids)) == len(ids)
    assert len(labels) == sum(len(said) for _, said, _, _ in given_tasks)
    assert {row["label"] for row in noisy + clean} <= set(CLASSES)
    decided = {
        row["sample_id"]
        for row in labels
        if row["answer"] in ("class", "unusable", "not_sure") and (row["origin"] != "labels" or row["ground_truth"])
    }
    assert not decided & {row["sample_id"] for row in noisy}
    assert {row["sample_id"] for row in clean} <= decided
    assert sum(result.report.samples.values()) == len({row["sample_id"] for row in labels})


def test_images_that_a_killed_pull_held_in_memory_are_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(server)

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.images.store.ImageStore.flush", kill)
        patch.setattr("pipeline.images.store.ImageStore.flush_if_old", lambda _: None)
        with pytest.raises(Killed):
            pulled(server, tmp_path)
    result = pulled(server, tmp_path)
    hashes = {row["image_sha256"] for row in [*rows(result, "noisy"), *rows(result, "clean")]}
    with Images(ImageConfig(), root=tmp_path, base_url="http://host", authorization=dict) as images:
        assert {sha for sha, _ in images.store.iter_images(hashes)} == hashes


def test_images_whose_file_was_removed_are_fetched_again(server: Server, tmp_path: Path) -> None:
    fill(server)
    pulled(server, tmp_path)
    for part in (tmp_path / "images").glob("part-*"):
        part.unlink()
    server.add(LABELS, says("cat"), image=PICTURES[9], sample="s9")
    result = pulled(server, tmp_path)
    hashes = {row["image_sha256"] for row in [*rows(result, "noisy"), *rows(result, "clean")]}
    with Images(ImageConfig(), root=tmp_path, base_url="http://host", authorization=dict) as images:
        assert {sha for sha, _ in images.store.iter_images(hashes)} == hashes
