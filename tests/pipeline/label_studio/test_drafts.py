"""Answers that were begun are asked for task by task, since Label Studio tells of nobody else's otherwise."""

from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pipeline.errors import ConfigError
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.records import LabelControl, Project

PROJECT = Project(
    project_id=7,
    title="pets",
    control=LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog")),
)
USERS = [{"id": 1, "email": "admin@example.org"}, {"id": 5, "email": "Ann@example.org"}]


class Server:
    """Two tasks of which one has drafts, as their listing tells."""

    def __init__(self) -> None:
        self.drafts: list[Any] = [draft(3, 5, "dog"), draft(4, 6, "cat", annotation=9)]
        self.users: Any = USERS
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        answers: dict[str, Any] = {
            "/api/tasks/": {
                "tasks": [{"id": 11, "data": {"image": "x"}, "updated_at": "t"}],
                "total": 1,
                "total_annotations": 0,
            },
            "/api/tasks/11/drafts": self.drafts,
            "/api/users/": self.users,
        }
        return httpx.Response(200, json=answers[request.url.path])

    def door(self) -> LabelStudio:
        config = LabelStudioConfig(url="http://ls.test", token=SecretStr("f" * 40), read_attempts=1)
        return LabelStudio(config, transport=httpx.MockTransport(self))


def draft(number: int, user: int, label: str, **more: Any) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {
        "id": number,
        "user": "ann@example.org",
        "created_username": f"ann@example.org, {user}",
        "result": [region],
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:06Z",
        "annotation": None,
    } | more


def test_a_task_comes_with_the_drafts_of_everybody() -> None:
    server = Server()
    server.drafts.append("rubbish")
    bad: list[str] = []
    with server.door() as door:
        [task] = door.iter_drafts(PROJECT, lambda reason, where: bad.append(f"{reason}: {where}"))
    assert (task.task_id, task.data) == (11, {"image": "x"})
    assert [(each.annotation_id, each.annotator, each.label) for each in task.annotations] == [(-3, "user:5", "dog")]
    assert bad == ["malformed annotation: task 11 of project 7"]


def test_a_task_whose_drafts_all_change_something_sent_is_none() -> None:
    server = Server()
    del server.drafts[0]
    with server.door() as door:
        assert list(door.iter_drafts(PROJECT)) == []


def test_the_state_of_a_project_moves_with_its_drafts_where_they_are_looked_at() -> None:
    server = Server()
    states = []
    with server.door() as door:
        assert door.project_state(PROJECT).drafts == ""
        assert server.asked == ["/api/tasks/"]
        for changed in (server.drafts, [draft(3, 5, "dog", updated_at="2026-01-02T03:05:00Z")], []):
            server.drafts = changed
            states.append(door.project_state(PROJECT, drafts=True))
        assert door.project_state(PROJECT, drafts=True) == states[-1]
    assert len({state.drafts for state in states}) == 3


@pytest.mark.parametrize("listed", [USERS, {"count": 2, "results": USERS}])
def test_people_are_found_by_id_and_by_address(listed: Any) -> None:
    server = Server()
    server.users = listed
    with server.door() as door:
        assert door.find_annotators(["7", "user:8"]) == {"user:7", "user:8"}
        assert server.asked == []
        assert door.find_annotators(["7", "ANN@example.org"]) == {"user:7", "user:5"}
        with pytest.raises(ConfigError, match=r"has no user bob@example\.org; mend FASTEN_LEAVE_OUT_ANNOTATORS"):
            door.find_annotators(["bob@example.org"])
