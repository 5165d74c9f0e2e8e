"""The data plane's benchmark: figures are held against the right ones, targets are judged, and bad arguments are told.

What it measures is measured by running it: no server starts here.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks import data_plane
from benchmarks.command import finish
from benchmarks.plane import ingest, pulling, pushing, tables
from benchmarks.plane.doors import DOORS, MOST, doors_for
from benchmarks.plane.figure import Figure
from benchmarks.plane.projects import CLASSES, local_url, make_pictures
from benchmarks.plane.pushing import questions
from benchmarks.plane.report import best, markdown
from benchmarks.plane.wire import CountingTransport
from benchmarks.rows_file import RowsFile, read_file
from pipeline.images import ImageConfig, verify_image

MACHINE, CODE = "a machine", "code abc, 2026-11-27 08:00 UTC"


def figure(part: str, size: int, what: str, *seconds: float, **more: object) -> Figure:
    known = {"server": "SQLite", "machine": MACHINE, "code": CODE, **more}
    return Figure(part=part, size=size, what=what, seconds=list(seconds), **known)  # type: ignore[arg-type]


def line_with(text: str, *parts: str) -> list[str]:
    """The cells of the only row of a table that has all of `parts`."""
    [line] = [line for line in text.splitlines() if line.startswith("|") and all(part in line for part in parts)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_full_pull_is_held_against_the_fastest_bare_read_of_its_size_and_server() -> None:
    figures = [
        figure("doors", 1000, "pages", 2.0, 3.0, 1.0),
        figure("doors", 1000, "exports", 1.5, 1.5, 4.0),
        figure("doors", 9000, "pages", 0.1),
        figure("doors", 1000, "pages", 0.1, server="PostgreSQL"),
        figure("pull", 1000, pulling.LABELS_ONLY, 1.65, requests=9, received=2_500_000, tail_s=0.4, peak_mib=150.0),
        figure("pull", 1000, pulling.WITH_IMAGES, 3.0, requests=9, received=2_500_000),
    ]
    fastest = best(figures, "SQLite", 1000)
    assert fastest is not None
    assert fastest.what == "exports"  # by the median, not by the luckiest round
    cells = line_with(markdown(figures), "SQLite", "1,000", pulling.LABELS_ONLY)
    assert cells[3:] == ["1.65", "1.50 (1.50–4.00)", "exports", "1.10", "yes", "9", "2.50", "0.4", "150"]
    cells = line_with(markdown(figures), "SQLite", "1,000", pulling.WITH_IMAGES)
    assert cells[6:8] == ["2.00", ""], "the target is for the answers"


@pytest.mark.parametrize(("seconds", "holds"), [(1.15, "yes"), (1.16, "**no**")])
def test_what_misses_its_target_says_so(seconds: float, holds: str) -> None:
    figures = [
        figure("doors", 60_000, "pages", 1.0),
        figure("pull", 60_000, pulling.LABELS_ONLY, seconds),
        figure("push", 200, pushing.BARE, 1.0),
        figure("push", 200, pushing.OURS, seconds, requests=3),
    ]
    text = markdown(figures)
    assert line_with(text, pulling.LABELS_ONLY)[7] == holds
    assert line_with(text, "200")[4] == holds


@pytest.mark.parametrize(("seconds", "requests", "holds"), [(2.0, 5, "yes"), (2.1, 5, "**no**"), (2.0, 6, "**no**")])
def test_an_unchanged_project_has_a_target_and_a_changed_one_has_none(
    seconds: float, requests: int, holds: str
) -> None:
    figures = [
        figure("again", 60_000, pulling.UNCHANGED, seconds, requests=requests, received=900),
        figure("again", 60_000, pulling.CHANGED, 3.0, requests=9, received=900),
    ]
    assert line_with(markdown(figures), pulling.UNCHANGED)[6] == holds
    assert line_with(markdown(figures), pulling.CHANGED)[6] == ""


def test_memory_grows_from_the_least_to_the_most_tasks() -> None:
    def peaks(*values: float) -> list[Figure]:
        sizes = (1000, 10_000, 100_000)
        return [
            figure("pull", size, pulling.WITH_IMAGES, 1.0, peak_mib=value, start_mib=90.0)
            for size, value in zip(sizes, values, strict=True)
        ]

    assert line_with(markdown(peaks(150, 330, 299)), pulling.WITH_IMAGES)[1:] == ["150", "330", "299", "+180", "**no**"]
    assert line_with(markdown(peaks(150, 200, 299)), pulling.WITH_IMAGES)[1:] == ["150", "200", "299", "+149", "yes"]
    assert "## Memory" not in markdown(peaks(150, 200, 299)[:1]), "one size shows no growth"


def test_ingest_is_a_share_of_the_bare_fetch_of_the_same_place() -> None:
    figures = [
        figure("images", 100, f"{place}: {what}", seconds)
        for place, times in {"disk": (1.0, 2.0, 4.0), "S3": (1.0, 1.05, 1.1)}.items()
        for what, seconds in zip((ingest.BARE, ingest.CHECKED, ingest.OURS), times, strict=True)
    ]
    text = markdown(figures)
    assert line_with(text, "disk")[1:] == ["100", "100", "50", "25", "25 %", "**no**", "50 %"]
    assert line_with(text, "S3")[5:] == ["91 %", "yes", "95 %"]


def test_writing_and_reading_are_held_against_parquets_own() -> None:
    names = [tables.BARE_WRITE, tables.ARROW, tables.HASHED, tables.OURS_WRITE]
    names += [tables.BARE_READ, tables.FILES, tables.OURS_READ]
    figures = [figure("tables", 1200, what, 0.1 * number, server="") for number, what in enumerate(names, 1)]
    assert line_with(markdown(figures), tables.OURS_WRITE)[1:] == ["400", "4.00"]
    assert line_with(markdown(figures), tables.OURS_READ)[1:] == ["700", "1.40"]


def test_a_report_says_where_how_and_when_and_leaves_out_what_was_not_measured() -> None:
    noted = "python -m benchmarks.data_plane --tasks 1000"
    text = markdown([figure("doors", 1000, "pages", 2.0, command=noted, load=1.25)])
    assert "Load average of the machine meanwhile: 1.2." in text
    assert "`python -m benchmarks.data_plane --tasks 1000`" in text
    assert f"{MACHINE}; code abc; 2026-11-27 08:00 UTC." in text
    assert [line for line in text.splitlines() if line.startswith("##")] == ["## Which door is the fastest"]


def test_a_second_run_of_a_part_replaces_its_figures_alone(tmp_path: Path) -> None:
    results = RowsFile(tmp_path / "data_plane.parquet", Figure, {})
    for each in (
        figure("push", 200, "push", 2.0),
        figure("doors", 200, "pages", 3.0),
        figure("push", 200, "push", 1.0),
    ):
        results.add(each)
    assert {each.what: each.seconds for each in read_file(results.path, Figure)[0]} == {"push": [1.0], "pages": [3.0]}


def test_a_stored_run_is_shown_again_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = RowsFile(tmp_path / "data_plane.parquet", Figure, {})
    results.add(figure("doors", 1000, "pages of 500, named fields", 2.0, requests=2, received=10))
    assert data_plane.main(["--report", str(results.path)]) == 0
    assert "**2.00**" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "0"], "0 is below 1"),
        (["--parts", "nothing"], "invalid choice: 'nothing'"),
        (["--tasks", "--parts", "pull"], "there is nothing to pull"),
        (["--pictures", "10", "--served", "20"], "--served 20 is more than the 10"),
        (["--report", "nowhere.parquet"], "there is no results file nowhere.parquet"),
        (["--out", "/proc/x/y"], "/proc/x/y.parquet cannot be written"),
        (["--out", "/"], "/ is a folder"),
        (["--threads", "0"], "0 is below 1"),
        (["--device", "cpu"], "unrecognized arguments: --device cpu"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        finish(data_plane.main, arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_the_command_that_is_noted_leaves_out_where_the_results_go() -> None:
    noted = data_plane.command_line(["--tasks", "10", "--out", "some/place", "--parts", "pull"])
    assert noted == "python -m benchmarks.data_plane --tasks 10 --parts pull"


def test_rounds_are_more_where_they_are_cheap() -> None:
    assert [data_plane.rounds_for(size) for size in (1_000, 10_000, 15_000, 60_000, 100_000)] == [9, 6, 4, 1, 1]


def test_slow_ways_are_not_tried_on_large_projects() -> None:
    assert set(doors_for(1000)) == set(DOORS)
    assert set(DOORS) - set(doors_for(60_000)) == set(MOST)


def test_pictures_are_real_and_no_two_alike(tmp_path: Path) -> None:
    make_pictures(tmp_path, 20)
    files = [tmp_path / local_url(number).partition("?d=")[2] for number in range(20)]
    images = [verify_image(file.read_bytes(), ImageConfig()) for file in files]
    assert len({image.sha256 for image in images}) == 20
    assert {(image.format, image.width, image.height) for image in images} == {("PNG", 32, 32)}


def test_questions_have_keys_of_their_own_and_suggest_another_class() -> None:
    asked = questions(50)
    assert len({task.push_key for task in asked}) == 50
    assert all(task.model_label in CLASSES and task.model_label != task.current_label for task in asked)


def test_requests_and_bytes_are_counted_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    class Body(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"12345", b"678")

    monkeypatch.setattr(
        httpx.HTTPTransport, "handle_request", lambda _self, _request: httpx.Response(200, stream=Body())
    )
    wire = CountingTransport()
    with httpx.Client(transport=wire, base_url="http://loopback") as client:
        before = wire.last_answer
        assert client.get("/a").content == b"12345678"
        with client.stream("GET", "/b") as unread:
            assert (wire.requests, wire.received) == (2, 8)
            unread.read()
    assert (wire.requests, wire.received) == (2, 16)
    assert wire.last_answer > before
