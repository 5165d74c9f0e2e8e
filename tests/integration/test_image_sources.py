"""Images from where teams keep them: Label Studio's uploads and local files, and buckets, on the real servers.

The bucket is moto's S3 API on loopback. Label Studio runs without its own guard against loopback storages.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from label_studio_sdk import LabelStudio as Sdk
from PIL import Image
from pyarrow.fs import S3FileSystem
from pydantic import SecretStr

from pipeline.errors import ConfigError, ServiceError
from pipeline.images import ImageConfig, ImageError, Images
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.records import ImageRef
from pipeline.s3 import S3Config
from pipeline.stack import health, services
from pipeline.stack.foreground import running
from pipeline.stack.install import LabelStudioInstall, copy_template
from tests.integration.conftest import LabelStudioServer

TOKEN = "5" * 40
ACCESS_KEY, SECRET_KEY = "AKIAOURS", "hunter2hunter2"
CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="label" toName="image"><Choice value="a"/></Choices></View>"""


def picture(shade: int) -> bytes:
    file = BytesIO()
    Image.new("L", (8, 8), shade).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _credentials() -> Iterator[None]:
    """The standard AWS environment, with nothing of the shell's."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(variable)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectStore:
    """A real S3 API on loopback, with two buckets."""

    url: str
    files: S3FileSystem

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def config(self) -> S3Config:
        return S3Config(endpoint=self.url, region="us-east-1")

    def put(self, path: str, content: bytes) -> str:
        with self.files.open_output_stream(path) as stream:
            stream.write(content)
        return f"s3://{path}"

    def refuse_after(self, requests: int) -> None:
        """From then on moto checks credentials, of which it knows none."""
        with httpx.Client(trust_env=False) as client:
            client.post(f"{self.url}/moto-api/reset-auth", content=str(requests)).raise_for_status()


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    url = f"http://127.0.0.1:{(port := health.free_port())}"
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:

        def answers() -> str | None:
            try:
                httpx.get(f"{url}/moto-api/", trust_env=False)
            except httpx.TransportError as error:
                return str(error)
            return None

        complaint = health.wait_until(answers, timeout_s=60, alive=lambda: process.poll() is None)
        assert complaint is None, f"{complaint}: {log.read_text()[-2000:]}"
        files = S3FileSystem(
            scheme="http", endpoint_override=f"127.0.0.1:{port}", region="us-east-1", allow_bucket_creation=True
        )
        files.create_dir("pictures")
        files.create_dir("private")
        yield ObjectStore(url=url, files=files)
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def near_buckets(
    label_studio_install: LabelStudioInstall, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelStudioServer]:
    """A Label Studio that may reach storages on loopback."""
    folder = tmp_path_factory.mktemp("label-studio")
    copy_template(label_studio_install, folder / "data")
    (folder / "data" / "files").mkdir()
    login = services.LabelStudioLogin(
        username=services.USERNAME, password=SecretStr("reviewed-by-tests"), token=SecretStr(TOKEN)
    )
    service = services.label_studio(
        label_studio_install, data_dir=folder / "data", port=health.free_port(), login=login
    )
    unguarded = {**service.environment, "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "false"}
    with running(replace(service, environment=unguarded), log=folder / "log"):
        yield LabelStudioServer(
            url=service.endpoint.url,
            token=TOKEN,
            username=login.username,
            password="reviewed-by-tests",
            data_dir=folder / "data",
        )


class Team:
    """One project of a Label Studio, and what a pull makes of its images."""

    def __init__(self, server: LabelStudioServer, root: Path, opened: ExitStack) -> None:
        self.server = server
        self.root = root
        config = LabelStudioConfig(url=server.url, token=SecretStr(server.token), read_attempts=1)
        self.door = opened.enter_context(LabelStudio(config))
        client = opened.enter_context(httpx.Client(timeout=60, trust_env=False))
        sdk = Sdk(base_url=server.url, api_key=server.token, httpx_client=client)  # type: ignore[no-untyped-call]
        self.sdk = cast(Any, sdk)
        self.project_id = int(self.sdk.projects.create(title="pictures", label_config=CONFIG).id)

    def show(self, *urls: str) -> list[ImageRef]:
        """A task for each, in their order."""
        project = self.project_id
        self.door.import_tasks(project, [{"data": {"image": url}} for url in urls])
        tasks = sorted(self.sdk.tasks.list(project=project, resolve_uri=False), key=lambda task: task.id)
        return [ImageRef(url=url, task_id=task.id) for url, task in zip(urls, tasks[-len(urls) :], strict=True)]

    def resolve(self, refs: list[ImageRef], **config: Any) -> dict[str, str | ImageError]:
        values: dict[str, Any] = {"retries": 1, "retry_wait_s": 0.01, "timeout_s": 20.0} | config
        door, config_ = self.door, ImageConfig(**values)
        with Images(config_, root=self.root, base_url=door.url, authorization=door.authorization) as images:
            return dict(images.resolve(refs))

    def bytes_of(self, refs: list[ImageRef], **config: Any) -> list[bytes]:
        """The images of `refs`, all of which must be good."""
        found = self.resolve(refs, **config)
        door = self.door
        with Images(ImageConfig(), root=self.root, base_url=door.url, authorization=door.authorization) as images:
            stored = dict(images.store.iter_images(str(sha256) for sha256 in found.values()))
        return [stored[str(found[ref.url])] for ref in refs]


@pytest.fixture
def team(near_buckets: LabelStudioServer, tmp_path: Path) -> Iterator[Team]:
    with ExitStack() as opened:
        yield Team(near_buckets, tmp_path, opened)


def reasons(found: dict[str, str | ImageError]) -> dict[str, str]:
    return {url: image.reason for url, image in found.items() if isinstance(image, ImageError)}


# Label Studio's own ------------------------------------------------------------------------------------------------


def test_uploads_local_files_and_inline_images_come_alike(team: Team, near_buckets: LabelStudioServer) -> None:
    folder = near_buckets.data_dir / "files" / "set one"
    folder.mkdir(exist_ok=True)
    (folder / "ü+1.png").write_bytes(picture(1))
    team.sdk.import_storage.local.create(project=team.project_id, path=str(folder), use_blob_urls=True)
    uploaded = team.door.upload_images(team.project_id, {"two.png": picture(2)})["two.png"]
    local = "/data/local-files/?d=set%20one/%C3%BC%2B1.png"
    inline = "data:image/png;base64,iVBORw0KGgo="
    refs = team.show(local, uploaded, inline)
    assert team.bytes_of(refs[:2]) == [picture(1), picture(2)]
    assert reasons(team.resolve(refs)) == {inline: "image does not decode"}


def test_local_files_are_the_same_from_disk_as_through_the_server(team: Team, near_buckets: LabelStudioServer) -> None:
    files = near_buckets.data_dir / "files"
    (files / "both").mkdir()
    (files / "both" / "a b.png").write_bytes(picture(3))
    team.sdk.import_storage.local.create(project=team.project_id, path=str(files / "both"), use_blob_urls=True)
    refs = team.show("/data/local-files/?d=both/a%20b.png", "/data/local-files/?d=both%2Fa+b.png")
    from_server = team.resolve(refs)
    team.root = team.root / "other"
    assert team.resolve(refs, local_files_root=files) == from_server
    assert not reasons(from_server)


# Buckets -----------------------------------------------------------------------------------------------------------


def test_a_bucket_of_ours_is_read_without_label_studio(team: Team, object_store: ObjectStore) -> None:
    keys = ["a.png", "deep/er/ü ~+?#%41.png"]
    refs = [ImageRef(url=object_store.put(f"pictures/{key}", picture(10 + n)), task_id=0) for n, key in enumerate(keys)]
    config = {"allowed_buckets": ("pictures",), "s3": object_store.config}
    assert team.bytes_of(refs, **config) == [picture(10), picture(11)]
    # What was fetched once is not fetched again, whoever could.
    assert team.bytes_of(refs) == [picture(10), picture(11)]


def test_what_is_wrong_in_a_bucket_is_counted(team: Team, object_store: ObjectStore) -> None:
    good = object_store.put("pictures/mine/good.png", picture(20))
    large = object_store.put("pictures/mine/large.png", bytes(5000))
    text = object_store.put("pictures/mine/text.png", b"no image")
    urls = [good, large, text, "s3://pictures/mine/gone.png", "s3://pictures/mine/../../private/a.png"]
    object_store.put("private/a.png", picture(21))
    found = team.resolve(
        [ImageRef(url=url, task_id=0) for url in urls],
        allowed_buckets=("pictures/mine",),
        s3=object_store.config,
        max_bytes=4000,
    )
    assert reasons(found) == {
        large: "image has too many bytes",
        text: "image does not decode",
        "s3://pictures/mine/gone.png": "image is not in its bucket",
        "s3://pictures/mine/../../private/a.png": "image URL is malformed",
    }
    assert not any(image.passing for image in found.values() if isinstance(image, ImageError))


def test_a_bucket_that_does_not_exist_is_one_line(team: Team, object_store: ObjectStore) -> None:
    with pytest.raises(ConfigError, match=r"no bucket 'mistyped' at http://.*FASTEN_ALLOWED_IMAGE_BUCKETS"):
        team.resolve(
            [ImageRef(url="s3://mistyped/a.png", task_id=0)], allowed_buckets=("mistyped",), s3=object_store.config
        )


def test_credentials_that_open_nothing_are_one_line(team: Team, object_store: ObjectStore) -> None:
    refs = [ImageRef(url=object_store.put(f"private/{n}.png", picture(n)), task_id=0) for n in range(12)]
    config: dict[str, Any] = {"allowed_buckets": ("private",), "s3": object_store.config}
    object_store.refuse_after(0)
    try:
        few = team.resolve(refs[:3], **config)
        with pytest.raises(ServiceError, match=r"lets nobody read bucket 'private'.*AWS_ACCESS_KEY_ID") as caught:
            team.resolve(refs, **config)
    finally:
        object_store.refuse_after(10**9)
    assert set(reasons(few).values()) == {"image may not be read from its bucket"}
    assert SECRET_KEY not in f"{caught.value} {few}"
    assert ACCESS_KEY not in f"{caught.value} {few}"
    assert not reasons(team.resolve(refs, **config))


# Buckets that only Label Studio can read ---------------------------------------------------------------------------


def storage(team: Team, object_store: ObjectStore, *, presign: bool) -> None:
    team.sdk.import_storage.s3.create(
        project=team.project_id,
        bucket="pictures",
        s3endpoint=object_store.url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        use_blob_urls=True,
        presign=presign,
    )


def test_other_buckets_come_through_label_studio(team: Team, object_store: ObjectStore) -> None:
    storage(team, object_store, presign=False)
    good = object_store.put("pictures/through/ü ~+.png", picture(30))
    refs = team.show(good, "s3://pictures/through/gone.png", "s3://elsewhere/a.png", "gs://pictures/a.png")
    found = team.resolve(refs)
    assert team.bytes_of(refs[:1]) == [picture(30)]
    assert reasons(found) == {
        "s3://pictures/through/gone.png": "image host answered 424",
        "s3://elsewhere/a.png": "image host answered 404",
        "gs://pictures/a.png": "image host answered 404",
    }


def test_a_presigned_address_is_followed_where_its_host_is_allowed(
    team: Team, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    storage(team, object_store, presign=True)
    refs = team.show(object_store.put("pictures/signed.png", picture(31)))
    caplog.set_level("INFO")
    (refused,) = team.resolve(refs).values()
    assert isinstance(refused, ImageError)
    assert refused.reason == "image host is not allowed"
    assert object_store.host in str(refused)
    assert team.bytes_of(refs, allowed_hosts=(object_store.host,)) == [picture(31)]
    for secret in (TOKEN, SECRET_KEY, "Signature"):
        assert secret not in f"{caplog.text} {refused}"
