"""A pull turns what people said into noisy and clean samples that share none, and counts what it leaves out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.answer_filter import AnswerFilter
from pipeline.errors import ConfigError
from pipeline.records import Annotation, Project, Task
from tests.pipeline.snapshot.pulling import (
    AUDIT,
    CLASSES,
    LABELS,
    PICTURES,
    REVIEW,
    START,
    Server,
    only,
    project,
    pulled,
    rows,
    says,
)


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
