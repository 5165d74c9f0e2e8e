"""Projects that are not one image and one Choices, and whose answers count, against the real server."""

import base64
import io
import itertools
from pathlib import Path
from typing import Any, Protocol

import httpx
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import SecretStr

from pipeline import loop
from pipeline.answer_filter import AnswerFilter
from pipeline.doctor import examine
from pipeline.errors import ConfigError
from pipeline.images import ImageConfig, Images
from pipeline.label_config import ControlChoice
from pipeline.label_studio import LabelStudio, User
from pipeline.label_studio.interface import check_payload
from pipeline.records import Project
from pipeline.settings import Settings
from pipeline.snapshot.pull import PullResult, pull

_numbers = itertools.count(1)
KINDS = '<Choices name="kind" toName="picture"><Choice value="A cat" alias="cat"/><Choice value="dog"/></Choices>'
QUALITY = '<Choices name="quality" toName="picture"><Choice value="sharp"/><Choice value="blurred"/></Choices>'
PICTURE = '<Image name="picture" value="$photo"/><Image name="place" value="$map"/>'
TWO_CONTROLS = f"<View>{PICTURE}{KINDS}{QUALITY}</View>"
MULTIPLE = TWO_CONTROLS.replace(QUALITY, "").replace("<Choices", '<Choices choice="multiple"')


