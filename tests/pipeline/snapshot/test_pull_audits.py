"""What auditors and reviewers said makes samples clean, and is linked to what annotators said of the same ones."""

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.queue import push_key
from pipeline.snapshot.settle import AUDIT_OVER_REVIEW, DIFFERENT_IMAGE
from tests.pipeline.snapshot.pulling import (
    AUDIT,
    LABELS,
    PICTURES,
    REVIEW,
    START,
    Server,
    only,
    pulled,
    rows,
    says,
)


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
