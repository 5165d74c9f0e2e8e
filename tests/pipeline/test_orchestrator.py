"""The door to Prefect without a server: what its errors become, and how a run is followed."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Completed, Failed, Running, Scheduled

from pipeline import orchestrator
from pipeline.errors import ConfigError, ServiceError, ServiceUnavailable
from pipeline.orchestrator import connected, follow_run
from pipeline.stack.health import free_port

API = "http://127.0.0.1:4200/api"
RUN = str(uuid4())


def status_error(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", f"{API}/flow_runs")
    response = httpx.Response(status, json={"detail": "no"}, request=request)
    return PrefectHTTPStatusError.from_httpx_error(httpx.HTTPStatusError("no", request=request, response=response))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (status_error(503), ServiceUnavailable),
        (status_error(401), ServiceError),
        (httpx.ConnectError("refused"), ServiceUnavailable),
        (httpx.ReadTimeout("slow"), ServiceUnavailable),
        (ConnectionResetError(104, "reset"), ServiceUnavailable),
        (RuntimeError("Failed to reach API at http://127.0.0.1:4200/api/"), ServiceUnavailable),
    ],
)
def test_prefects_errors_leave_as_one_line_of_ours(error: Exception, kind: type[ServiceError]) -> None:
    with pytest.raises(ServiceError) as caught, connected(API):
        raise error
    assert type(caught.value) is kind
    assert API in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_that_is_not_the_apis_is_told_from_a_server_that_fails() -> None:
    with (
        pytest.raises(ServiceError, match=r"answered 404: is FASTEN_PREFECT_API_URL right\? It ends in /api"),
        connected(API),
    ):
        raise status_error(404)
    with pytest.raises(ServiceError, match="answered 500: see its log"), connected(API):
        raise status_error(500)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ObjectNotFound(LookupError()), ConfigError("ours")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, connected(API):
        raise error
    assert caught.value is error


def test_a_server_that_is_not_there_is_one_line_with_the_way_out() -> None:
    nobody = f"http://127.0.0.1:{free_port()}/api"
    with pytest.raises(ServiceUnavailable, match=f"{nobody} does not answer: start it \\(`fasten up` does, "):
        orchestrator.server_version(nobody)


class Server:
    """A run that moves on with each look at it, and its log."""

    def __init__(self, states: list[State[Any]], log: list[str]) -> None:
        self.states = states
        self.log = log
        self.looks = 0
        self.pages: list[tuple[int, int]] = []

    def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        assert flow_run_id == UUID(RUN)
        state = self.states[min(self.looks, len(self.states) - 1)]
        self.looks += 1
        return FlowRun(id=UUID(RUN), flow_id=uuid4(), name="brave-otter", state=state, work_pool_name="fasten")

    def request(self, method: str, path: str, *, json: dict[str, Any]) -> Any:
        assert (method, path) == ("POST", "/logs/filter")
        assert json["logs"] == {"flow_run_id": {"any_": [RUN]}}
        written = self.log[: len(self.log) * self.looks // len(self.states)]
        page = written[json["offset"] : json["offset"] + json["limit"]]
        self.pages.append((json["offset"], len(page)))
        return SimpleNamespace(raise_for_status=lambda: None, json=lambda: [{"message": line} for line in page])


def followed(monkeypatch: pytest.MonkeyPatch, server: Server, **arguments: Any) -> tuple[Any, list[str]]:
    @contextmanager
    def connect(api_url: str) -> Iterator[Server]:
        assert api_url == API
        yield server

    monkeypatch.setattr(orchestrator, "connected", connect)
    heard: list[str] = []
    return follow_run(API, RUN, on_log=heard.append, poll_s=0, **arguments), heard


def test_a_run_is_followed_to_its_end_and_every_line_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log = [f"line {i}" for i in range(1000)]
    log[-1] = "Finished in state Skipped()"
    server = Server([Scheduled(), Running(), Running(), Completed(name="Skipped", message="nothing new")], log)
    outcome, heard = followed(monkeypatch, server)
    assert heard == log, "the last page too, however long it is"
    assert server.looks == 4
    assert (outcome.state_name, outcome.message, outcome.name) == ("Skipped", "nothing new", "brave-otter")
    assert outcome.completed
    assert outcome.url == f"http://127.0.0.1:4200/runs/flow-run/{RUN}"


def test_lines_that_come_after_the_last_state_are_waited_for_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = ["one", "two", "Finished in state Completed()"]
    states: list[State[Any]] = [Running(), Completed(), Completed()]
    assert followed(monkeypatch, Server(states, log))[1] == log
    assert followed(monkeypatch, Server(states, log[:1]), settle_s=0)[1] == []


@pytest.mark.parametrize(
    "state", [Failed(message="no token"), State(type=StateType.CRASHED), State(type=StateType.CANCELLED)]
)
def test_any_other_end_is_an_end_but_not_completed(monkeypatch: pytest.MonkeyPatch, state: State[Any]) -> None:
    outcome, _ = followed(monkeypatch, Server([Running(), state], []), settle_s=0)
    assert not outcome.completed
    assert (outcome.state_type, outcome.message) == (state.type.value, state.message or "")


def test_a_run_that_nobody_takes_up_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    followed(monkeypatch, Server([*[Scheduled()] * 5, Running(), Completed()], []), patience_s=-1, settle_s=0)
    assert [r.getMessage() for r in caplog.records if "still waits for a worker" in r.getMessage()] == [
        "flow run brave-otter still waits for a worker of the work pool “fasten”: see `fasten doctor`"
    ]
    caplog.clear()
    followed(monkeypatch, Server([Scheduled(), Running(), Completed()], []), settle_s=0)
    assert caplog.records == []
