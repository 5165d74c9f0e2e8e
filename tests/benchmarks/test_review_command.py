"""The command of the review benchmark, from end to end on a few digits."""

from pathlib import Path

import pytest

from benchmarks import review
from benchmarks.command import finish
from benchmarks.review_loop.policies import POLICIES
from benchmarks.review_loop.rows import RoundRow
from benchmarks.rows_file import read_file

SMALL = (
    "--dataset", "digits", "--noise", "sym:0.4", "--seeds", "1", "--samples", "160", "--audited", "60", "--batch", "20",
    "--rounds", "1", "--steps", "2", "--side", "8", "--device", "cpu", "--folds", "2",
)  # fmt: skip


def ended(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """(status, what was printed on stderr) of the command."""
    with pytest.raises(SystemExit) as stop:
        finish(review.main, arguments)
    return stop.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of one round of every policy."""
    out = tmp_path_factory.mktemp("review") / "all"
    assert review.main((*SMALL, "--out", str(out))) == 0
    return out.with_suffix(".parquet")


def test_every_policy_has_a_round_and_ours_asks_what_the_products_triage_asks(made: Path) -> None:
    rows, settings = read_file(made, RoundRow)
    assert [row.policy for row in rows] == list(POLICIES)
    assert all(row.error is None and row.asked == 20 and row.spent == 60 for row in rows)
    assert settings["steps"] == 2
    asked = {row.policy: row.asked_as or [] for row in rows}
    assert set(asked["random"]) == {"audit"}
    assert asked["ours, suggest"].count("audit") == 2  # a tenth
    assert set(asked["cleanlab issues, own p"]) == {"targeted"}
    ours, blind = (next(row for row in rows if row.policy == name) for name in ("ours, suggest", "entropy"))
    assert ours.handed is not None
    assert blind.handed is not None
    assert (ours.handed[0], ours.bin_count) == (blind.handed[0], blind.bin_count)  # one model in the first round


def test_the_tables_are_beside_the_rows(made: Path) -> None:
    text = made.with_suffix(".md").read_text(encoding="utf-8")
    for words in (
        "## digits, sym:0.4",
        "### Promises",
        "### Estimates",
        "Our model, first round: ECE",
        "| ours, auto ",
    ):
        assert words in text


def test_another_run_needs_another_file(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ended((*SMALL, "--reviewer-error", "0.1", "--out", str(made)), capsys)
    assert code == 2
    assert "was made with reviewer_error 0.03, this run has 0.1" in said
    code, said = ended(("--policies", "best"), capsys)
    assert code == 2
    assert "no policy is called 'best'; there are perfect order, " in said


def test_files_are_shown_without_running_anything(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert review.main(("--report", str(made))) == 0
    assert "digits, sym:0.4" in capsys.readouterr().out
