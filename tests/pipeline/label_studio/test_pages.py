"""Paging against a server that behaves oddly."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from pipeline.errors import ServiceError
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.label_studio.pages import groups_that_fit
from pipeline.records import LabelControl, Project

CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
PROJECT = Project(project_id=7, title="pets", control=CONTROL)


def door(answer: Callable[[httpx.Request], Any]) -> LabelStudio:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=answer(request))

    config = LabelStudioConfig(url="http://ls.test", token=SecretStr("f" * 40), page_size=100, read_attempts=1)
    return LabelStudio(config, transport=httpx.MockTransport(handler))


def after(request: httpx.Request) -> int:
    [wanted] = json.loads(request.url.params["query"])["filters"]["items"]
    return int(wanted["value"])


def test_a_server_that_gives_smaller_pages_than_asked_for_is_read_to_its_end() -> None:
    ids = list(range(1, 24))

    def capped(request: httpx.Request) -> Any:
        left = [number for number in ids if number > after(request)]
        tasks = [{"id": number, "data": {}, "annotations": []} for number in left[:5]]
        return {"tasks": tasks, "total": len(left), "total_annotations": 0}

    assert [task.task_id for task in door(capped).iter_tasks(PROJECT)] == ids


def test_a_server_that_repeats_a_page_is_an_error_not_a_loop() -> None:
    def stuck(_: httpx.Request) -> Any:
        return {"tasks": [{"id": 1, "data": {}}], "total": 9, "total_annotations": 0}

    with pytest.raises(ServiceError, match="does not page"):
        list(door(stuck).iter_tasks(PROJECT))


@pytest.mark.parametrize("answer", ["text", [], {}, {"tasks": {}, "total": 1, "total_annotations": 0}, {"tasks": []}])
def test_an_answer_of_another_shape_is_one_clear_line(answer: Any) -> None:
    with pytest.raises(ServiceError, match="without a list of tasks for project 7"):
        door(lambda _: answer).project_state(PROJECT)


def test_no_request_line_is_longer_than_servers_take() -> None:
    lengths = []

    def count(request: httpx.Request) -> Any:
        lengths.append(len(request.url.raw_path) + len("GET  HTTP/1.1"))
        return {"tasks": [], "total": 0, "total_annotations": 0}

    assert door(count).find_data_values(7, "sample_id", [f'"ü%{i:05}' for i in range(500)]) == set()
    assert max(lengths) <= 4094


@given(st.lists(st.text(max_size=30), max_size=50), st.integers(10, 200))
def test_groups_hold_every_value_once_and_in_order(values: list[str], limit: int) -> None:
    groups = list(groups_that_fit(values, limit))
    assert [value for group in groups for value in group] == values
    assert all(groups)
