"""What is wrong in a setting, a project or a server ends a round with one clear line; one bad sample ends nothing."""

import base64
import io
import itertools
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ServiceUnavailable
from pipeline.label_studio import LabelStudio, MissingProjectError
from pipeline.orchestrator import run_in_process
from pipeline.review_screen import review_config
from pipeline.snapshot import open_snapshot
from pipeline.stack import health

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from tests.integration.conftest import Loop, NewLoop

CLASSES = ("dark", "bright")
_numbers = itertools.count(1)
_pixels = np.random.default_rng(0)


def config(*classes: str) -> str:
    choices = "".join(f'<Choice value="{name}"/>' for name in classes)
    image = '<Image name="image" value="$image"/>'
    return f'<View>{image}<Choices name="label" toName="image">{choices}</Choices></View>'


def square(label: str) -> str:
    """The data: URI of a PNG that is dark or bright, and like no other."""
    pixels = _pixels.integers(0, 60, (16, 16, 3)) + (190 if label == "bright" else 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def answer(label: str, *, ground_truth: bool = False) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"result": [region], "ground_truth": ground_truth, "completed_by": 1}


def labelled(*labels: str, image: str = "") -> list[dict[str, Any]]:
    return [{"data": {"image": image or square(label)}, "annotations": [answer(label)]} for label in labels]


