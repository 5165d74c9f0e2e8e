"""The map of commands: what a newcomer reads first."""

import re
from typing import get_args

import pytest
from typer.core import TyperArgument
from typer.main import get_command
from typer.testing import CliRunner

from fasten_model.presets import PRESETS
from pipeline.cli import demo, method
from pipeline.cli.app import app
from pipeline.demo.datasets import DATASETS

COMMANDS: dict[str, object] = dict(get_command(app).commands)  # type: ignore[attr-defined]
CONTRACT = {"up", "down", "status", "demo", "pull", "train", "score", "triage", "push", "retrain", "report", "doctor"}
NARROW = {"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"}

runner = CliRunner()


def lines_of(*arguments: str) -> list[str]:
    result = runner.invoke(app, arguments, env=NARROW)
    assert result.exit_code == 0
    assert result.stderr == ""
    return [line.strip(" │") for line in result.stdout.splitlines()]


def test_every_command_of_the_contract_is_there() -> None:
    assert set(COMMANDS) >= CONTRACT


@pytest.mark.parametrize("name", COMMANDS)
def test_the_map_has_one_whole_line_for_each_command_at_80_columns(name: str) -> None:
    [line] = [line for line in lines_of("--help") if re.match(rf"{name} ", line)]
    assert re.fullmatch(rf"{name} +[A-Z].*[.?)]", line)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(name: str) -> None:
    lines = lines_of(name, "--help")
    assert any(re.fullmatch(rf"Usage: fasten {name} \[OPTIONS\]( {{[A-Z_]+}}| \[[A-Z]\])*", line) for line in lines)
    assert max(map(len, lines)) <= 80
    for option in COMMANDS[name].params:  # type: ignore[attr-defined]
        if isinstance(option, TyperArgument):
            assert option.help
            continue
        assert option.help, f"{name} {option.opts[0]} says nothing of itself"
        [start] = [line for line in lines if re.match(rf"(\* +)?{option.opts[0]}\b", line)]
        assert "--no-" not in start


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_a_flag_is_shown_without_a_value(command: tuple[str, ...]) -> None:
    lines = lines_of(*command, "--help")
    assert [line for line in lines if "bool" in line.lower()] == []
    assert any(re.match(r"--help +Show", line) for line in lines)


def test_no_command_at_all_shows_the_map() -> None:
    result = runner.invoke(app, [], env=NARROW)
    assert result.exit_code == 2
    assert "Start here" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retrane"], "Did you mean 'retrain', 'train', 'triage'? see `fasten --help`"),
        (["--quick"], "No such option: --quick; see `fasten --help`"),
        (["retrain", "--mode", "both"], "'both' is not one of 'suggest', 'auto'; see `fasten retrain --help`"),
        (["doctor", "--quick"], "No such option"),
        (["doctor", "now"], "unexpected extra argument"),
        (["train", "--clean", "c.parquet"], "Missing option '--noisy'"),
        (["train", "--clean", "c", "--noisy", "n", "--out", "m", "--epochs", "0"], "'--epochs'"),
        (["train", "--clean", "c", "--noisy", "n", "--out", "m", "--rho", "-0.1"], "'--rho'"),
        (["train", "--clean", "c", "--noisy", "n", "--out", "m", "--rho", "nan"], "'--rho'"),
        (["train", "--clean", "c", "--noisy", "n", "--out", "m", "--rho", "often"], "neither “auto” nor a number"),
        (["score", "--model", "m", "--noisy", "n", "--out", "s", "--rho", "inf"], "'--rho'"),
        (["train", "--clean", "c", "--noisy", "n", "--out", "m", "--seed", "99999999999999999999"], "'--seed'"),
        (["train", "--clean", "c", "--noisy", "n", "--out", "m", "--preset", "large"], "resnet18"),
        (["score", "--model", "m", "--noisy", "n"], "Missing option '--out'"),
        (["triage", "--top", "-1"], "'--top'"),
        (["diff", "--top", "-1"], "'--top'"),
        (["gc", "--keep", "-1"], "'--keep'"),
        (["gc", "--days", "-1"], "'--days'"),
        (["gc", "--days", "nan"], "'--days'"),
        (["demo", "--dataset", "mnist"], "fashion-mnist"),
        (["demo", "--limit", "0"], "'--limit'"),
        (["demo", "--reviews", "many"], "'--reviews'"),
    ],
)
def test_wrong_arguments_name_themselves_and_end_with_2(arguments: list[str], says: str) -> None:
    result = runner.invoke(app, arguments, env={**NARROW, "COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("fasten: error: ")
    assert says in line
    assert "Value error" not in line
    assert result.stdout == ""


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert lines_of("--version") == [version("fasten")]


def test_the_choices_are_those_that_the_owners_know() -> None:
    assert get_args(method.Preset) == tuple(PRESETS)
    assert get_args(demo.Dataset) == DATASETS
