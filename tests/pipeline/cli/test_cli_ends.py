"""How commands end: one line and a non-zero exit code on whatever their user can mend."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline import doctor, embedded
from pipeline.cli import doctor as cli_doctor
from pipeline.cli.app import app
from pipeline.cli.console import log_to_terminal, printable, say
from pipeline.errors import ConfigError, FastenError, ServiceUnavailable, StackError

pytestmark = pytest.mark.usefixtures("own_folder")
runner = CliRunner()


def down_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def stop(_: object) -> int:
        raise error

    monkeypatch.setattr(embedded, "stop", stop)


@pytest.mark.parametrize("kind", [FastenError, ConfigError, ServiceUnavailable, StackError])
def test_an_error_of_ours_is_one_line_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, kind: type[FastenError]
) -> None:
    down_raises(monkeypatch, kind("project 7 has no [bold]Choices[/bold]\n  control: add \x1b[31mone"))
    result = runner.invoke(app, ["down"])
    assert result.exit_code == 1
    assert result.stderr == "fasten: error: project 7 has no [bold]Choices[/bold] control: add �[31mone\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "/data"), "/data: Permission denied"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (OSError("something of a library's own"), "something of a library's own"),
    ],
)
def test_what_the_operating_system_refuses_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, error: OSError, says: str
) -> None:
    down_raises(monkeypatch, error)
    result = runner.invoke(app, ["down"])
    assert (result.exit_code, result.stderr) == (1, f"fasten: error: {says}\n")


def test_a_reader_that_went_away_is_no_error_to_talk_of(monkeypatch: pytest.MonkeyPatch) -> None:
    down_raises(monkeypatch, BrokenPipeError(32, "Broken pipe"))
    result = runner.invoke(app, ["down"])
    assert result.exit_code == 1
    assert "fasten: error" not in result.stderr


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    down_raises(monkeypatch, KeyboardInterrupt())
    result = runner.invoke(app, ["down"])
    assert result.exit_code == 130
    assert result.stderr.startswith("fasten: error: interrupted; ")
    assert result.stderr.count("\n") == 1


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    down_raises(monkeypatch, ZeroDivisionError())
    assert isinstance(runner.invoke(app, ["down"]).exception, ZeroDivisionError)


@pytest.mark.parametrize("command", ["status", "up", "down", "env", "doctor", "retrain", "pull", "push", "report"])
def test_a_wrong_setting_is_one_line_from_every_command(own_folder: Path, command: str) -> None:
    (own_folder / "fasten.toml").write_text('rho = "high"\n')
    result = runner.invoke(app, [command])
    assert result.exit_code == 1
    assert result.stderr.startswith("fasten: error: setting rho (FASTEN_RHO")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retrain"], "no Prefect is set: run `fasten up`"),
        (["pull"], "no Label Studio is set: run `fasten up`"),
        (["push", "--dry-run"], "no Label Studio is set: run `fasten up`"),
        (["report"], "no Label Studio is set: run `fasten up`"),
        (["triage"], "no Label Studio is set: run `fasten up`"),
        (["triage", "--scores", "s.parquet"], "s.parquet does not exist: score the labels first"),
        (["env"], "no server is set: run `fasten up`"),
        (["up"], "has no prefect.yaml: run this command in the project's folder"),
        (["demo", "--dataset", "cifar10n"], "give --root"),
        (["demo", "--dataset", "cifar10n", "--root", "nowhere"], "nowhere"),
        (["demo", "--dataset", "parquet"], "--clean"),
    ],
)
def test_with_nothing_set_each_command_says_what_to_do_first(own_folder: Path, arguments: list[str], says: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("fasten: error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(own_folder.iterdir()) == []


def test_doctor_ends_with_1_where_there_is_a_problem_and_a_note_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        doctor.Finding(what="disk", level="ok", detail="1 GiB"),
        doctor.Finding(what="audit project", level="warning", detail="none [is] set\x07"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda _: iter(found))
    well = runner.invoke(app, ["doctor"])
    assert (well.exit_code, [line.split() for line in well.stdout.splitlines()]) == (
        0,
        [["ok", "disk", "1", "GiB"], ["note", "audit", "project", "none", "[is]", "set�"]],
    )
    found.append(doctor.Finding(what="MLflow", level="problem", detail="does not answer: " + "start it, " * 40))
    ill = runner.invoke(app, ["doctor"])
    assert ill.exit_code == 1
    assert len(ill.stdout.splitlines()) == 3, "one line for each finding where nobody is watching"
    narrow = Console(width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(cli_doctor, "out", narrow)
    runner.invoke(app, ["doctor"])
    wrapped = narrow.export_text().splitlines()[2:]
    assert len(wrapped) > 4
    assert max(map(len, wrapped)) <= 80
    assert all(line.startswith(" " * 23) for line in wrapped[1:]), "what goes on stands below its beginning"


@pytest.fixture
def loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("pipeline", "fasten_model")]
    before = [(logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    yield
    for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


@pytest.mark.usefixtures("loggers_as_before")
def test_progress_goes_to_standard_error_and_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_terminal()
    logging.getLogger("pipeline.anything").info("“%s” pulled", "cats\x1b[2J")
    logging.getLogger("fasten_model.train").info("epoch 1/2")
    logging.getLogger("somebody.else").info("not for our users")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split("  ", 1)[1] for line in printed.err.splitlines()] == ["“cats�[2J” pulled", "epoch 1/2"]


def test_printable_text_keeps_its_letters_and_line_ends() -> None:
    assert printable("ρ “é” 猫\n\t\r\x9b\x7f") == "ρ “é” 猫\n����"


def test_ids_and_class_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    say("ls:100:5 is :cat: [bold]")
    assert capsys.readouterr().out == "ls:100:5 is :cat: [bold]\n"
