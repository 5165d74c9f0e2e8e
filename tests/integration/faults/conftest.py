"""A server that may be killed, a small world in it, a proxy before it, and the count of what was tried."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.label_studio import LabelStudio
from pipeline.stack.install import LabelStudioInstall
from tests.conftest import TRIALS
from tests.integration.faults.bench import Bench
from tests.integration.faults.commands import Commands, commands
from tests.integration.faults.proxy import FaultProxy
from tests.integration.faults.server import KillableServer, killable
from tests.integration.faults.world import World


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Faults that this test tries, by kind: counted once the end state was found to be that of the undisturbed run."""
    counted = Counter[str]()
    yield counted
    request.node.user_properties.append((TRIALS, dict(counted)))


@pytest.fixture(scope="session")
def fasten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs commands, one at a time."""
    with commands(tmp_path_factory.mktemp("commands")) as started:
        yield started


@pytest.fixture(scope="session")
def mortal(
    label_studio_install: LabelStudioInstall, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KillableServer]:
    """The session's server for faults, which a test may have left dead: `world` brings it back."""
    with killable(label_studio_install, tmp_path_factory.mktemp("mortal")) as server:
        yield server


@pytest.fixture(scope="session")
def _projects(mortal: KillableServer) -> World:
    with mortal.door() as door:
        return World(mortal, door)


@pytest.fixture
def world(mortal: KillableServer, _projects: World) -> World:
    """90 tasks and 15 audits on a server that is alive."""
    mortal.start()
    return _projects


@pytest.fixture
def door(mortal: KillableServer, world: World) -> Iterator[LabelStudio]:
    """The administrator's, past the proxy."""
    del world  # there are projects, and the server is alive
    with mortal.door() as opened:
        yield opened


@pytest.fixture(scope="session")
def proxy(mortal: KillableServer) -> Iterator[FaultProxy]:
    """In front of the server, dead or alive."""
    with FaultProxy(mortal.url) as running:
        yield running


@pytest.fixture
def bench(world: World, fasten: Commands, tmp_path: Path) -> Iterator[Bench]:
    """Commands in homes of their own, which are gone when the test has ended: there are many, each with its images."""
    yield Bench(world, fasten, tmp_path / "homes")
    shutil.rmtree(tmp_path / "homes", ignore_errors=True)
