"""An image that could not be had is asked for again: not at every pull, and not never."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from pipeline.images import ImageConfig, Images
from pipeline.records import Annotation, LabelControl, Project, Task
from pipeline.snapshot.pull import PullResult, pull
from tests.pipeline.snapshot.pulling import Server, says
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
    host.pull(0)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.images.ingest.Images.resolve", _killed)
        with pytest.raises(KeyboardInterrupt):
            host.pull(25)
    assert host.pull(26)[1] == 1


class TwoHosts:
    """`good` gives a picture of every address, `dead` is silent and `sick` answers as a server that is down does."""

    def __init__(self, root: Path, server: Server) -> None:
        self._root, self._server = root, server
        self.down = {"dead", "sick"}
        self.asked = Counter[str]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked[request.url.host] += 1
        if request.url.host in self.down:
            if request.url.host == "dead":
                raise httpx.ConnectError("nobody there")
            return httpx.Response(503)
        file = BytesIO()
        Image.new("L", (2, 2), int(request.url.path[1:])).save(file, "PNG")
        return httpx.Response(200, stream=httpx.ByteStream(file.getvalue()))

    def pull(self, hours: float = 0, **settings: Any) -> PullResult:
        self.asked.clear()
        values: dict[str, Any] = {"retries": 0, "concurrency": 1, "allowed_hosts": ("good", "dead", "sick")} | settings
        config = ImageConfig(**values)
        transport = httpx.MockTransport(self)
        with Images(config, root=self._root, base_url="http://ls", authorization=dict, transport=transport) as images:
            at = NOON + timedelta(hours=hours)
            return pull(self._server, images, labels=LABELS, data_dir=self._root, now=at)


@pytest.fixture
def hosts(server: Server, tmp_path: Path) -> TwoHosts:
    """A project with forty images on a host that answers, and twenty and five on two that do not."""
    for host, numbers in (("good", range(40)), ("dead", range(50, 70)), ("sick", range(70, 75))):
        for number in numbers:
            server.add(LABELS, says("cat"), image=f"http://{host}/{number}", sample=f"{host} {number}")
    return TwoHosts(tmp_path, server)


def test_a_host_that_is_gone_for_good_costs_its_own_images_and_no_pull(
    hosts: TwoHosts, caplog: pytest.LogCaptureFixture
) -> None:
    assert hosts.pull().report.samples["noisy"] == 40
    for hours in (1, 23, 24.5, 25, 49):
        result = hosts.pull(hours)
        assert result.report.samples["noisy"] == 40
        assert result.report.rejected == {"image host does not answer": 25}
    assert "the others from there are left for another time" in caplog.text
    assert hosts.asked["good"] == 0


def test_a_host_that_is_silent_is_left_alone_and_the_others_are_asked(hosts: TwoHosts) -> None:
    hosts.pull()
    hosts.pull(1)
    assert 10 <= hosts.asked["dead"] <= 12, "what was under way when the tenth failed"
    assert hosts.asked["sick"] == 5
    hosts.down = {"dead"}
    assert hosts.pull(2).report.samples["noisy"] == 45
    hosts.pull(25)
    hosts.pull(26)
    assert hosts.asked["dead"] == 0, "after a day all of its images are asked for once a day, those left alone too"
    hosts.down = set()
    assert hosts.pull(50).report.samples["noisy"] == 65


def test_a_killed_pull_asks_no_sooner_for_what_fails(hosts: TwoHosts, server: Server) -> None:
    hosts.pull()
    server.add(LABELS, says("cat"), image="http://good/41", sample="another")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.images.store.ImageStore.flush", _killed)
        patch.setattr("pipeline.images.store.ImageStore.flush_if_old", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            hosts.pull(1)
    assert hosts.pull(2).report.samples["noisy"] == 41


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_where_a_setting_is_another_what_was_refused_is_asked_for_at_once(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat"), image="http://good/1", sample="s1")
    hosts = TwoHosts(tmp_path, server)
    result = hosts.pull(allowed_hosts=())
    assert result.report.rejected == {"image host is not allowed": 1}
    assert "add it to FASTEN_ALLOWED_IMAGE_HOSTS" in result.report.examples["image host is not allowed"][0]
    assert hosts.pull(0.1, max_bytes=10).report.rejected == {"image has too many bytes": 1}
    assert hosts.pull(0.2, max_bytes=10).report.rejected == {"image has too many bytes": 1}
    assert hosts.asked["good"] == 0, "nothing is another: once a day"
    assert hosts.pull(0.3).report.samples["noisy"] == 1


def test_a_pull_that_dies_with_another_setting_leaves_asking_to_the_next(server: Server, tmp_path: Path) -> None:
    server.add(LABELS, says("cat"), image="http://good/1", sample="s1")
    hosts = TwoHosts(tmp_path, server)
    hosts.pull(allowed_hosts=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.images.ingest.Images.resolve", _killed)
        with pytest.raises(KeyboardInterrupt):
            hosts.pull(0.1)
    assert hosts.pull(0.2).report.samples["noisy"] == 1
