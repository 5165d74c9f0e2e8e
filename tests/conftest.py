"""What several folders of tests share."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

_WITH_SERVERS = ("flows", "integration")
TRIALS = "trials"
"""Property of a test that tried faults: how many, by kind."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What talks to servers comes last: its clients leave threads behind in this process.

    They draw random numbers when they like, and Hypothesis, which watches the shared generator while it makes an
    example, takes that for a fault of the test that happens to run.
    """
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(here).parts[0] in _WITH_SERVERS)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many faults were tried, by all workers together, at the end of the whole run."""
    counted = Counter[str]()
    for report in terminalreporter.getreports("") + terminalreporter.getreports("passed"):
        if report.when == "teardown":
            for name, value in report.user_properties:
                counted.update(value if name == TRIALS else {})
    if counted:
        listed = ", ".join(f"{count} {kind}" for kind, count in counted.items())
        terminalreporter.write_line(
            f"faults: {listed}; {counted.total()} in all, after each the end state of the undisturbed run"
        )


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """Prefect's own test harness: a server on SQLite that every flow of this process talks to; its API's URL."""
    # Imported here: it takes seconds, and most tests do without.
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "true")
        # These write every event of a run into SQLite beside the run itself. Nothing here reads them, and now and then
        # a request waits for their lock until it times out, a minute later.
        for service in ("EVENT_PERSISTER", "TASK_RUN_RECORDER", "TRIGGERS"):
            patch.setenv(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")
        # The thread of a flow's heartbeat is waited for at the flow's end, up to a second.
        quick = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
        with prefect_test_harness(server_startup_timeout=120), quick:
            yield str(PREFECT_API_URL.value())
