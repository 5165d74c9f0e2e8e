"""A real S3 API on loopback for one run: moto's server in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
from pyarrow.fs import S3FileSystem

from fasten_model.errors import DataError
from pipeline.s3 import S3Config
from pipeline.stack import health
from pipeline.stack.services import LOOPBACK

BUCKET = "pictures"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def object_store() -> Iterator[S3Config]:
    """A store with an empty `BUCKET`, while the environment has credentials for it and no others of AWS."""
    config = S3Config(endpoint=f"http://{LOOPBACK}:{(port := health.free_port())}", region="us-east-1")
    command = [sys.executable, "-m", "moto.server", "--host", LOOPBACK, "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        complaint = health.wait_until(
            lambda: _ask(str(config.endpoint)), timeout_s=60, alive=lambda: process.poll() is None
        )
        if complaint is not None:
            raise DataError(f"the S3 API did not start ({complaint}); is the package moto[server] installed?")
        with _environment(_CREDENTIALS):
            buckets = S3FileSystem(
                scheme="http", endpoint_override=f"{LOOPBACK}:{port}", region="us-east-1", allow_bucket_creation=True
            )
            buckets.create_dir(BUCKET)
            yield config
    finally:
        process.terminate()
        process.wait(timeout=20)


def _ask(url: str) -> str | None:
    try:
        httpx.get(f"{url}/moto-api/", trust_env=False)
    except httpx.TransportError as error:
        return str(error)
    return None


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(before)
