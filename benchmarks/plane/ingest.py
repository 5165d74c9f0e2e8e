"""Images by URL into the store, against a fetch of the same URLs by as many threads that keeps nothing.

Between the two lies what every image is put through: decoded as a whole, hashed, written to Parquet. How much of that
is the decoding and the hash alone is measured beside it.
"""

import base64
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import torch

from benchmarks.interleaved import times_in_turns
from benchmarks.plane.figure import Figure
from benchmarks.plane.object_store import BUCKET, object_store
from benchmarks.plane.projects import PICTURES, local_url, picture
from benchmarks.plane.pulling import Tell
from benchmarks.plane.server import Server
from fasten_model.errors import DataError
from pipeline.images import ImageConfig, Images, verify_image
from pipeline.records import ImageRef
from pipeline.s3 import S3Config

BARE, CHECKED, OURS = "bare fetch", "bare fetch, decoded and hashed", "ingest"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where images are."""

    name: str
    urls: Sequence[str]
    fetch: Callable[[str], bytes]
    """The least that gets the bytes."""
    config: ImageConfig


def measure(server: Server, *, small: int, served: int, rounds: int, tell: Tell) -> None:
    """`small` images from disk and `data:` URIs, `served` ones from an S3 API and through Label Studio."""
    limits = httpx.Limits(max_connections=ImageConfig().concurrency)
    with (
        server.bare() as client,
        object_store() as store,
        httpx.Client(base_url=f"{store.endpoint}/", trust_env=False, limits=limits) as bucket,
    ):
        places = [_disk(server, small), _inline(small), _label_studio(client, served)]
        for place in (*places, *_s3(server, store, bucket, served)):
            _measure(server, place, rounds, tell)


def _measure(server: Server, place: Place, rounds: int, tell: Tell) -> None:
    with tempfile.TemporaryDirectory() as name:
        roots = (Path(name) / str(number) for number in count())
        work: dict[str, Callable[[], object]] = {
            BARE: partial(_in_threads, place, place.fetch),
            CHECKED: partial(_in_threads, place, lambda url: verify_image(place.fetch(url), place.config)),
            OURS: lambda: _ingest(server, place, next(roots)),
        }
        times = times_in_turns(work, rounds=rounds, device=torch.device("cpu"), wall=True)
    for what, seconds in times.items():
        tell(
            Figure(
                part="images", server=server.database, size=len(place.urls), what=f"{place.name}: {what}",
                seconds=seconds,
            )
        )  # fmt: skip


def _in_threads(place: Place, fetch: Callable[[str], object]) -> None:
    with ThreadPoolExecutor(place.config.concurrency) as pool:
        for _ in pool.map(fetch, place.urls):
            pass


def _ingest(server: Server, place: Place, root: Path) -> None:
    headers = {"Authorization": f"Token {server.token}"}
    with Images(place.config, root=root, base_url=server.url, authorization=lambda: headers) as images:
        refs = (ImageRef(url=url, task_id=number) for number, url in enumerate(place.urls, 1))
        bad = [found for _, found in images.resolve(refs) if not isinstance(found, str)]
    if bad:
        raise DataError(f"{len(bad)} of {len(place.urls)} images were not taken: {bad[0]}")


def _disk(server: Server, number: int) -> Place:
    def fetch(url: str) -> bytes:
        return (server.files / url.partition("?d=")[2]).read_bytes()

    return Place(
        name="local files on disk",
        urls=[local_url(each) for each in range(number)],
        fetch=fetch,
        config=ImageConfig(local_files_root=server.files),
    )


def _label_studio(client: httpx.Client, number: int) -> Place:
    def fetch(url: str) -> bytes:
        return client.get(url).raise_for_status().content

    return Place(
        name="local files through Label Studio",
        urls=[local_url(each) for each in range(number)],
        fetch=fetch,
        config=ImageConfig(),
    )


def _s3(server: Server, store: S3Config, client: httpx.Client, number: int) -> list[Place]:
    """Against pyarrow's own reading, which asks for each object's size first, and against a plain GET.

    The plain one sends no credentials: moto asks for none, and to compute signatures is no fetching.
    """
    files = store.filesystem()
    urls = [f"s3://{BUCKET}/{each:06d}.png" for each in range(number)]
    for url in urls:
        with files.open_output_stream(url.removeprefix("s3://")) as stream:
            stream.write((server.files / PICTURES / url.rpartition("/")[2]).read_bytes())

    def read(url: str) -> bytes:
        with files.open_input_stream(url.removeprefix("s3://")) as stream:
            return bytes(stream.read())

    def get(url: str) -> bytes:
        return client.get(url.removeprefix("s3://")).raise_for_status().content

    config = ImageConfig(allowed_buckets=(BUCKET,), s3=store)
    return [
        Place(name="S3 (moto), bare by pyarrow", urls=urls, fetch=read, config=config),
        Place(name="S3 (moto), bare by unsigned GETs", urls=urls, fetch=get, config=config),
    ]


def _inline(number: int) -> Place:
    random = np.random.default_rng(1)
    head = "data:image/png;base64,"
    return Place(
        name="data URIs in the tasks",
        urls=[head + base64.b64encode(picture(random)).decode() for _ in range(number)],
        fetch=lambda url: base64.b64decode(url[len(head) :]),
        config=ImageConfig(),
    )
