"""The command of the review benchmark, from end to end on a few digits."""

from pathlib import Path

import pytest

from benchmarks import review
from benchmarks.command import finish
from benchmarks.review_loop.ledger import Question
from benchmarks.review_loop.policies import POLICIES, Policy
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


def test_a_policy_that_fails_costs_the_others_nothing_is_tried_again_and_makes_the_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[Question]:
        raise RuntimeError("no such order\nas this")

    truth = POLICIES["perfect order"]
    arguments = (*SMALL, "--rounds", "2", "--out", str(tmp_path / "a"), "--policies", "entropy", "perfect order")
    with monkeypatch.context() as patch:
        patch.setitem(POLICIES, "entropy", Policy(name="entropy", kind="truth", choose=broken))
        assert ended(arguments, capsys) == (1, f"1 of 3 rows failed; see “Failed” in {tmp_path / 'a.md'}\n")
    rows = read_file(tmp_path / "a.parquet", RoundRow)[0]
    assert [(row.policy, row.round, row.error) for row in rows] == [
        ("entropy", 1, "RuntimeError: no such order"),
        ("perfect order", 1, None),
        ("perfect order", 2, None),
    ]
    assert "- digits, sym:0.4, seed 0, entropy, round 1: RuntimeError: no such order\n" in (
        tmp_path / "a.md"
    ).read_text(encoding="utf-8")
    monkeypatch.setitem(POLICIES, "entropy", Policy(name="entropy", kind="truth", choose=truth.choose))
    monkeypatch.setattr("benchmarks.run_notes.code_line", lambda: "code def, 2026-11-28 08:00 UTC")
    status, said = ended(arguments, capsys)
    assert (status, said.count("\n")) == (0, 1)
    assert f"{tmp_path / 'a.parquet'} keeps 2 of the rows asked for, 2 of other code" in said
    assert [row.error for row in read_file(tmp_path / "a.parquet", RoundRow)[0]] == [None] * 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--out", "file/x"), "cannot be written"),
        (("--out", "."), "is a folder"),
        (("--report", "none.parquet"), "there is no results file"),
        (("--threads", "0"), "0 is below 1"),
        (("--seeds", "0"), "0 is below 1"),
        (("--dataset", "imagenet"), "invalid choice: 'imagenet'"),
        (("--device", "tpu"), "no device named 'tpu'"),
        (("--noise", "sym:0.4", "human:worst"), "no labels by people"),  # before sym:0.4 is played
        (("--samples", "9000"), "9000 wanted"),
        (("--reviewer-error", "2"), "reviewer_error must be from 0 to below 1"),
        (("--target-precision", "nan"), "nan is not between 0 and 1"),
        (("--certainty", "1"), "1 is not between 0 and 1"),
        (("--audit-folds", "900"), "invalid choice: 900"),
        (("--folds", "1"), "invalid choice: 1"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_played(
    wrong: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(review, "play", lambda *_: pytest.fail("played"))
    (tmp_path / "file").touch()
    code, printed = ended((*SMALL, "--out", "a", *wrong), capsys)
    assert code == 2
    assert said in printed
    assert printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_name_of_the_results_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*SMALL, "--policies", "perfect order", "--out", str(tmp_path / "v1.2"))
    assert ended(arguments, capsys) == (0, "")
    assert ended(("--report", str(tmp_path / "v1.2.parquet"), "--out", str(tmp_path / "w1.2")), capsys)[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"v1.2.parquet", "v1.2.md", "w1.2.md"}
