"""What reviewers answer, agree on and do not agree on, as a pull writes it down."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DataError
from pipeline.images import ImageConfig, Images
from pipeline.queue import payload_of, push_key
from pipeline.records import Annotation, AskedAs, LabelControl, Project, ReviewTask, Task
from pipeline.snapshot import latest_snapshot, open_snapshot
from pipeline.snapshot.pull import PullResult, pull
from tests.pipeline.snapshot.task_source import TaskSource

START = datetime(2026, 1, 1, tzinfo=UTC)
CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog", "eel"))
LABELS, AUDIT, REVIEW = (
    Project(project_id=number, title=title, control=CONTROL)
    for number, title in ((1, "labels"), (2, "audit"), (3, "review"))
)


def _picture() -> str:
    file = BytesIO()
    Image.new("L", (2, 2), 7).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


PICTURE = _picture()


class Server(TaskSource):
    """Tasks in memory; every sample is a task of the labels project and, once asked, of the review project."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tasks: list[Task] = []
        self._ids = count(1)

    def tasks_of(self, project: Project) -> list[Task]:
        return [task for task in self.tasks if task.project_id == project.project_id]

    def add(self, where: Project, data: dict[str, Any], *said: Annotation) -> None:
        numbered = tuple(replace(one, annotation_id=next(self._ids)) for one in said)
        task = Task(
            task_id=next(self._ids), project_id=where.project_id, data={"image": PICTURE} | data, annotations=numbered
        )
        self.tasks.append(task)

    def label(self, sample: str, *said: Annotation) -> None:
        self.add(LABELS, {"sample_id": sample}, *said)

    def ask(self, sample: str, kind: AskedAs, *said: Annotation, asked: str = "", **changes: Any) -> None:
        """A question as it is really sent, answered."""
        question = ReviewTask(
            push_key=push_key(LABELS.project_id, sample, asked),
            sample_id=sample,
            image_url=PICTURE,
            asked_as=kind,
            current_label="cat",
            model_label="dog",
            confidence=0.9,
            reason="why not",
            priority=0.5,
            model_version="1",
            run_key="0123-4567",
        )
        self.add(REVIEW, payload_of(question, REVIEW)["data"] | changes, *said)

    def pull(self, **more: Any) -> PullResult:
        images = Images(ImageConfig(retries=0), root=self.root, base_url="http://127.0.0.1:9", authorization=dict)
        with images:
            return pull(self, images, labels=LABELS, audit=AUDIT, review=REVIEW, data_dir=self.root, **more)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def says(what: str, user: int, minute: int = 0, **more: Any) -> Annotation:
    """`what` is a class, or another kind of answer."""
    kind = what if what in ("unusable", "not_sure", "skipped") else "class"
    values: dict[str, Any] = {"kind": kind, "ground_truth": False, "was_cancelled": False, "lead_time_s": 2.0} | more
    time = START + timedelta(minutes=minute)
    label = what if kind == "class" else None
    return Annotation(
        annotation_id=0, annotator=f"user:{user}", label=label, created_at=time, updated_at=time, **values
    )


