"""An empty mirror, and a server without tasks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.snapshot.mirror import Mirror
from tests.pipeline.snapshot.pulling import Server


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror.sqlite") as opened:
        yield opened


@pytest.fixture
def server() -> Server:
    return Server()