class Server(Protocol):
    """What these tests need of the session's server."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> str: ...


class Bench:
    """Projects on the real server, two people, and pulls below one folder."""

    def __init__(self, server: Server, door: LabelStudio, folder: Path) -> None:
        self.door = door
        self.server = server
        self.ann = door.add_user("ann.other@example.org", "they-all-share")
        self.bob = door.add_user("bob@example.org", "they-all-share")
        self._folder = folder

    def project(self, label_config: str, count: int, control: ControlChoice) -> Project:
        answer = httpx.post(
            f"{self.server.url}/api/projects/",
            headers=self.door.authorization(),
            json={"title": f"label configs {next(_numbers)}", "label_config": label_config},
        )
        project = self.door.find_project(int(answer.raise_for_status().json()["id"]), control=control)
        tasks = [
            {"data": {"photo": picture(number), "map": picture(100 + number), "sample_id": f"s{number}"}}
            for number in range(count)
        ]
        assert check_payload(label_config, tasks) == []
        self.door.import_tasks(project.project_id, tasks)
        return project

    def ids(self, project: Project) -> list[int]:
        return [task.task_id for task in self.door.iter_tasks(project)]

    def send(self, user: User, method: str, path: str, **body: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Token {user.token.get_secret_value()}"}
        answer = httpx.request(method, f"{self.server.url}{path}", headers=headers, json=body).raise_for_status()
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def answer(self, user: User, task: int, *regions: dict[str, Any], **more: Any) -> None:
        self.send(user, "POST", f"/api/tasks/{task}/annotations/", result=list(regions), **more)

    def draft(self, user: User, task: int, *regions: dict[str, Any]) -> int:
        return int(self.send(user, "POST", f"/api/tasks/{task}/drafts", result=list(regions), lead_time=1.5)["id"])

    def pull(self, project: Project, answers: AnswerFilter | None = None, **more: Any) -> PullResult:
        root = self._folder / f"project-{project.project_id}"
        with Images(ImageConfig(), root=root, base_url=self.server.url, authorization=dict) as images:
            return pull(self.door, images, labels=project, data_dir=root, answers=answers, **more)


def picture(colour: int) -> str:
    file = io.BytesIO()
    Image.new("L", (2, 2), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def says(name: str, *choices: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": "picture", "type": "choices", "value": {"choices": list(choices)}}


def noisy(result: PullResult) -> dict[str, str]:
    rows = pq.read_table(result.snapshot.noisy_path).to_pylist()
    return {row["sample_id"]: row["label"] for row in rows}


def labels(result: PullResult) -> list[tuple[Any, ...]]:
    rows = pq.read_table(result.snapshot.labels_path).to_pylist()
    return [(row["sample_id"], row["annotator"], row["answer"], row["label"]) for row in rows]


@pytest.fixture(scope="module")
def bench(label_studio: Server, door: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(label_studio, door, tmp_path_factory.mktemp("label-configs"))


def test_one_of_two_controls_and_a_renamed_image_are_chosen_by_setting(bench: Bench) -> None:
    project = bench.project(TWO_CONTROLS, 2, ControlChoice(name="kind"))
    assert (project.control.name, project.control.image_field) == ("kind", "photo")
    assert project.control.classes == ("cat", "dog")
    first, second = bench.ids(project)
    bench.answer(bench.ann, first, says("quality", "blurred"), says("kind", "cat"))
    bench.answer(bench.ann, second, says("quality", "sharp"))
    assert noisy(bench.pull(project)) == {"s0": "cat"}

    of_the_map = bench.door.find_project(project.project_id, control=ControlChoice(name="quality", image_field="map"))
    rows = pq.read_table(bench.pull(of_the_map).snapshot.noisy_path).to_pylist()
    assert {row["sample_id"]: (row["label"], row["image_url"]) for row in rows} == {
        "s0": ("blurred", picture(100)),
        "s1": ("sharp", picture(101)),
    }
    with pytest.raises(ConfigError, match=r"several Choices .*found: kind, quality\); set FASTEN_LABEL_CONTROL"):
        bench.door.find_project(project.project_id)
    with pytest.raises(ConfigError, match=r"shows \$image \(fields found: photo, map\); set FASTEN_IMAGE_FIELD"):
        bench.door.find_project(project.project_id, control=ControlChoice(name="kind", image_field="image"))


def test_of_a_control_with_several_classes_the_answers_with_one_are_used(bench: Bench) -> None:
    project = bench.project(MULTIPLE, 2, ControlChoice(multiple="single"))
    first, second = bench.ids(project)
    bench.answer(bench.ann, first, says("kind", "cat", "dog"))
    bench.answer(bench.bob, first, says("kind", "dog"))
    bench.answer(bench.ann, second, says("kind", "cat", "dog"))
    result = bench.pull(project)
    assert noisy(result) == {"s0": "dog"}
    ann, bob = f"user:{bench.ann.user_id}", f"user:{bench.bob.user_id}"
    assert labels(result) == [
        ("s0", ann, "several", None),
        ("s0", bob, "class", "dog"),
        ("s1", ann, "several", None),
    ]
    assert result.report.rejected == {"annotation with several classes": 2}
    with pytest.raises(ConfigError, match=r"classes found: cat, dog\).*FASTEN_MULTIPLE_CHOICES=single"):
        bench.door.find_project(project.project_id)


def test_a_skip_takes_back_unless_it_is_to_say_nothing(bench: Bench) -> None:
    project = bench.project(TWO_CONTROLS, 2, ControlChoice(name="kind"))
    first, second = bench.ids(project)
    bench.answer(bench.ann, first, says("kind", "cat"))
    bench.answer(bench.ann, first, was_cancelled=True)
    bench.answer(bench.ann, second, says("kind", "dog"))
    assert noisy(bench.pull(project)) == {"s1": "dog"}
    ignoring = bench.pull(project, AnswerFilter(skipped="ignore"))
    assert noisy(ignoring) == {"s0": "cat", "s1": "dog"}
    assert ignoring.report.rejected == {"skipped, which is set to say nothing": 1}


def test_whom_the_list_names_is_found_by_address_and_left_out(bench: Bench) -> None:
    project = bench.project(TWO_CONTROLS, 1, ControlChoice(name="kind"))
    [task] = bench.ids(project)
    bench.answer(bench.bob, task, says("kind", "cat"))
    bench.answer(bench.ann, task, says("kind", "dog"))
    found = bench.door.find_annotators(["Ann.Other@example.org", "999"])
    assert found == {f"user:{bench.ann.user_id}", "user:999"}
    result = bench.pull(project, AnswerFilter(annotators=found))
    assert noisy(result) == {"s0": "cat"}
    assert result.report.rejected == {"annotator on the list": 1}
    assert b"example.org" not in b"".join(path.read_bytes() for path in result.snapshot.path.iterdir())
    with pytest.raises(ConfigError, match=r"no user nobody@example\.org"):
        bench.door.find_annotators(["nobody@example.org"])


def test_drafts_move_no_task_and_count_where_that_is_set(bench: Bench) -> None:
    project = bench.project(TWO_CONTROLS, 3, ControlChoice(name="kind"))
    first, second, third = bench.ids(project)
    bench.answer(bench.ann, third, says("kind", "cat"))
    before, looked = bench.door.project_state(project), bench.door.project_state(project, drafts=True)

    bench.draft(bench.ann, first, says("kind", "cat"))
    begun = bench.draft(bench.bob, second, says("kind", "cat"))
    bench.send(bench.bob, "PATCH", f"/api/drafts/{begun}", result=[says("kind", "dog")])
    bench.draft(bench.ann, third, says("kind", "dog"))
    # Label Studio keeps quiet about drafts: what shows that something is new must ask for them.
    assert bench.door.project_state(project) == before
    assert bench.door.project_state(project, drafts=True) != looked

    counting = AnswerFilter(drafts="count")
    assert noisy(bench.pull(project)) == {"s2": "cat"}
    result = bench.pull(project, counting, drafts=lambda on_bad: bench.door.iter_drafts(project, on_bad))
    assert noisy(result) == {"s0": "cat", "s1": "dog", "s2": "cat"}
    rows = pq.read_table(result.snapshot.labels_path).to_pylist()
    drafts = {row["annotation_id"]: row["annotator"] for row in rows if row["annotation_id"] < 0}
    assert drafts[-begun] == f"user:{bench.bob.user_id}"
    assert len(drafts) == 2, "who has sent an answer has no draft beside it"
    assert result.report.rejected == {}

    bench.send(bench.bob, "DELETE", f"/api/drafts/{begun}")
    without = bench.pull(project, counting, drafts=lambda on_bad: bench.door.iter_drafts(project, on_bad))
    assert noisy(without) == {"s0": "cat", "s2": "cat"}


def test_the_settings_reach_the_survey_and_the_pull(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = bench.project(MULTIPLE, 2, ControlChoice(multiple="single"))
    first, second = bench.ids(project)
    bench.answer(bench.bob, first, says("kind", "cat"))
    bench.answer(bench.ann, first, says("kind", "dog"))
    bench.draft(bench.bob, second, says("kind", "dog"))
    monkeypatch.setenv("FASTEN_HOME", str(tmp_path))

    def settings(**more: Any) -> Settings:
        return Settings(
            label_studio_url=bench.server.url,
            label_studio_token=SecretStr(bench.server.token),
            labels_project=str(project.project_id),
            **more,
        )

    with pytest.raises(ConfigError, match="FASTEN_MULTIPLE_CHOICES"):
        loop.survey(settings())
    chosen = settings(
        multiple_choices="single",
        image_field="map",
        leave_out_annotators=("ann.other@example.org",),
        drafts="count",
    )
    found = loop.survey(chosen)
    assert found.labels.control.image_field == "map"
    pulled = loop.pull_labels(chosen, found)
    rows = pq.read_table(pulled.snapshot / "noisy.parquet").to_pylist()
    assert {row["sample_id"]: (row["label"], row["image_url"]) for row in rows} == {
        "s0": ("cat", picture(100)),
        "s1": ("dog", picture(101)),
    }
    again = loop.survey(chosen)
    assert again.fingerprint == found.fingerprint
    bench.draft(bench.ann, second, says("kind", "cat"))
    assert loop.survey(chosen).fingerprint != found.fingerprint
    findings = {finding.what: finding for finding in examine(chosen)}
    assert "control “kind” on “$map”, 2 classes" in findings["labels project"].detail
    assert findings["annotators"].detail == f"left out: user:{bench.ann.user_id}"
    unknown = chosen.model_copy(update={"leave_out_annotators": ("nobody@example.org",)})
    with pytest.raises(ConfigError, match=r"no user nobody@example\.org"):
        loop.pull_labels(unknown, found)
    assert {finding.what: finding.level for finding in examine(unknown)}["annotators"] == "problem"
