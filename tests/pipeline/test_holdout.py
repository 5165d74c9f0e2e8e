"""A promise takes held-out pairs: few wrong ones, and most are held out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.holdout import LEAST, MOST, holdout_share, share_of
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.parametrize(
    ("wrong", "share"), [(0, LEAST), (1, MOST), (100, MOST), (154, 0.5), (308, 0.25), (10_000, LEAST)]
)
def test_in_mode_auto_as_much_is_held_out_as_the_promise_takes(wrong: int, share: float) -> None:
    assert share_of("auto", wrong, precision=0.95, certainty=0.9) == pytest.approx(share)
    assert share_of("suggest", wrong, precision=0.95, certainty=0.9) == LEAST


def test_only_random_audits_whose_bulk_label_was_wrong_count(
    tmp_path: Path, make_snapshot: Callable[..., "Snapshot"]
) -> None:
    clean: dict[str, tuple[str, str | None, str]] = {f"wrong {n}": ("dark", "grey", "audit") for n in range(154)}
    clean |= {f"right {n}": ("dark", "dark", "audit") for n in range(50)}
    clean |= {f"unknown {n}": ("dark", None, "audit") for n in range(50)}
    clean |= {f"reviewed {n}": ("dark", "grey", "review") for n in range(50)}
    snapshot = make_snapshot(tmp_path, clean=clean)
    assert holdout_share(Settings(mode="auto"), snapshot) == pytest.approx(0.5)
    assert holdout_share(Settings(), snapshot) == LEAST
    assert holdout_share(Settings(mode="auto", holdout=0.1), snapshot) == 0.1