def audited(*labels: str) -> list[dict[str, Any]]:
    return [
        {"data": {"image": square(label)}, "annotations": [answer(label), answer(label, ground_truth=True)]}
        for label in labels
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Makes projects, whatever is wrong with them, and loops over them."""

    door: LabelStudio
    new_loop: "NewLoop"

    def project(self, label_config: str, tasks: Sequence[dict[str, Any]] = (), *, title: str = "") -> str:
        """The id of a new project, which our own door might refuse to make."""
        raw = httpx.post(
            f"{self.door.url}/api/projects/",
            headers=self.door.authorization(),
            json={"title": title or f"bad input {next(_numbers)}", "label_config": label_config},
        )
        project_id = int(raw.raise_for_status().json()["id"])
        self.door.import_tasks(project_id, tasks)
        return str(project_id)

    def loop(self, **settings: str) -> "Loop":
        return self.new_loop(f"bad input {next(_numbers)}", **settings)


@pytest.fixture(scope="module")
def bench(door: LabelStudio, new_loop: "NewLoop") -> Bench:
    return Bench(door=door, new_loop=new_loop)


@pytest.fixture(scope="module")
def usable(bench: Bench) -> str:
    """The id of a labels project without fault, with a title to mistype."""
    return bench.project(config(*CLASSES), [*labelled(*CLASSES), *audited(*CLASSES)], title="a loop, labels")


@pytest.fixture
def told() -> Iterator[list[logging.LogRecord]]:
    """Everything that a round says through its loggers, Prefect's included."""
    records: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keeper = Keeper()
    loggers = [logging.getLogger(name) for name in ("pipeline", "prefect.flow_runs", "prefect.task_runs")]
    for logger in loggers:
        logger.addHandler(keeper)
    yield records
    for logger in loggers:
        logger.removeHandler(keeper)


def check_one_line(state: "State[Any]", told: list[logging.LogRecord], loop: "Loop", says: Sequence[str]) -> None:
    assert state.is_failed()
    line = str(state.message)
    assert "\n" not in line
    assert not [word for word in says if word not in line], line
    token = loop.environment.get("FASTEN_LABEL_STUDIO_TOKEN")
    assert not token or token not in line
    assert [record.getMessage() for record in told if record.name == "pipeline.flow"] == [line]
    tracebacks = [record.exc_info for record in told if record.exc_info and record.exc_info[0]]
    assert not tracebacks


def check_nothing_was_begun(loop: "Loop", door: LabelStudio) -> None:
    assert not [name for name in loop.files() if "/images/" not in name]
    check_nothing_was_learnt(loop, door)


def check_nothing_was_learnt(loop: "Loop", door: LabelStudio) -> None:
    assert not [name for name in loop.files() if "/runs/" in name]
    assert all(run.info.status == "FAILED" for run in loop.runs())
    assert loop.versions() == {}
    with pytest.raises(MissingProjectError):
        door.find_project(loop.review_title)


def no_pauses(patch: pytest.MonkeyPatch) -> None:
    """Retries as many as ever, without the wait between them."""
    from flows import retrain

    for name in ("survey", "train"):
        patch.setattr(retrain, name, getattr(retrain, name).with_options(retry_delay_seconds=0))


# What the servers and the settings may lack --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"LABEL_STUDIO_URL": ""}, ["no Label Studio is set", "fasten up", "FASTEN_LABEL_STUDIO_URL"]),
        ({"LABEL_STUDIO_TOKEN": ""}, ["no token for Label Studio", "set FASTEN_LABEL_STUDIO_TOKEN"]),
        ({"LABEL_STUDIO_TOKEN": "f" * 40}, ["did not accept the token", "set FASTEN_LABEL_STUDIO_TOKEN"]),
        ({"LABELS_PROJECT": ""}, ["no labels project is set", "FASTEN_LABELS_PROJECT"]),
        ({"LABELS_PROJECT": "a loop, labls"}, ["'a loop, labls'", "near: 'a loop, labels'", "FASTEN_LABELS_PROJECT"]),
        ({"AUDIT_PROJECT": "999999"}, ["no project 999999", "FASTEN_AUDIT_PROJECT"]),
        ({"REVIEW_PROJECT": "999999"}, ["no project 999999"]),
        ({"RHO": "high"}, ["FASTEN_RHO", "number"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_that_is_missing_or_wrong(
    bench: Bench, usable: str, told: list[logging.LogRecord], settings: dict[str, str], says: list[str]
) -> None:
    loop = bench.loop(**{"LABELS_PROJECT": usable} | settings)
    check_one_line(loop.run(), told, loop, says)
    assert loop.files() == set()
    check_nothing_was_begun(loop, bench.door)


def test_label_studio_is_down(bench: Bench, told: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    no_pauses(monkeypatch)
    nowhere = f"http://127.0.0.1:{health.free_port()}"
    loop = bench.loop(LABEL_STUDIO_URL=nowhere, LABELS_PROJECT="1")
    state = loop.run()
    check_one_line(state, told, loop, [nowhere, "cannot be reached", "fasten status", "FASTEN_LABEL_STUDIO_URL"])
    assert sum("Retry 3/3" in record.getMessage() for record in told) == 1
    check_nothing_was_begun(loop, bench.door)


def test_mlflow_is_down(
    bench: Bench, usable: str, told: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_pauses(monkeypatch)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = f"http://127.0.0.1:{health.free_port()}"
    loop = bench.loop(MLFLOW_TRACKING_URI=nowhere, LABELS_PROJECT=usable)
    state = loop.run()
    check_one_line(state, told, loop, [nowhere, "connection refused", "FASTEN_MLFLOW_TRACKING_URI"])
    check_nothing_was_learnt(loop, bench.door)


def test_prefect_is_down() -> None:
    nowhere = f"http://127.0.0.1:{health.free_port()}/api"
    with pytest.raises(ServiceUnavailable, match="FASTEN_PREFECT_API_URL") as caught:
        run_in_process({}, api_url=nowhere)
    assert nowhere in str(caught.value)


# What may be wrong with projects -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label_config", "says"),
    [
        (
            '<View><Image name="image" value="$image"/><TextArea name="words" toName="image"/></View>',
            ["no Choices control", "found: TextArea 'words'", "add <Choices>"],
        ),
        (config("dark"), ["has 1 class(es) (found: dark)", "at least two needed"]),
        (
            config(*CLASSES).replace(
                "</View>", '<Choices name="b" toName="image"><Choice value="x"/></Choices></View>'
            ),
            ["several Choices controls", "label, b", "FASTEN_LABEL_CONTROL"],
        ),
    ],
    ids=["no choices", "a single class", "two controls"],
)
def test_a_labels_project_that_cannot_be_read(
    bench: Bench, told: list[logging.LogRecord], label_config: str, says: list[str]
) -> None:
    project = bench.project(label_config)
    loop = bench.loop(LABELS_PROJECT=project)
    check_one_line(loop.run(), told, loop, [f"project {project} ", *says])
    check_nothing_was_begun(loop, bench.door)


@pytest.mark.parametrize("role", ["audit", "review"])
def test_projects_whose_classes_differ(bench: Bench, usable: str, told: list[logging.LogRecord], role: str) -> None:
    others = ("dark", "dusk")
    other = bench.project(review_config(others) if role == "review" else config(*others))
    loop = bench.loop(LABELS_PROJECT=usable, **{f"{role.upper()}_PROJECT": other})
    says = [f"{role} project {other} ", f"labels project {usable} ", "lacks 'bright'", "has besides 'dusk'", "mend"]
    check_one_line(loop.run(), told, loop, says)
    assert not [name for name in loop.files() if "/images/" not in name]
    assert loop.runs() == []


def test_one_project_in_two_roles(bench: Bench, usable: str, told: list[logging.LogRecord]) -> None:
    loop = bench.loop(LABELS_PROJECT=usable, AUDIT_PROJECT=usable)
    check_one_line(loop.run(), told, loop, [f"project {usable} ", "labels and the audit", "FASTEN_AUDIT_PROJECT"])
    check_nothing_was_begun(loop, bench.door)


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        (labelled(*CLASSES, *CLASSES), ["the clean set is empty", "audit some", "FASTEN_AUDIT_PROJECT"]),
        ([*labelled(*CLASSES), *audited("dark", "dark")], ["no audited sample of class “bright”", "at least one"]),
        (audited(*CLASSES), ["no bulk label", "label some tasks"]),
        ([], ["no bulk label", "label some tasks"]),
    ],
    ids=["empty clean set", "class without a clean sample", "nothing but audits", "an empty project"],
)
def test_labels_that_nothing_can_be_learnt_from(
    bench: Bench, told: list[logging.LogRecord], tasks: list[dict[str, Any]], says: list[str]
) -> None:
    loop = bench.loop(LABELS_PROJECT=bench.project(config(*CLASSES), tasks))
    check_one_line(loop.run(), told, loop, says)
    [snapshots] = loop.data_folder.glob("*/snapshots")
    [snapshot] = [open_snapshot(path) for path in snapshots.iterdir()]
    assert snapshot.manifest.rows["noisy"] + snapshot.manifest.rows["clean"] == len(tasks)
    assert loop.runs() == []
    check_nothing_was_learnt(loop, bench.door)


# One bad sample of many ----------------------------------------------------------------------------------------------


def test_a_bad_sample_is_counted_reported_and_left_out(bench: Bench, told: list[logging.LogRecord]) -> None:
    text = base64.b64encode(b"this is no picture").decode()
    bad = [
        *labelled("dusk"),
        *labelled("dark", image="/data/local-files/?d=nobody/put/it/there.png"),
        *labelled("dark", image=f"data:image/png;base64,{text}"),
        *labelled("dark", image="http://203.0.113.7/far/away.png"),
    ]
    good = [*labelled(*CLASSES * 10), *audited(*CLASSES * 4)]
    loop = bench.loop(LABELS_PROJECT=bench.project(config(*CLASSES), [*good, *bad]))
    state = loop.run()
    assert state.name == "Completed", state.message
    [snapshots] = loop.data_folder.glob("*/snapshots")
    [snapshot] = [open_snapshot(path) for path in snapshots.iterdir()]
    assert snapshot.manifest.rows == {"labels": 20 + 2 * 8 + len(bad), "noisy": 20, "clean": 8, "undecided": 0}
    assert snapshot.manifest.rejected == {
        "annotation names an unknown class": 1,
        "image host answered 404": 1,
        "image does not decode": 1,
        "image host is not allowed": 1,
    }
    [report] = loop.data_folder.glob("*/runs/*/report.md")
    left_out = [line for line in report.read_text().splitlines() if "Left out" in line]
    warnings = [record.getMessage() for record in told if record.levelno == logging.WARNING]
    for reason in snapshot.manifest.rejected:
        assert f"{reason}: 1" in left_out[0]
        assert [line for line in warnings if f"1 × {reason}" in line]


# The command line ----------------------------------------------------------------------------------------------------


def test_the_command_ends_with_one_line_and_exit_code_1(bench: Bench) -> None:
    loop = bench.loop(LABEL_STUDIO_TOKEN="f" * 40, LABELS_PROJECT="1")
    with loop.configured():
        done = subprocess.run(
            [sys.executable, "-c", "from pipeline.cli import main; main()", "retrain"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    [complaint] = [line for line in done.stderr.splitlines() if line.startswith("fasten: ")]
    assert complaint.startswith("fasten: error: Label Studio at ")
    assert complaint.endswith("set FASTEN_LABEL_STUDIO_TOKEN to the access token of a user who may")
    assert done.stderr.splitlines()[-1] == complaint
