"""An image that could not be had is asked for again: not at every pull, and not never."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from pipeline.images import ImageConfig, Images
from pipeline.records import Annotation, LabelControl, Project, Task
from pipeline.snapshot.pull import PullResult, pull
from tests.pipeline.snapshot.task_source import TaskSource

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
LABELS = Project(project_id=1, title="labels", control=CONTROL)
URL = "/data/upload/1/late.png"


class OneTask(TaskSource):
    """A labels project whose only task shows `URL`."""

    def tasks_of(self, project: Project) -> Sequence[Task]:
        said = Annotation(
            annotation_id=1, annotator="user:1", kind="class", label="cat", ground_truth=False, was_cancelled=False,
            lead_time_s=1.0, created_at=NOON, updated_at=NOON,
        )  # fmt: skip
        return [Task(task_id=1, project_id=project.project_id, data={"image": URL}, annotations=(said,))]


class Host:
    """Answers with `status`, and with a picture where that is 200."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.status = 404
        self.asked = Counter[str]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked[request.url.path] += 1
        file = BytesIO()
        Image.new("L", (2, 2), 7).save(file, "PNG")
        return httpx.Response(self.status, stream=httpx.ByteStream(file.getvalue() if self.status == 200 else b""))

    def pull(self, hours: float) -> tuple[PullResult, int]:
        """What a pull at that hour makes, and how often it asked."""
        before, transport = self.asked[URL], httpx.MockTransport(self)
        config = ImageConfig(retries=0)
        with Images(config, root=self._root, base_url="http://host", authorization=dict, transport=transport) as images:
            result = pull(OneTask(), images, labels=LABELS, data_dir=self._root, now=NOON + timedelta(hours=hours))
        return result, self.asked[URL] - before


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("status", [403, 404])
def test_one_that_is_not_there_is_asked_for_once_a_day_and_taken_when_it_is(host: Host, status: int) -> None:
    host.status = status
    assert [host.pull(hours)[1] for hours in (0, 1, 23, 24.5, 25, 47)] == [1, 0, 0, 1, 0, 0]
    host.status = 200
    result, asked = host.pull(49)
    assert (asked, result.is_new, result.report.samples["noisy"]) == (1, True, 1)
    assert host.pull(80)[1] == 0


def test_one_whose_server_fails_is_asked_for_at_every_pull_of_a_day_and_daily_afterwards(host: Host) -> None:
    host.status = 500  # also Label Studio's word for an uploaded file that is gone
    pulls = [host.pull(hours) for hours in (0, 1, 23, 24.5, 25, 47, 49)]
    assert [asked for _, asked in pulls] == [1, 1, 1, 1, 0, 0, 1]
    # Where nothing may pass, an unchanged project need not be looked at again (`TaskSource` tells no task's time: 1).
    assert [result.report.unsettled - 1 for result, _ in pulls] == [1, 1, 1, 0, 0, 0, 0]
    assert not any(result.is_new for result, _ in pulls[1:])


def test_a_pull_that_dies_while_it_asks_again_leaves_that_to_the_next(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    host.pull(0)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.images.ingest.Images.resolve", kill)
        with pytest.raises(KilledError):
            host.pull(25)
    assert host.pull(26)[1] == 1
