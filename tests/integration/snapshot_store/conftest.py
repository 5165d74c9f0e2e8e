"""A real S3 API (moto's server on loopback) with a bucket for each test."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from pipeline.stack import health
from tests.integration.snapshot_store.shared import (
    KEY_ID,
    SECRET,
    Bucket,
)


@pytest.fixture(scope="module", autouse=True)
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith(("AWS_", "FASTEN_"))]:
            patch.delenv(variable)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto's server, a process of its own."""
    url = f"http://127.0.0.1:{(port := health.free_port())}"
    log = tmp_path_factory.mktemp("moto") / "log"

    def well() -> str | None:
        try:
            return None if httpx.get(f"{url}/moto-api/data.json", trust_env=False).is_success else "not well"
        except httpx.HTTPError as error:
            return type(error).__name__

    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        )
    try:
        complaint = health.wait_until(well, timeout_s=60, alive=lambda: process.poll() is None)
        assert complaint is None, f"{complaint}: {log.read_text()[-2000:]}"
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> Bucket:
    name = f"bucket-{hashlib.sha256(request.node.name.encode()).hexdigest()[:20]}"
    httpx.put(f"{endpoint}/{name}").raise_for_status()
    return Bucket(name=name, endpoint=endpoint)
