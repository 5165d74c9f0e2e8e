"""An empty mirror."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.snapshot.mirror import Mirror


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror.sqlite") as opened:
        yield opened
