"""The door against the real server: what is written is read back, and nothing twice."""

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr

from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.label_studio import LabelStudio, LabelStudioConfig, MissingProjectError
from pipeline.queue import payload_of, push, push_key
from pipeline.records import NOT_SURE, UNUSABLE, Annotation, Project, ReviewTask, Task
from pipeline.review_screen import TASK_VARIABLES, review_config

CLASSES = ("cat", 'a "quoted" <b>&', "dög")
LABEL_CONFIG = """<View><Image name="image" value="$image"/><Choices name="label" toName="image">
<Choice value="cat"/><Choice value="a &quot;quoted&quot; &lt;b>&amp;"/><Choice value="dög"/></Choices></View>"""
_numbers = itertools.count(1)


class Server(Protocol):
    """What these tests need of the session's server."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> str: ...


def door_of(server: Server, token: str | None = None, **changes: Any) -> LabelStudio:
    return LabelStudio(LabelStudioConfig(url=server.url, token=SecretStr(token or server.token), **changes))


@pytest.fixture(scope="module")
def door(label_studio: Server) -> Iterator[LabelStudio]:
    with door_of(label_studio, page_size=7) as opened:
        yield opened


@pytest.fixture
def project(door: LabelStudio) -> Project:
    return door.create_project(f"door {next(_numbers)}", LABEL_CONFIG)


@pytest.fixture
def review(door: LabelStudio) -> Project:
    return door.create_project(f"door review {next(_numbers)}", review_config(CLASSES), uncertainty_sampling=True)


def labelled(label: str, **changes: Any) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"result": [region], "ground_truth": False, "completed_by": 1} | changes


def entries(count: int, *annotations: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"data": {"image": f"/data/{i}.png", "sample_id": f"s{i}"}, "annotations": list(annotations)}
        for i in range(count)
    ]


def questions(priorities: Sequence[float]) -> list[ReviewTask]:
    return [
        ReviewTask(
            push_key=push_key(1, f"s{priority}"),
            sample_id=f"s{priority}",
            image_url="/data/upload/x.png",
            current_label=CLASSES[0],
            model_label=CLASSES[2],
            confidence=0.9,
            reason="<script>alert(1)</script>",
            priority=priority,
            rank=1 - priority,
            model_version="1",
        )
        for priority in priorities
    ]


def only(task: Task) -> Annotation:
    [annotation] = task.annotations
    return annotation


def test_check_says_who_and_what(door: LabelStudio) -> None:
    info = door.check()
    assert info.version.startswith("1.")
    assert "@" in info.user


def test_a_wrong_token_is_one_clear_line(label_studio: Server) -> None:
    with (
        door_of(label_studio, token="f" * 40) as stranger,
        pytest.raises(ServiceError, match="FASTEN_LABEL_STUDIO_TOKEN"),
    ):
        stranger.check()


def test_a_server_that_is_down_is_unavailable(label_studio: Server) -> None:
    config = LabelStudioConfig(url="http://127.0.0.1:9", token=SecretStr(label_studio.token))
    with LabelStudio(config) as nowhere, pytest.raises(ServiceUnavailable, match="cannot be reached"):
        nowhere.check()


@pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")  # in the SDK
def test_a_personal_access_token_does_the_same(label_studio: Server, door: LabelStudio) -> None:
    made = httpx.post(f"{label_studio.url}/api/token/", headers=door.authorization(), json={}).raise_for_status()
    with door_of(label_studio, token=made.json()["token"]) as other:
        assert other.check() == door.check()
        assert other.authorization()["Authorization"].startswith("Bearer ")


def test_a_project_is_found_by_id_and_by_exact_title(door: LabelStudio, project: Project) -> None:
    assert door.find_project(project.title) == door.find_project(project.project_id) == project
    assert door.find_project(str(project.project_id)) == project
    assert project.control.classes == CLASSES
    assert project.created_at.endswith("+00:00"), "what tells it from one of that number on another server"


def test_a_missing_project_names_the_nearest(door: LabelStudio, project: Project) -> None:
    with pytest.raises(MissingProjectError, match=rf"near: .*'{project.title}'"):
        door.find_project(project.title.replace("door", "dooor"))
    with pytest.raises(MissingProjectError, match="no project 999999"):
        door.find_project(999999)


def test_a_title_that_two_projects_share_is_refused(door: LabelStudio, project: Project) -> None:
    door.create_project(project.title, LABEL_CONFIG)
    with pytest.raises(ConfigError, match="share the title"):
        door.find_project(project.title)


def test_every_task_is_read_once_over_many_pages(door: LabelStudio, project: Project) -> None:
    ids = door.import_tasks(project.project_id, entries(20, labelled("cat"), labelled("horse")))
    tasks = list(door.iter_tasks(project))
    assert [task.task_id for task in tasks] == ids
    assert [task.sample_id for task in tasks] == [f"s{i}" for i in range(20)]
    assert [(a.kind, a.label) for a in tasks[0].annotations] == [("class", "cat"), ("unknown_class", "horse")]
    assert {a.ground_truth for task in tasks for a in task.annotations} == {False}


def test_tasks_that_come_while_reading_hide_no_other(door: LabelStudio, project: Project) -> None:
    door.import_tasks(project.project_id, entries(20))
    reading = door.iter_tasks(project)
    first = next(reading)
    door.import_tasks(project.project_id, entries(3))
    assert len({first.task_id, *(task.task_id for task in reading)}) == 23


def test_annotated_only_keeps_answered_and_skipped_tasks(door: LabelStudio, project: Project) -> None:
    door.import_tasks(project.project_id, entries(9))
    door.import_tasks(project.project_id, entries(9, labelled("cat")))
    door.import_tasks(project.project_id, entries(2, labelled("cat", was_cancelled=True)))
    kinds = [only(task).kind for task in door.iter_tasks(project, annotated_only=True)]
    assert kinds == ["class"] * 9 + ["skipped"] * 2


def test_one_malformed_annotation_is_counted_and_the_rest_read(door: LabelStudio, project: Project) -> None:
    broken = labelled("cat")
    broken["result"][0]["value"] = {"choices": "cat"}
    door.import_tasks(project.project_id, entries(2, broken, labelled("dög")))
    bad: list[str] = []
    tasks = list(door.iter_tasks(project, on_bad=lambda reason, _: bad.append(reason)))
    assert bad == ["annotation with malformed choices"] * 2
    assert [only(task).label for task in tasks] == ["dög"] * 2


def test_the_state_moves_with_every_human_act_and_only_then(door: LabelStudio, project: Project) -> None:
    door.import_tasks(project.project_id, entries(3))
    states = [door.project_state(project)]
    assert door.project_state(project) == states[0]
    task = next(door.iter_tasks(project))
    annotation_id = door.submit(project, task, label="cat", lead_time_s=1.5)
    states.append(door.project_state(project))
    with httpx.Client(base_url=door.url, headers=door.authorization()) as http:
        path = f"/api/annotations/{annotation_id}/"
        http.patch(path, json={"ground_truth": True}).raise_for_status()
        states.append(door.project_state(project))
        assert only(next(door.iter_tasks(project))).ground_truth
        http.patch(path, json=labelled("dög")).raise_for_status()
        states.append(door.project_state(project))
        http.delete(path).raise_for_status()
        states.append(door.project_state(project))
        http.delete(f"/api/tasks/{task.task_id}/").raise_for_status()
        states.append(door.project_state(project))
    assert len(set(states)) == len(states)
    assert (states[-1].tasks, states[-1].annotations) == (2, 0)


def test_our_own_pushes_do_not_move_the_state_of_answers(door: LabelStudio, review: Project) -> None:
    push(door, review, questions([0.5, 0.4]))
    task = door.next_task(review)
    assert task is not None
    before = door.project_state(review, answers_only=True)
    assert before.annotations == 0
    door.submit(review, task, label="cat")
    answered = door.project_state(review, answers_only=True)
    push(door, review, questions([0.9, 0.8, 0.7]))
    assert before != answered == door.project_state(review, answers_only=True)


def test_import_wants_ground_truth_said_and_checks_the_count(door: LabelStudio, project: Project) -> None:
    silent = labelled("cat")
    del silent["ground_truth"]
    with pytest.raises(ValueError, match="ground_truth"):
        door.import_tasks(project.project_id, entries(1, silent))
    with pytest.raises(ServiceError, match="image"):
        door.import_tasks(project.project_id, [{"data": {"nope": 1}}])
    assert list(door.iter_tasks(project)) == []


def test_values_are_looked_up_whatever_is_in_them(door: LabelStudio, project: Project) -> None:
    odd = ["plain", 'quo"te', "50%", "%41", "ümlaut 漢字", "a&b=c#d+e", "back\\slash", "7", ""]
    door.import_tasks(project.project_id, [{"data": {"image": "x", "sample_id": value}} for value in odd])
    there = door.find_data_values(project.project_id, "sample_id", [*odd, "A", "absent"])
    assert there == set(odd)


def test_many_keys_fit_into_short_request_lines(door: LabelStudio, project: Project) -> None:
    door.import_tasks(project.project_id, entries(300))
    wanted = [f"s{i}" for i in range(0, 600, 2)] + ["x" * 5000]
    assert door.find_data_values(project.project_id, "sample_id", wanted) == {f"s{i}" for i in range(0, 300, 2)}


def test_uploads_make_no_tasks_and_come_back_byte_for_byte(door: LabelStudio, project: Project) -> None:
    def png(number: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    images = {f"d{i}.png": png(i) for i in range(101)} | {"../../ü #?.png": png(200)}
    urls = door.upload_images(project.project_id, images)
    assert list(door.iter_tasks(project)) == []
    with httpx.Client(base_url=door.url, headers=door.authorization()) as http:
        for name in ("d0.png", "d100.png", "../../ü #?.png"):
            assert http.get(urls[name]).content == images[name]
    assert httpx.get(door.url + urls["d0.png"]).status_code == 401


def test_a_person_is_signed_up_once(label_studio: Server, door: LabelStudio) -> None:
    person = door.add_user("once@fasten.local", "reviewing-1")
    assert door.add_user("once@fasten.local", "reviewing-1") == person
    with door_of(label_studio, token=person.token.get_secret_value()) as theirs:
        assert theirs.check().user == "once@fasten.local"
    with pytest.raises(ServiceError, match=r"did not sign once@fasten\.local up"):
        door.add_user("once@fasten.local", "another-password")


@pytest.fixture
def reviewers(label_studio: Server, door: LabelStudio) -> Iterator[list[LabelStudio]]:
    """Two people, each with a door of their own."""
    people = [door.add_user(f"queue-{i}@fasten.local", "reviewing-1") for i in range(2)]
    with ExitStack() as stack:
        yield [stack.enter_context(door_of(label_studio, token=person.token.get_secret_value())) for person in people]


def test_the_queue_serves_priority_across_rounds_and_people(
    door: LabelStudio, reviewers: list[LabelStudio], review: Project
) -> None:
    push(door, review, questions([0.1, 0.6, 0.3]))
    served = []
    for turn in range(5):
        task = reviewers[turn % 2].next_task(review)
        assert task is not None
        served.append(task.data["priority"])
        reviewers[turn % 2].submit(review, task, label=CLASSES[1], lead_time_s=2)
        if turn == 0:  # the second round, of another model
            later = questions([0.9, 0.2])
            push(door, review, later)
            assert push(door, review, [*later, *questions([0.6])]).added == 0
    assert served == [0.6, 0.9, 0.3, 0.2, 0.1]
    assert reviewers[0].next_task(review) is None
    answers = [only(task) for task in door.iter_tasks(review)]
    assert {a.label for a in answers} == {CLASSES[1]}
    assert len({a.annotator for a in answers}) == 2


def test_two_people_are_never_served_the_same_question(
    door: LabelStudio, reviewers: list[LabelStudio], review: Project
) -> None:
    push(door, review, questions([0.2, 0.8]))
    served = [reviewer.next_task(review) for reviewer in (*reviewers, *reviewers)]
    assert [task.data["priority"] for task in served if task is not None] == [0.8, 0.2, 0.8, 0.2]


def test_verdicts_are_read_back(door: LabelStudio, review: Project) -> None:
    push(door, review, questions([0.9, 0.8]))
    for verdict in (UNUSABLE, NOT_SURE):
        task = door.next_task(review)
        assert task is not None
        door.submit(review, task, verdict=verdict)
    assert [only(task).kind for task in door.iter_tasks(review, annotated_only=True)] == ["unusable", "not_sure"]


class LosingAnswers(httpx.HTTPTransport):
    """Delivers every POST and loses the first answer."""

    lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.method == "POST" and not self.lost:
            self.lost += 1
            response.read()
            raise httpx.ReadTimeout("lost", request=request)
        return response


def losing(server: Server) -> LabelStudio:
    return LabelStudio(LabelStudioConfig(url=server.url, token=SecretStr(server.token)), transport=LosingAnswers())


def test_an_answer_that_was_lost_is_kept_once(label_studio: Server, door: LabelStudio, project: Project) -> None:
    door.import_tasks(project.project_id, entries(1))
    task = next(door.iter_tasks(project))
    with losing(label_studio) as unlucky:
        annotation_id = unlucky.submit(project, task, label="cat")
    assert only(next(door.iter_tasks(project))).annotation_id == annotation_id


def test_a_push_whose_answer_was_lost_is_kept_once(label_studio: Server, door: LabelStudio, review: Project) -> None:
    with losing(label_studio) as unlucky:
        assert push(unlucky, review, questions([0.5, 0.4])).added == 2
    assert len(list(door.iter_tasks(review))) == 2


def test_what_another_machine_asks_between_two_imports_is_not_asked_again(
    label_studio: Server, door: LabelStudio, review: Project
) -> None:
    asked = sorted(questions([0.4, 0.3, 0.2, 0.1]), key=lambda task: (task.rank, task.push_key))

    class AnotherPushes(httpx.HTTPTransport):
        imports = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/import"):
                self.imports += 1
                if self.imports == 1:
                    door.import_tasks(review.project_id, [payload_of(asked[3], review)])
            return super().handle_request(request)

    config = LabelStudioConfig(url=label_studio.url, token=SecretStr(label_studio.token))
    with LabelStudio(config, transport=AnotherPushes()) as slow:
        report = push(slow, review, asked, chunk=2)
    assert (report.added, report.known) == (3, 1)
    keys = sorted(str(task.data["push_key"]) for task in door.iter_tasks(review))
    assert keys == sorted(task.push_key for task in asked)


def test_push_keys_are_those_of_newer_tasks_apart_from_a_run_of_our_own(door: LabelStudio, review: Project) -> None:
    def add(*keys: str) -> list[int]:
        payload = [{"data": {**dict.fromkeys(TASK_VARIABLES, ""), "push_key": key}} for key in keys]
        return door.import_tasks(review.project_id, payload)

    [before] = add("before")
    theirs = add("theirs")
    ours = add("a", "b", "c")
    later = add("later", "")
    keys = dict(zip([*theirs, *later], ["theirs", "later", ""], strict=True))
    assert door.push_keys(review.project_id, after=before, but=ours) == keys
    assert door.push_keys(review.project_id, after=before, but=[*ours[::2]]).keys() > keys.keys(), "no run: all is read"
    assert door.push_keys(review.project_id, after=max(later)) == {}


def test_a_project_whose_answer_was_lost_is_made_once(label_studio: Server, door: LabelStudio) -> None:
    title = f"door {next(_numbers)}"
    with losing(label_studio) as unlucky:
        made = unlucky.create_project(title, LABEL_CONFIG)
    assert door.find_project(title) == made
