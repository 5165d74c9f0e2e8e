"""Class names, titles and ids come from strangers: wherever they are shown, they are text and nothing else."""

import io
import logging
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from pipeline import doctor as checks
from pipeline.cli import doctor as doctor_command
from pipeline.cli.app import app
from pipeline.cli.console import _Lines, complain
from pipeline.people import Annotator, Confusion, Mixup, People, Reviewer, Share, markdown, summary
from pipeline.records import ReviewTask
from pipeline.report import RoundReport, escape
from pipeline.report import markdown as report
from pipeline.review_screen import TASK_VARIABLES, review_config, screen_data
from pipeline.schema import SCORES
from pipeline.tracking.figures import heat_map
from pipeline.trail import append_people
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot

HOSTILE = {
    "html": "<img src=x onerror=alert(1)>",
    "script": "</td><script>alert(1)</script>",
    "entity": "&lt;b&gt; &#60;i>",
    "formula": "=cmd|' /C calc'!A0",
    "at": "@SUM(1+1)*cmd|'x'!A0",
    "markdown link": "[x](javascript:alert(1))",
    "markdown image": "![x](https://evil.example/a.png)",
    "reference": "[x]: https://evil.example",
    "bare address": "https://evil.example/?a=1 www.evil.example WWW.evil.example a@evil.example",
    "autolink": "<https://evil.example>",
    "emphasis": "**b** _i_ ~~s~~ `c` | d",
    "mathematics": "$x^$ \\(y\\)",
    "rich markup": "[red]a[/red] [/] [link=https://evil.example]b[/link] :smile:",
    "ANSI": "\x1b[31mred\x1b[2J\x1b]8;;https://evil.example\x07here\x1b]8;;\x07",
    "a line of its own": "a\r\n# b\n- c\n\n> d",
    "right to left": "\u202egnp.exe",
    "half a pair": "a\ud800",
    "nothing": "\x00\x07\x9b31m",
}
"""One of each kind that something, somewhere, might take for more than text."""
each_hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=[*HOSTILE])
runner = CliRunner()
Make = Callable[..., "Snapshot"]


class Tags(HTMLParser):
    """What a browser would make of some markup: every tag with its attributes, and the text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(text: str) -> Tags:
    """Markdown with tables and raw HTML allowed: the most that Prefect, MLflow or a forge would do with it."""
    return Tags(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def flat(text: str) -> str:
    """How an inert text reads: on one line, with a mark for what cannot be printed."""
    return "".join(mark if mark.isprintable() else "�" for mark in " ".join(text.split()))


def printed(line: str) -> str:
    """How one line of it reads in a terminal."""
    return "".join(mark if mark.isprintable() else "�" for mark in line)


def check_terminal(shown: str) -> None:
    assert all(mark.isprintable() or mark == "\n" for mark in shown), ascii(shown)


def a_report(text: str) -> RoundReport:
    return RoundReport(
        labels_project=text,
        review_project=text,
        snapshot_id="abc",
        noisy=1,
        audited=1,
        reviewed=1,
        rejected={text: 1},
        pairs=1,
        pairs_wrong=1,
        expected_wrong=1.0,
        decisions={"keep": 1},
        relabels=text,
        temperature=1.0,
        held_out=1,
        accuracy=1.0,
        queue_added=1,
        queue_waiting=1,
        mode="suggest",
        checks=0,
        checks_right=0,
        planned={"audit": 1},
        minutes=1.0,
        corrections=1.0,
        undecided={text: 1},
        contradicted=0,
        model_version=text,
        people=markdown(people(text)),
        links={text: "http://127.0.0.1:1/projects/3", "x": "javascript:alert(1)"},
    )


def people(text: str) -> People:
    share = Share(value=0.5, low=0.4, high=0.6)
    annotator = Annotator(
        name=text,
        votes=1,
        audited=1,
        error=share,
        expected_wrong=1.0,
        confusions=(Confusion(truth=text, said=text, share=share, expected=1.0),),
        matrix=((1.0, 0.0), (0.0, 1.0)),
    )
    reviewer = Reviewer(
        name=text,
        classes=1,
        not_sure=0,
        unusable=0,
        median_seconds=1.0,
        compared=1,
        right=0,
        accuracy=share,
        overlaps=0,
        agreements=0,
        mixups=(Mixup(truth=text, said=text, count=1, of=1),),
    )
    return People(classes=(text, "b"), reviewers=(reviewer,), annotators=(annotator,), strength=1.0)


@each_hostile
def test_the_report_that_mlflow_and_prefect_show(text: str) -> None:
    """One Markdown text: `report.md`, the run's description, the Prefect artifact and `fasten report`."""
    written = report(a_report(text))
    assert written.encode()
    check_terminal(written)
    plain, hostile = rendered(report(a_report("plain"))), rendered(written)
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert [tags for tag, tags in hostile.found if tag == "a"] == [{"href": "http://127.0.0.1:1/projects/3"}]
    assert hostile.text.count(flat(text)) == plain.text.count("plain")


@each_hostile
def test_no_renderer_makes_a_link_of_an_address_in_it(text: str) -> None:
    shown = escape(text)
    assert not [mark for mark in ("://", "www.", "@") if mark in shown.lower()]


