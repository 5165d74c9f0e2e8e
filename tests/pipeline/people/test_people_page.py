"""People as Markdown, JSON and in the terminal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from pipeline import loop
from pipeline.cli import people as command
from pipeline.people import Annotator, Confusion, Mixup, People, Reviewer, Share, markdown, people_of_run, summary
from pipeline.people.page import MOST_ROWS
from pipeline.schema import SCORES
from pipeline.scoring import write_scores
from pipeline.workspace import Completed, Workspace

if TYPE_CHECKING:
    from tests.pipeline.people.conftest import Desk

ANNOTATOR = Annotator(
    name="user:1",
    votes=1200,
    audited=100,
    error=Share(value=0.305, low=0.28, high=0.33),
    expected_wrong=366.0,
    confusions=(Confusion(truth="3", said="8", share=Share(value=0.41, low=0.35, high=0.47), expected=49.2),),
    matrix=((0.59, 0.41), (0.2, 0.8)),
)
REVIEWER = Reviewer(
    name="user:7",
    classes=90,
    not_sure=4,
    unusable=2,
    median_seconds=2.25,
    compared=20,
    right=19,
    accuracy=Share(value=0.95, low=0.76, high=0.99),
    overlaps=10,
    agreements=9,
    mixups=(Mixup(truth="3", said="8", count=1, of=4),),
)
PEOPLE = People(classes=("3", "8"), reviewers=(REVIEWER,), annotators=(ANNOTATOR,), strength=20.0)


def test_the_section_tells_each_person_in_a_row() -> None:
    text = markdown(PEOPLE)
    assert "| user:1 | 1,200 | 100 | 30 % (28–33 %) | 3 → 8: 41 % (35–47 %) |" in text
    assert "| user:7 | 96 | 4 | 2 | 2.2 | 19 of 20: 95 % (76–99 %) | 9 of 10 | 3 → 8: 1 of 4 |" in text


def test_what_is_not_known_is_a_dash() -> None:
    idle = replace(REVIEWER, median_seconds=None, accuracy=None, compared=0, right=0, overlaps=0, mixups=())
    assert "| user:7 | 96 | 4 | 2 | – | – | – | – |" in markdown(replace(PEOPLE, reviewers=(idle,)))
    assert "| 30 % (28–33 %) | – |" in markdown(replace(PEOPLE, annotators=(replace(ANNOTATOR, confusions=()),)))


def test_with_nobody_there_is_no_section() -> None:
    assert markdown(People(classes=("3", "8"), reviewers=(), annotators=())) == ""


def test_names_from_outside_are_inert() -> None:
    evil = "<b>|[x](javascript:1)\n# `"
    mixed = replace(REVIEWER.mixups[0], truth=evil, said=evil)
    confused = replace(ANNOTATOR.confusions[0], truth=evil, said=evil)
    text = markdown(
        replace(
            PEOPLE,
            reviewers=(replace(REVIEWER, name=evil, mixups=(mixed,)),),
            annotators=(replace(ANNOTATOR, name=evil, confusions=(confused,)),),
        )
    )
    assert "<b>" not in text
    assert "[x]" not in text
    rows = [line for line in text.splitlines() if "javascript" in line]
    assert [line.replace("\\|", "").count("|") for line in rows] == [6, 9], "every cell stays one"


def test_long_tables_are_cut_in_the_report_and_say_so() -> None:
    many = tuple(replace(ANNOTATOR, name=f"user:{number}") for number in range(MOST_ROWS + 5))
    text = markdown(replace(PEOPLE, annotators=many, left_out=2))
    assert f"user:{MOST_ROWS - 1} " in text
    assert f"user:{MOST_ROWS} " not in text
    assert "7 more are not shown." in text


def test_the_summary_is_json() -> None:
    read = json.loads(json.dumps(summary(PEOPLE)))
    assert read["annotators"][0]["confusions"][0]["share"]["value"] == 0.41
    assert read["reviewers"][0]["median_seconds"] == 2.25


@pytest.fixture
def run(desk: "Desk", monkeypatch: pytest.MonkeyPatch) -> Path:
    """A completed round of two annotators and a reviewer; the commands find it."""
    desk.noisy("n", {"user:1": "3"})
    desk.clean("a", "3", {"user:1": "8", "user:2[red]": "3"})
    desk.says("user:7", "a", "3")
    snapshot = desk.snapshot()
    workspace = Workspace(folder=desk.folder)
    workspace.remember(Completed(fingerprint="", snapshot_id=snapshot.snapshot_id, config="", run_key="k"))
    write_scores(SCORES.empty_table(), workspace.run_folder("k") / "scores.parquet")
    monkeypatch.setattr(loop, "last_run", lambda _: workspace.run_folder("k"))
    monkeypatch.setattr(command, "out", Console(soft_wrap=True, width=300, highlight=False))
    return workspace.run_folder("k")


def application() -> typer.Typer:
    app = typer.Typer()
    app.command()(command.people)
    return app


@pytest.mark.usefixtures("own_folder")
def test_the_command_shows_everybody_of_the_last_round(run: Path) -> None:
    result = CliRunner().invoke(application(), [])
    assert result.exit_code == 0, result.output
    assert "ANNOTATOR" in result.stdout
    assert "user:2[red]" in result.stdout
    assert "user:7" in result.stdout
    assert people_of_run(run).reviewers[0].name == "user:7"


@pytest.mark.usefixtures("own_folder", "run")
def test_the_command_prints_json() -> None:
    result = CliRunner().invoke(application(), ["--json"])
    assert [each["name"] for each in json.loads(result.stdout)["reviewers"]] == ["user:7"]