def rows(result: PullResult, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(result.snapshot.path / f"{table}.parquet").to_pylist()
    return found


def fate(result: PullResult) -> str:
    """Where the only sample ended."""
    [found] = [name for name, samples in result.report.samples.items() if samples]
    return found


@pytest.mark.parametrize(
    ("kind", "provenance", "suggestion"),
    [("audit", "audit", None), ("check", "review", None), ("targeted", "review", "dog"), ("recheck", "review", "dog")],
)
def test_only_answers_to_random_questions_may_estimate(
    server: Server, kind: AskedAs, provenance: str, suggestion: str | None
) -> None:
    server.label("s1", says("cat", 1))
    server.ask("s1", kind, says("dog", 8), asked="recheck" if kind == "recheck" else "")
    result = server.pull()
    [row] = rows(result, "clean")
    assert (row["label"], row["given_label"], row["provenance"]) == ("dog", "cat", provenance)
    answered = rows(result, "labels")[-1]
    assert (answered["asked_as"], answered["suggestion"], answered["asked_by_run"]) == (kind, suggestion, "0123-4567")
    assert rows(result, "labels")[0]["asked_as"] is None


def test_nobody_makes_a_review_an_audit_by_editing_its_task(server: Server) -> None:
    server.label("s1", says("cat", 1))
    server.ask("s1", "recheck", says("dog", 8), asked="recheck")
    forged = server.tasks.pop()
    server.add(REVIEW, {**forged.data, "asked_as": "audit", "asked_by_run": "../../etc"}, *forged.annotations)
    result = server.pull()
    assert rows(result, "clean")[0]["provenance"] == "review"
    assert (rows(result, "labels")[-1]["asked_as"], rows(result, "labels")[-1]["asked_by_run"]) == (None, None)


def test_two_who_disagree_leave_the_sample_undecided_until_a_third_answers(server: Server) -> None:
    server.label("s1", says("cat", 1))
    server.ask("s1", "audit", says("dog", 8), says("eel", 9, 1))
    result = server.pull()
    assert rows(result, "noisy") == rows(result, "clean") == []
    [row] = rows(result, "undecided")
    assert (row["state"], row["label"], row["image_url"]) == ("disputed", "cat", PICTURE)
    assert row["votes"] == [{"annotator": "user:1", "label": "cat"}]
    assert row["answers"] == [
        {"annotator": "user:8", "answer": "class", "label": "dog"},
        {"annotator": "user:9", "answer": "class", "label": "eel"},
    ]
    assert row["image_sha256"] is not None
    assert "1 that people disagreed about" in result.report.summary()
    server.ask("s1", "tie_break", says("eel", 7, 2), asked="tie_break/2")
    result = server.pull()
    [row] = rows(result, "clean")
    assert (row["label"], row["provenance"], row["auditor"]) == ("eel", "audit", "user:7")
    assert rows(result, "undecided") == []
    assert len(rows(result, "labels")) == 4


@pytest.mark.parametrize("verdict", ["unusable", "not_sure"])
def test_a_verdict_is_respected(server: Server, verdict: str) -> None:
    server.label("s1", says("cat", 1))
    server.ask("s1", "targeted", says(verdict, 8))
    result = server.pull()
    assert fate(result) == verdict
    [row] = rows(result, "undecided")
    assert (row["state"], row["label"]) == (verdict, "cat")
    assert row["answers"] == [{"annotator": "user:8", "answer": verdict, "label": None}]
    assert rows(result, "noisy") == []


def test_a_verdict_on_an_image_that_is_gone_is_kept_without_it(server: Server) -> None:
    server.add(LABELS, {"sample_id": "s1", "image": "gone"}, says("cat", 1))
    server.ask("s1", "targeted", says("unusable", 8), image="gone")
    [row] = rows(server.pull(), "undecided")
    assert (row["image_sha256"], row["image_url"], row["label"]) == (None, "gone", "cat")


def test_somebody_who_was_not_sure_and_asked_again_decides(server: Server) -> None:
    server.label("s1", says("cat", 1))
    server.ask("s1", "targeted", says("not_sure", 8))
    server.ask("s1", "tie_break", says("eel", 8, 3), asked="tie_break/1")
    [row] = rows(server.pull(), "clean")
    assert (row["label"], row["provenance"]) == ("eel", "review")


def test_a_review_that_was_withdrawn_leaves_the_sample_noisy_again(server: Server) -> None:
    server.label("s1", says("cat", 1))
    first = server.pull()
    server.ask("s1", "targeted", says("dog", 8))
    assert fate(server.pull()) == "review"
    server.tasks.pop()
    last = server.pull()
    assert fate(last) == "noisy"
    assert last.snapshot == first.snapshot


def test_what_the_machine_wrote_itself_is_no_answer(server: Server) -> None:
    server.label("s1", says("cat", 1))
    server.label("s2", says("cat", 1), says("dog", 2))
    before = server.pull(ignore=("user:66",))
    server.label("s1", says("eel", 66, 9))
    server.tasks[1] = replace(
        server.tasks[1], annotations=(*server.tasks[1].annotations, replace(says("dog", 66), annotation_id=999))
    )
    server.ask("s2", "targeted", says("dog", 66, 9))
    after = server.pull(ignore=("user:66",))
    assert not after.is_new, "writing labels back is nothing to learn from"
    assert after.snapshot == before.snapshot
    assert server.pull().is_new


def test_a_persons_mark_on_what_the_machine_wrote_is_that_persons_decision_and_estimates_nothing(
    server: Server,
) -> None:
    server.label("s1", says("cat", 1), says("dog", 66, 1, ground_truth=True))
    [row] = rows(server.pull(ignore={"user:66"}), "clean")
    assert (row["label"], row["given_label"], row["provenance"]) == ("dog", "cat", "review")
    server.ask("s1", "targeted", says("eel", 8))
    [row] = rows(server.pull(ignore={"user:66"}), "clean")
    assert (row["label"], row["provenance"]) == ("dog", "review"), "ground truth stands over reviews"
    server.label("s2", replace(says("eel", 66), updated_at=START + timedelta(minutes=9)))
    [row] = rows(server.pull(ignore={"user:66"}), "clean")
    assert row["given_label"] == "cat", "it labels elsewhere, too, and still said nothing here before the star"


def test_a_label_of_the_machine_that_a_person_changed_in_place_is_a_persons(server: Server) -> None:
    edited = replace(says("eel", 66), updated_at=START + timedelta(minutes=9))
    server.label("s1", says("cat", 1), edited)
    [row] = rows(server.pull(ignore={"user:66"}), "noisy")
    assert row["label"] == "eel"


def test_a_snapshot_of_the_release_before_is_told_from_a_broken_one_and_the_next_pull_replaces_it(
    server: Server,
) -> None:
    server.label("s1", says("cat", 1))
    server.ask("s1", "targeted", says("dog", 8))
    server.label("s2", says("eel", 1))
    new = server.pull().snapshot
    old = server.root / "snapshots" / "00112233445566aa"
    new.path.rename(old)
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "undecided.parquet").unlink()
    for of_labels in ("asked_as", "suggestion", "asked_by_run"):
        table = pq.read_table(old / "labels.parquet")
        pq.write_table(table.drop_columns([of_labels]), old / "labels.parquet")
    del manifest["rows"]["undecided"], manifest["files"]["undecided.parquet"]
    (old / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1, "snapshot_id": old.name}))
    (server.root / "latest.json").write_text(json.dumps({"snapshot_id": old.name}))
    kept = {file.name: file.read_bytes() for file in old.iterdir()}

    with pytest.raises(DataError, match="schema version 1, this release reads 2; pull again"):
        latest_snapshot(server.root)
    result = server.pull()
    assert result.is_new
    assert result.snapshot == latest_snapshot(server.root) == open_snapshot(result.snapshot.path)
    assert result.snapshot.manifest.parent == old.name
    assert [len(rows(result, table)) for table in ("labels", "noisy", "clean", "undecided")] == [3, 1, 1, 0]
    assert {file.name: file.read_bytes() for file in old.iterdir()} == kept


