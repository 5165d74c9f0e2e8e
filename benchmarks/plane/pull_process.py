"""One pull in a process of its own, so that the memory at its peak is the pull's: told by JSON, answers with JSON.

Nothing here imports torch or the rest of the harness. The token comes in the environment.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas  # type: ignore[import-untyped]  # noqa: F401  (pyarrow does, with the first list that it converts)
from pydantic import SecretStr

from benchmarks.plane.wire import CountingTransport
from pipeline.images import ImageConfig, ImageError, Images
from pipeline.label_studio import LabelStudio, LabelStudioConfig
from pipeline.records import ImageRef
from pipeline.snapshot.pull import pull

TOKEN = "DATA_PLANE_TOKEN"  # noqa: S105


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """What one pull took and gave."""

    seconds: float
    """From the first look at the project to the snapshot in its place."""
    tail_s: float
    requests: int
    received: int
    peak_mib: float
    start_mib: float
    images: int
    """Image addresses that the store was asked for."""
    is_new: bool
    samples: int
    rejected: int
    snapshot: str
    """Its folder."""


class _CountedImages(Images):
    asked = 0

    def resolve(self, refs: Iterable[ImageRef], *, again: bool = False) -> Iterator[tuple[str, str | ImageError]]:
        return super().resolve(self._count(refs), again=again)

    def _count(self, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        for ref in refs:
            self.asked += 1
            yield ref


def run(url: str, token: str, project_id: int, root: Path, files: Path) -> Pulled:
    """A round's survey and pull of a labels project, as the flow does them."""
    start_mib = _resident("VmRSS")
    wire = CountingTransport()
    started = time.perf_counter()
    config = LabelStudioConfig(url=url, token=SecretStr(token))
    with LabelStudio(config, transport=wire) as door:
        door.list_projects()
        project = door.find_project(project_id)
        states = [door.project_state(project)]
        with _CountedImages(
            ImageConfig(local_files_root=files), root=root, base_url=url, authorization=door.authorization
        ) as images:
            result = pull(door, images, labels=project, data_dir=root, states=states)
    ended = time.perf_counter()
    return Pulled(
        seconds=ended - started,
        tail_s=ended - wire.last_answer,
        requests=wire.requests,
        received=wire.received,
        peak_mib=_resident("VmHWM"),
        start_mib=start_mib,
        images=images.asked,
        is_new=result.is_new,
        samples=result.snapshot.manifest.rows["noisy"],
        rejected=sum(result.report.rejected.values()),
        snapshot=str(result.snapshot.path),
    )


def _resident(name: str) -> float:
    # Not getrusage: its peak is at least what the parent had when it forked this process.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError("the kernel tells no peak of the resident set")


def main() -> None:
    """Read the arguments, pull, print."""
    asked = json.load(sys.stdin)
    result = run(asked["url"], os.environ[TOKEN], asked["project_id"], Path(asked["root"]), Path(asked["files"]))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
