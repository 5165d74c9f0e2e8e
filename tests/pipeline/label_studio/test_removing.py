"""Tasks are removed only where both looks say that nobody has touched them, whatever the server makes of a filter."""

import json
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pipeline.errors import ServiceError, ServiceUnavailable
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.label_studio.tasks import DELETED_PER_REQUEST


class Server:
    """Answers with all its tasks, as one would that knows none of the filters."""

    def __init__(self, **counted: Any) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.removed: list[list[int]] = []
        self.lines: list[int] = []
        self._counted = counted

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.lines.append(len(request.url.raw_path) + len("POST  HTTP/1.1"))
        if request.method == "GET":
            return httpx.Response(200, json={"tasks": self.tasks, "total": 1, "total_annotations": 0})
        assert request.url.params["id"] == "delete_tasks"
        body = json.loads(request.content)
        assert body["selectedItems"]["all"] is False
        assert len(body["filters"]["items"]) == 4
        self.removed.append(body["selectedItems"]["included"])
        return httpx.Response(200, json={"processed_items": len(self.removed[-1])} | self._counted)

    def add(
        self, number: int, answers: int = 0, skipped: int = 0, *, drafted: bool = False, uncounted: int = 0
    ) -> None:
        counts = {"total_annotations": answers, "cancelled_annotations": skipped, "draft_exists": drafted}
        self.tasks.append({"id": number, **counts, "annotations": [{"id": 1}] * (answers + skipped + uncounted)})

    def remove(self, ids: list[int]) -> int:
        config = LabelStudioConfig(url="http://ls.test", token=SecretStr("f" * 40), read_attempts=1)
        with LabelStudio(config, transport=httpx.MockTransport(self)) as door:
            return door.delete_tasks(7, ids)


def test_a_server_that_ignores_filters_removes_nothing_that_was_touched_or_not_named() -> None:
    server = Server()
    for number, touched in enumerate([{}, {"answers": 1}, {"skipped": 1}, {"drafted": True}, {"uncounted": 1}, {}]):
        server.add(number, **touched)  # type: ignore[arg-type]
    assert server.remove([0, 1, 2, 3, 4]) == 1
    assert server.removed == [[0]]


def test_nothing_is_sent_where_nothing_may_go() -> None:
    server = Server()
    server.add(1, answers=1)
    assert server.remove([1]) == server.remove([]) == 0
    assert server.removed == []


@pytest.mark.parametrize("counted", [None, "2", 5, -1])
def test_a_count_that_cannot_be_is_an_error(counted: Any) -> None:
    server = Server(processed_items=counted)
    server.add(1)
    with pytest.raises(ServiceError, match="of 1 tasks of project 7"):
        server.remove([1])


def test_many_go_in_short_requests() -> None:
    server = Server()
    ids = list(range(10**8, 10**8 + 3 * DELETED_PER_REQUEST))
    for number in ids:
        server.add(number)
    assert server.remove(ids[::-1]) == len(ids)
    assert [number for group in server.removed for number in group] == ids
    assert max(server.lines) <= 4094


def test_a_removal_whose_answer_was_lost_is_not_sent_again() -> None:
    server = Server()
    server.add(1)
    sent = []

    def losing(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            sent.append(request)
            raise httpx.ReadTimeout("lost", request=request)
        return server(request)

    config = LabelStudioConfig(url="http://ls.test", token=SecretStr("f" * 40), read_attempts=3)
    with LabelStudio(config, transport=httpx.MockTransport(losing)) as door, pytest.raises(ServiceUnavailable):
        door.delete_tasks(7, [1])
    assert len(sent) == 1