kinds = st.sampled_from(["audit", "check", "targeted", "tie_break", "recheck"])
answers = st.lists(
    st.tuples(
        st.sampled_from(["cat", "dog", "eel", "unusable", "not_sure", "skipped"]),
        st.integers(1, 4),
        st.integers(0, 5),
    ),
    max_size=3,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(["s1", "s2"]), kinds, answers), max_size=6))
def test_what_anybody_answers_takes_the_sample_to_exactly_one_place(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, AskedAs, list[tuple[str, int, int]]]]
) -> None:
    server = Server(tmp_path_factory.mktemp("pull"))
    for sample in ("s1", "s2"):
        server.label(sample, says("cat", 1))
    for n, (sample, kind, said) in enumerate(asked):
        of_kind = {"tie_break": f"tie_break/{n + 1}", "recheck": "recheck"}.get(kind, "")
        server.ask(sample, kind, *(says(*one) for one in said), asked=of_kind)
    result = server.pull()
    places = {table: {row["sample_id"] for row in rows(result, table)} for table in ("noisy", "clean", "undecided")}
    answered = {sample for sample, _, said in asked if any(what != "skipped" for what, _, _ in said)}
    assert places["noisy"] == {"s1", "s2"} - answered
    assert places["clean"] | places["undecided"] == answered
    assert not places["clean"] & places["undecided"]
    assert len(rows(result, "labels")) == 2 + sum(len(said) for _, _, said in asked)
    at_random = {s for s, kind, said in asked if kind == "audit" and any(what != "skipped" for what, _, _ in said)}
    assert {row["sample_id"] for row in rows(result, "clean") if row["provenance"] == "audit"} <= at_random