@each_hostile
def test_the_table_of_people_in_the_terminal(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipeline import loop
    from pipeline.cli import people as command

    monkeypatch.setattr(loop, "last_run", lambda _: tmp_path)
    monkeypatch.setattr("pipeline.people.people_of_run", lambda _: people(text))
    stream = io.StringIO()
    monkeypatch.setattr(command, "out", Console(file=stream, width=1_000, highlight=False, emoji=False))
    command.people()
    check_terminal(stream.getvalue())
    assert all(printed(line) in stream.getvalue() for line in text.split("\n"))
    assert summary(people(text))


@each_hostile
@pytest.mark.usefixtures("own_folder")
def test_the_table_of_doubtful_labels_in_the_terminal(text: str) -> None:
    storable = text.encode("utf-8", "replace").decode()
    row: dict[str, Any] = dict.fromkeys(SCORES.names, 0.5)
    row |= {"sample_id": storable, "given_label": storable, "model_label": storable, "suggested_label": storable}
    row |= {"decision": "keep", "model_version": "1", "posterior": [1.0]}
    pq.write_table(pa.Table.from_pylist([row], schema=SCORES), "s.parquet")
    result = runner.invoke(app, ["triage", "--scores", "s.parquet"])
    assert result.exit_code == 0, result.stderr
    check_terminal(result.stdout)
    assert "\x1b" not in result.stdout


@each_hostile
def test_a_samples_story_in_the_terminal(
    text: str, own_folder: Path, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTEN_DATA_DIR", str(own_folder / "data"))
    monkeypatch.setenv("FASTEN_LABELS_PROJECT", "7")
    storable = text.encode("utf-8", "replace").decode()
    workspace = Workspace(folder=own_folder / "data" / "project-7")
    label = {"sample_id": "s", "label": storable, "annotator": storable}
    snapshot = make_snapshot(workspace.folder, labels=[label], noisy={"s": storable}, classes=(storable, "b"))
    append_people(workspace, snapshot, datetime(2026, 3, 1, tzinfo=UTC))
    result = runner.invoke(app, ["history", "s"])
    assert result.exit_code == 0, result.stderr
    check_terminal(result.stdout)
    assert len(result.stdout.splitlines()) == 2
    assert all(printed(line) in result.stdout for line in storable.split("\n"))


@each_hostile
def test_what_doctor_says_of_projects(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = checks.Finding(what="labels project", level="problem", detail=text)
    monkeypatch.setattr(checks, "examine", lambda _: [finding])
    stream = io.StringIO()
    monkeypatch.setattr(doctor_command, "out", Console(file=stream, width=1_000, highlight=False, emoji=False))
    with pytest.raises(typer.Exit):
        doctor_command.doctor()
    check_terminal(stream.getvalue())


@each_hostile
def test_errors_and_log_lines(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    complain(text)
    told = capsys.readouterr().err
    check_terminal(told)
    assert told.count("\n") == 1
    record = logging.LogRecord("pipeline", logging.INFO, "", 0, "project %s", (text,), None)
    check_terminal(_Lines("%(message)s").format(record))


@each_hostile
def test_the_heat_map_that_mlflow_shows(text: str) -> None:
    drawn = heat_map(np.eye(2), [text, "b"], title="T", row_axis="true", column_axis="given")
    with Image.open(io.BytesIO(drawn)) as image:
        image.verify()


@each_hostile
def test_the_review_screen_and_what_it_shows(text: str) -> None:
    # What `find_control` lets pass, and no variable of Label Studio's, which `review_config` refuses.
    name = "".join(mark for mark in text if mark.isprintable()).removeprefix("$")
    tags = [element.tag for element in ET.fromstring(review_config(("a", "b"))).iter()]  # noqa: S314
    screen = ET.fromstring(review_config((name, "b")))  # noqa: S314
    assert [element.tag for element in screen.iter()] == tags
    assert [choice.get("value") for choice in screen.iter("Choice")][:2] == [name, "b"]
    task = ReviewTask(
        push_key="k",
        sample_id=text,
        image_url=text,
        current_label=text,
        model_label=text,
        confidence=0.9,
        reason=text,
        priority=0.5,
        model_version="1",
        references=(text, "/b.png"),
    )
    data = screen_data(task)
    shown_as_text = {tag.get("value") for tag in screen.iter() if tag.tag == "Header"}
    shown_as_markup = {tag.get("value") for tag in screen.iter() if tag.tag == "HyperText"}
    assert not shown_as_text & shown_as_markup
    for variable in TASK_VARIABLES:
        if f"${variable}" in shown_as_markup:
            markup = Tags(data[variable])
            assert [tag for tag, _ in markup.found] == ([] if variable == "reference_3" else ["span"])
            assert markup.text == ""
            for _, attributes in markup.found:
                assert set(attributes) == {"class", "style"}
                style = attributes["style"] or ""
                assert style.startswith("background-image: url('")
                assert style.endswith("')")
                assert not set("'\n\r\f") & set(style[len("background-image: url('") : -2])
