"""Questions on the real server: each kind in its place, to as many people as asked for, removed only while unused."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import httpx
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from pipeline.errors import ConfigError
from pipeline.images import ImageConfig, Images
from pipeline.label_studio import Asked, LabelStudio, LabelStudioConfig
from pipeline.label_studio.machine_user import MachineUser
from pipeline.queue import push, push_key
from pipeline.records import NOT_SURE, UNSHOWN, AskedAs, Project, ReviewTask
from pipeline.review_screen import REVIEW_CONTROL, review_config
from pipeline.snapshot.pull import PullResult, pull
from tests.integration.conftest import LabelStudioServer, NewPeople

CLASSES = ("cat", 'a "quoted" <b>&', "dög")
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def people(new_people: NewPeople) -> list[LabelStudio]:
    return new_people("asked", 3)


def new_review(door: LabelStudio, overlap: int = 1) -> Project:
    title = f"questions {next(_numbers)}"
    return door.create_project(title, review_config(CLASSES), uncertainty_sampling=True, overlap=overlap)


@pytest.fixture
def review(door: LabelStudio) -> Project:
    return new_review(door)


def question(number: int, kind: AskedAs = "targeted", labels_project_id: int = 1, asked: str = "") -> ReviewTask:
    return ReviewTask(
        push_key=push_key(labels_project_id, f"s{number}", asked),
        sample_id=f"s{number}",
        image_url=DOT,
        asked_as=kind,
        current_label=CLASSES[1],
        model_label=CLASSES[2],
        confidence=0.9,
        reason="<script>alert(1)</script> $image",
        priority=0.5,
        model_version="1",
        run_key="run-1",
        rank=number / 100,
    )


def serve(project: Project, people: Sequence[LabelStudio], turns: int) -> list[str]:
    """Who is served what, in turn: "0 s7"; answered each time."""
    served = []
    for turn in range(turns):
        who = turn % len(people)
        task = people[who].next_task(project)
        served.append(f"{who} {task.sample_id if task else '-'}")
        if task is not None:
            people[who].submit(project, task, label="cat")
    return served


def asked(door: LabelStudio, project: Project) -> dict[str, Asked]:
    return {each.sample_id: each for each in door.asked(project)}


def test_questions_of_every_kind_are_served_by_rank_alone(
    door: LabelStudio, people: list[LabelStudio], review: Project
) -> None:
    kinds = [*get_args(AskedAs), *get_args(AskedAs)]
    tasks = [question(number, kind) for number, kind in enumerate(kinds)]
    tasks[3] = replace(tasks[3], model_label="")
    push(door, review, tasks[::-1])
    assert [line.split()[1] for line in serve(review, people, len(tasks))] == [f"s{n}" for n in range(len(tasks))]


def test_what_a_question_says_is_read_back_and_nothing_that_leads_is_there(door: LabelStudio, review: Project) -> None:
    kinds = get_args(AskedAs)
    push(door, review, [question(number, kind) for number, kind in enumerate(kinds)])
    found = asked(door, review)
    assert [(found[f"s{n}"].asked_as, found[f"s{n}"].asked_by_run) for n in range(5)] == [(k, "run-1") for k in kinds]
    assert {each.push_key for each in found.values()} == {push_key(1, f"s{n}") for n in range(5)}
    assert all(each.untouched and not each.finished for each in found.values())
    for task in door.iter_tasks(review):
        if task.data["asked_as"] in UNSHOWN:
            assert CLASSES[1] not in str(task.data)
            assert CLASSES[2] not in str(task.data)
        else:
            assert task.data["reason"] == "<script>alert(1)</script> $image", "text is text"


def draft(person: LabelStudio, project: Project, task_id: int) -> None:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
    with httpx.Client(base_url=person.url, headers=person.authorization()) as http:
        path = f"/api/tasks/{task_id}/drafts"
        body = {"result": [region], "lead_time": 1.0}
        http.post(path, params={"project": project.project_id}, json=body).raise_for_status()


def skip(person: LabelStudio, task_id: int) -> None:
    with httpx.Client(base_url=person.url, headers=person.authorization()) as http:
        body = {"result": [], "was_cancelled": True}
        http.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()


def test_only_questions_that_nobody_has_touched_are_removed(
    door: LabelStudio, people: list[LabelStudio], review: Project
) -> None:
    push(door, review, [question(n) for n in range(6)])
    door.import_tasks(review.project_id, [{"data": {**_variables(), "sample_id": "by hand"}}])
    elsewhere = new_review(door)
    push(door, elsewhere, [question(0)])
    ids = {sample: each.task_id for sample, each in asked(door, review).items()}
    for person in people[:2]:
        task = person.next_task(review)
        assert task is not None
    assert serve(review, people[:1], 1) == ["0 s0"]
    draft(people[1], review, ids["s1"])
    skip(people[2], ids["s2"])
    before = asked(door, review)
    assert [before[s].answers for s in ("s0", "s1", "s2")] == [1, 0, 0]
    assert [before[s].drafted for s in ("s0", "s1", "s2")] == [False, True, False]
    assert [before[s].skipped for s in ("s0", "s1", "s2")] == [0, 0, 1]
    assert before["s0"].finished
    assert before["by hand"].push_key == ""

    other = [each.task_id for each in door.asked(elsewhere)]
    state = door.project_state(review, answers_only=True)
    wanted = [ids[sample] for sample in ("s0", "s1", "s2", "s3", "s4")]
    assert door.delete_tasks(review.project_id, [*wanted, *other, 10**9]) == 2
    assert set(asked(door, review)) == {"s0", "s1", "s2", "s5", "by hand"}
    assert [each.task_id for each in door.asked(elsewhere)] == other
    assert door.project_state(review, answers_only=True) == state
    assert door.delete_tasks(review.project_id, wanted) == 0
    assert asked(door, review)["s1"].drafted
    assert push(door, review, [question(n) for n in range(6)]).added == 2, "what was removed can be asked again"


def _variables() -> dict[str, str]:
    return dict.fromkeys(("image", "current_label", "suggestion", "reason"), "") | {
        f"reference_{n}": "" for n in (1, 2, 3)
    }


def test_what_is_answered_between_looking_and_removing_is_kept(
    label_studio: LabelStudioServer, people: list[LabelStudio], door: LabelStudio, review: Project
) -> None:
    push(door, review, [question(0), question(1)])
    ids = [each.task_id for each in door.asked(review)]

    class AnsweredMeanwhile(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/api/dm/actions":
                assert serve(review, people[:1], 1) == ["0 s0"]
            return super().handle_request(request)

    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token))
    with LabelStudio(config, transport=AnsweredMeanwhile()) as slow:
        assert slow.delete_tasks(review.project_id, ids) == 1
    [left] = door.asked(review)
    assert (left.sample_id, left.answers) == ("s0", 1)


def test_a_question_with_overlap_goes_to_different_people_and_never_twice_to_one(
    door: LabelStudio, people: list[LabelStudio]
) -> None:
    review = new_review(door, overlap=2)
    push(door, review, [question(0), question(1)])
    both = [people[0], people[1]]
    assert serve(review, both, 6) == ["0 s0", "1 s0", "0 s1", "1 s1", "0 -", "1 -"]
    assert all(each.answers == 2 and each.finished for each in door.asked(review))
    push(door, review, [question(2)])
    assert serve(review, people[:1], 2) == ["0 s2", "0 -"]
    assert not asked(door, review)["s2"].finished
    assert [person.next_task(review) is not None for person in people] == [False, True, False], "one is left to answer"


@pytest.mark.parametrize("steps", [(2,), (3, 1, 2)])
def test_another_overlap_asks_nobody_again_about_what_was_answered(
    door: LabelStudio, people: list[LabelStudio], review: Project, steps: tuple[int, ...]
) -> None:
    push(door, review, [question(n) for n in range(4)])
    assert serve(review, people[:1], 2) == ["0 s0", "0 s1"]
    state = door.project_state(review, answers_only=True)
    for overlap in steps:
        door.set_overlap(review, overlap)
        door.set_overlap(review, overlap)
    assert door.project_state(review, answers_only=True) == state
    assert [asked(door, review)[f"s{n}"].finished for n in range(4)] == [True, True, False, False]
    push(door, review, [question(50)])
    serve(review, people, 12)
    assert {sample: each.answers for sample, each in asked(door, review).items()} | {"s2": 1} == {
        "s0": 1,
        "s1": 1,
        "s2": 1,
        "s3": 1,
        "s50": steps[-1],
    }


def test_another_overlap_reopens_nothing_where_everything_is_answered(
    door: LabelStudio, people: list[LabelStudio], review: Project
) -> None:
    push(door, review, [question(0), question(1)])
    serve(review, people[:1], 2)
    door.set_overlap(review, 2)
    assert all(each.finished for each in door.asked(review))
    assert serve(review, people, 3) == ["0 -", "1 -", "2 -"]
    empty = new_review(door)
    door.set_overlap(empty, 2)
    push(door, empty, [question(0)])
    assert serve(empty, people, 3) == ["0 s0", "1 s0", "2 -"]


def test_the_screen_of_a_project_can_change_while_people_answer(
    door: LabelStudio, people: list[LabelStudio], review: Project
) -> None:
    push(door, review, [question(0), question(1)])
    serve(review, people[:1], 1)
    state = door.project_state(review)
    wider = review_config(CLASSES, width_px=640)
    assert door.update_label_config(review, wider) == review
    assert door.label_config(review) == wider, "kept to the letter, so that the same screen is known again"
    assert door.update_label_config(review, wider) == review
    assert door.project_state(review) == state
    assert serve(review, people[1:2], 1) == ["0 s1"]
    with pytest.raises(ConfigError, match="lacks class 'cat'"):
        door.update_label_config(review, review_config((*CLASSES[1:], "hen")))
    grown = door.update_label_config(review, review_config((*CLASSES, "hen")))
    assert door.find_project(review.project_id) == grown
    assert grown.control.classes == (*CLASSES, "hen")


@pytest.fixture
def labels(door: LabelStudio) -> Project:
    config = review_config(CLASSES)
    project = door.create_project(f"questions, labels {next(_numbers)}", config, control=REVIEW_CONTROL)
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
    said = {"result": [region], "ground_truth": False, "completed_by": 1}
    data = _variables() | {"image": DOT}
    door.import_tasks(
        project.project_id, [{"data": data | {"sample_id": f"s{n}"}, "annotations": [said]} for n in range(3)]
    )
    return project


def pulled(door: LabelStudio, root: Path, labels: Project, review: Project, **more: Any) -> PullResult:
    with Images(ImageConfig(), root=root, base_url=door.url, authorization=door.authorization) as images:
        return pull(door, images, labels=labels, review=review, data_dir=root, **more)


def table(result: PullResult, name: str) -> dict[str, dict[str, Any]]:
    found = pq.read_table(result.snapshot.path / f"{name}.parquet").to_pylist()
    return {row["sample_id"]: row for row in found}


@pytest.mark.parametrize(("kind", "provenance"), [("audit", "audit"), ("targeted", "review")])
def test_a_disagreement_is_settled_by_a_third_person_and_keeps_why_it_was_asked(
    door: LabelStudio, people: list[LabelStudio], labels: Project, tmp_path: Path, kind: AskedAs, provenance: str
) -> None:
    review = new_review(door, overlap=2)
    push(door, review, [question(0, kind, labels.project_id)])
    for person, label in zip(people, (CLASSES[1], CLASSES[2]), strict=False):
        task = person.next_task(review)
        assert task is not None
        person.submit(review, task, label=label, lead_time_s=2.0)
    result = pulled(door, tmp_path, labels, review)
    row = table(result, "undecided")["s0"]
    assert (row["state"], row["label"]) == ("disputed", "cat")
    # In the order of the people's names, and user:10 comes before user:9.
    assert {answer["label"] for answer in row["answers"]} == {CLASSES[1], CLASSES[2]}
    assert len(row["answers"]) == 2
    assert set(table(result, "noisy")) == {"s1", "s2"}
    assert table(result, "clean") == {}

    again: AskedAs = "audit" if kind == "audit" else "tie_break"
    tie_break = replace(question(0, again, labels.project_id, "tie_break/2"), model_label="")
    assert push(door, review, [question(0, kind, labels.project_id), tie_break]).added == 1
    task = people[2].next_task(review)
    assert task is not None
    assert (task.data["asked_as"], task.data.get("model_label")) == (again, None)
    people[2].submit(review, task, label=CLASSES[2], lead_time_s=3.0)
    result = pulled(door, tmp_path, labels, review)
    clean = table(result, "clean")["s0"]
    assert (clean["label"], clean["given_label"], clean["provenance"]) == (CLASSES[2], "cat", provenance)
    assert clean["image_url"] == DOT
    assert table(result, "undecided") == {}
    reviews = [row for row in pq.read_table(result.snapshot.labels_path).to_pylist() if row["origin"] == "review"]
    assert sorted(row["asked_as"] for row in reviews) == sorted([kind, kind, again])
    assert {row["suggestion"] for row in reviews if row["asked_as"] in UNSHOWN} <= {None}


def test_somebody_who_is_not_sure_leaves_it_to_the_other(
    door: LabelStudio, people: list[LabelStudio], labels: Project, tmp_path: Path
) -> None:
    review = new_review(door, overlap=2)
    push(door, review, [question(1, "targeted", labels.project_id)])
    task = people[0].next_task(review)
    assert task is not None
    people[0].submit(review, task, verdict=NOT_SURE)
    assert table(pulled(door, tmp_path, labels, review), "undecided")["s1"]["state"] == "not_sure"
    task = people[1].next_task(review)
    assert task is not None
    people[1].submit(review, task, label=CLASSES[2])
    result = pulled(door, tmp_path, labels, review)
    assert table(result, "clean")["s1"]["label"] == CLASSES[2]
    assert table(result, "undecided") == {}


def test_what_the_machine_wrote_back_counts_once_a_person_changes_it(
    label_studio: LabelStudioServer,
    door: LabelStudio,
    people: list[LabelStudio],
    labels: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The person is a script, and quicker than people are; the server's two times of a new annotation are 20 µs apart.
    monkeypatch.setattr("pipeline.snapshot.pull._WRITTEN_IN_ONE_GO", timedelta(milliseconds=20))
    door.add_user("machine@fasten.local", "reviewing-1")
    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token))
    review = new_review(door)
    with MachineUser(config, "machine@fasten.local") as machine:
        before = pulled(door, tmp_path, labels, review, ignore=[machine.annotator])
        for task in door.iter_tasks(labels):
            machine.annotate(labels, task, CLASSES[2])
        assert pulled(door, tmp_path, labels, review, ignore=[machine.annotator]).snapshot == before.snapshot
        own = [each for task in door.iter_tasks(labels) for each in task.annotations if each.annotator != "user:1"]
        assert {each.annotator for each in own} == {machine.annotator}
        region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [CLASSES[1]]}}
        with httpx.Client(base_url=door.url, headers=people[0].authorization()) as http:
            path = f"/api/annotations/{own[0].annotation_id}/"
            http.patch(path, json={"result": [region]}).raise_for_status()
        after = table(pulled(door, tmp_path, labels, review, ignore=[machine.annotator]), "noisy")
    assert [after[f"s{n}"]["label"] for n in range(3)] == [CLASSES[1], "cat", "cat"]
