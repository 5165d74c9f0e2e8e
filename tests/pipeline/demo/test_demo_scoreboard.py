import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.demo.scoreboard import RoundRow, Share, accuracy, load_rows, save_rows, scoreboard, wrong_labels
from pipeline.errors import DataError

FIRST = RoundRow(
    round_number=1, labels=1_400, wrong_before=420, wrong_after=350, wrong_if_taken=35, accuracy=0.981,
    plain_accuracy=0.74, waiting=200, shown=150, shown_wrong=140, seconds=61.4,
)  # fmt: skip
SECOND = RoundRow(
    round_number=2, labels=0, wrong_before=0, wrong_after=0, wrong_if_taken=0, accuracy=None, plain_accuracy=None,
    waiting=0,
)  # fmt: skip


def test_wrong_labels_counts_only_samples_whose_truth_is_known() -> None:
    share = wrong_labels(
        {"a": "cat", "b": "dog", "c": "cat", "z": "cat"}, {"a": "cat", "b": "cat", "c": "cat", "?": "cat"}
    )
    assert share == Share(count=1, total=3)
    assert str(share) == "1 of 3 (33.3%)"


def test_a_share_of_nothing_is_zero() -> None:
    assert Share(count=0, total=0).fraction == 0.0
    assert str(wrong_labels({}, {"a": "cat"})) == "none"


def test_accuracy_compares_in_order() -> None:
    assert accuracy(["a", "b", "b", "c"], ["a", "b", "c", "b"]) == 0.5
    assert accuracy([], []) == 0.0


def _rendered(rows: list[RoundRow]) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(scoreboard(rows))
    return console.export_text()


def test_the_board_has_one_row_a_round_with_every_figure() -> None:
    text = _rendered([FIRST, SECOND])
    first, second = (line for line in text.splitlines() if line.strip()[:2] in ("1 ", "2 "))
    assert " ".join(first.split()) == "1 420 30.0% 350 25.0% 35 2.5% 98.1% 74.0% 200 140/150 61 s"
    assert second.count("–") == 6, "what was not measured is a dash, not a zero"


def test_rows_survive_the_way_to_disk(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rounds.json"
    save_rows([FIRST, SECOND], path)
    assert load_rows(path) == [FIRST, SECOND]
    assert [entry.name for entry in path.parent.iterdir()] == ["rounds.json"]


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"a": 1}', '["a"]', "[1]", json.dumps([{"round_number": 1}]), '[{"labels": "many"}]', '[{"other": 1}]'],
)
def test_a_damaged_board_is_one_line_with_its_path(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rounds.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"rounds\.json is not a score board"):
        load_rows(path)
    with pytest.raises(DataError, match="is not a score board"):
        load_rows(tmp_path / "missing.json")
