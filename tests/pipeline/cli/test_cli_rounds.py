"""What the commands of the loop print, and what they hand on; the loop itself is tested with its servers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Completed, Crashed, Failed
from typer.testing import CliRunner

from pipeline import loop, orchestrator, snapshot
from pipeline.cli.app import app
from pipeline.cli.rounds import MOST_LISTED
from pipeline.loop import Pushed
from pipeline.queue import Action, Change
from pipeline.records import AskedAs
from pipeline.settings import Settings

pytestmark = pytest.mark.usefixtures("own_folder")
runner = CliRunner()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the flow was asked for; set `state` to choose its end."""
    seen: dict[str, Any] = {"state": Completed(name="Skipped", message="nothing [new]")}

    def run(parameters: dict[str, Any], *, api_url: str | None) -> Any:
        seen.update(parameters=parameters, api_url=api_url)
        return seen["state"]

    monkeypatch.setattr(orchestrator, "run_in_process", run)
    monkeypatch.setenv("FASTEN_PREFECT_API_URL", "http://127.0.0.1:4200/api")
    return seen


def test_retrain_runs_the_flow_with_its_options_and_says_how_it_ended(asked: dict[str, Any]) -> None:
    options = ["--labels-project", "7", "--review-project", "r", "--force", "--mode", "auto"]
    result = runner.invoke(app, ["retrain", *options, "--reviews", "50", "--minutes", "7.5", "--rho", "0.8"])
    assert (result.exit_code, result.stdout) == (0, "Skipped: nothing [new]\n")
    assert asked["api_url"] == "http://127.0.0.1:4200/api"
    assert asked["parameters"] == {
        "labels_project": "7",
        "audit_project": None,
        "review_project": "r",
        "force": True,
        "mode": "auto",
        "reviews": 50,
        "minutes": 7.5,
        "rho": 0.8,
    }


@pytest.mark.parametrize(("rho", "handed_on"), [("auto", "auto"), (None, None)])
def test_rho_may_be_left_to_training(asked: dict[str, Any], rho: str | None, handed_on: str | None) -> None:
    result = runner.invoke(app, ["retrain", *(["--rho", rho] if rho else [])])
    assert result.exit_code == 0, result.output
    assert asked["parameters"]["rho"] == handed_on


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rho", "often"], "setting rho (FASTEN_RHO, or rho in fasten.toml)"),
        (["--mode", "bold"], "'bold' is not one of 'suggest', 'auto'"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_runs(asked: dict[str, Any], options: list[str], says: str) -> None:
    result = runner.invoke(app, ["retrain", *options])
    assert result.exit_code != 0
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert "parameters" not in asked


@pytest.mark.parametrize(
    ("state", "says"),
    [(Failed(message="the clean set is empty"), "the clean set is empty"), (Crashed(), "the flow ended Crashed")],
)
def test_a_round_that_fails_is_one_line_and_1(asked: dict[str, Any], state: Any, says: str) -> None:
    asked["state"] = state
    result = runner.invoke(app, ["retrain"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"fasten: error: {says}\n")


def test_pull_tells_the_snapshot_its_rows_and_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = SimpleNamespace(snapshot_id="abc", rows={"noisy": 90, "clean": 30}, rejected={"image\x1b[2J 404": 2})
    seen: list[Settings] = []
    monkeypatch.setattr(loop, "survey", lambda settings: seen.append(settings))
    monkeypatch.setattr(loop, "pull_labels", lambda *_: SimpleNamespace(snapshot=Path("data/abc")))
    monkeypatch.setattr(snapshot, "open_snapshot", lambda _: SimpleNamespace(manifest=manifest))
    result = runner.invoke(app, ["pull", "--labels-project", "cats", "--audit-project", "8"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "snapshot abc: data/abc",
        "  noisy    90",
        "  clean    30",
        "  left out: 2 × image�[2J 404",
    ]
    assert (seen[0].labels_project, seen[0].audit_project) == ("cats", "8")


def a_change(number: int, action: Action = "add", kind: AskedAs = "targeted") -> Change:
    return Change(
        action=action, push_key=f"k{number}", sample_id=f"s[{number}]\x1b", asked_as=kind, before="cat", after="dog",
        why="The model disagrees.",
    )  # fmt: skip


CHANGES = (
    *(a_change(number) for number in range(1198)),
    a_change(1198, "update"),
    a_change(1199, "retire"),
    a_change(1200, kind="tie_break"),
    a_change(1201, kind="tie_break"),
)


@pytest.mark.parametrize(
    ("options", "verb", "listed"),
    [
        ([], "added", 0),
        (["--dry-run", "--reviews", "7", "--minutes", "2.5"], "would be added", MOST_LISTED),
        (["--recheck", "3"], "added", 0),
        (["--verbose"], "added", len(CHANGES)),
        (["--dry-run", "--verbose"], "would be added", len(CHANGES)),
    ],
)
def test_push_composes_anew_and_tells_what_it_did_or_would_do_and_where(
    monkeypatch: pytest.MonkeyPatch, options: list[str], verb: str, listed: int
) -> None:
    pushed = Pushed(
        title="review [1]", added=1200, waiting=5, minutes=81.4, corrections=900.2, counts={}, changes=CHANGES,
        url="http://ls/projects/3",
    )  # fmt: skip
    written: list[str] = []

    def plan(settings: Settings, found: object, pulled: object, scores: Path, *, recheck: int) -> str:
        assert (found, pulled, scores) == ("found", "pulled", Path("run/scores.parquet"))
        assert recheck == (3 if "--recheck" in options else 0)
        assert (settings.queue_size, settings.review_minutes) == ((7, 2.5) if "--reviews" in options else (500, None))
        return "plan"

    def keep(*args: Any, **options: Any) -> Path:
        written.append("plan")
        return Path("run") / plan(*args, **options)

    def push(_settings: object, found: object, queue: Path) -> Pushed:
        assert (found, queue) == ("found", Path("run/plan"))
        written.append("queue")
        return pushed

    monkeypatch.setattr(loop, "survey", lambda _: "found")
    monkeypatch.setattr(loop, "last_round", lambda *_: ("pulled", Path("run/scores.parquet")))
    monkeypatch.setattr(loop, "plan_questions", plan)
    monkeypatch.setattr(loop, "triage_scores", keep)
    monkeypatch.setattr(loop, "preview_queue", lambda *_: pushed)
    monkeypatch.setattr(loop, "push_queue", push)
    result = runner.invoke(app, ["push", *options], env={"COLUMNS": "200"})
    assert written == ([] if "--dry-run" in options else ["plan", "queue"])
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        f"1,200 {verb} to “review [1]”, 5 waiting",
        "  targeted   update 1, retire 1, add 1,198",
        "  tie-break  add 2",
    ]
    assert lines[-2:] == ["about 81 minutes of work, 900 labels set right", "http://ls/projects/3"]
    rows = [line.split() for line in lines if "The model disagrees." in line]
    assert len(rows) == listed
    assert all(row[1:5] == [f"s[{number}]�", row[2], "cat", "dog"] for number, row in enumerate(rows))
    assert ("1,172 more: --verbose lists them all" in lines) == (listed == MOST_LISTED)


def test_report_is_markdown_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# FasTEN\n\n| a | b |\n|---|---|\n| [link](http://x) | " + "long " * 60 + "|"
    monkeypatch.setattr(loop, "last_report", lambda _: text)
    assert runner.invoke(app, ["report"]).stdout == f"{text}\n"
