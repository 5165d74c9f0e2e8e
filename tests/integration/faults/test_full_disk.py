"""No space left while writing: one clear line, nothing lost, and once there is space the next run ends as ever.

Wherever tests run, a limit on the size of files stands in for the disk (`RLIMIT_FSIZE`: the same failing writes). Where
file systems may be mounted, a small one that is really full is tried, too.
"""

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.label_studio import LabelStudio
from tests.integration.faults.bench import Bench
from tests.integration.faults.world import complete_round, queued

SMALLEST = 2_000
"""Bytes of the smallest limit: what a command says goes into files, too."""


def sizes(home: Path) -> list[int]:
    return sorted({path.stat().st_size for path in home.rglob("*") if path.is_file() and path.stat().st_size})


def test_a_pull_that_cannot_write_says_so_and_the_next_one_is_whole(bench: Bench, trials: Counter[str]) -> None:
    undisturbed = bench.home()
    bench.complete("pull", undisturbed)
    expected, written = bench.pulled(undisturbed), sizes(undisturbed)
    assert written[0] < SMALLEST < written[-1], written
    for limit in (SMALLEST, *(size - 1 for size in written[-2:] if size > SMALLEST)):
        home = bench.home()
        ended = bench.run("pull", home, file_limit=limit)
        assert ended.complaint
        bench.complete("pull", home)
        assert bench.pulled(home) == expected, f"no file larger than {limit} bytes"
        trials["full disks"] += 1


def test_a_push_that_cannot_write_says_so_and_the_next_one_asks_all(
    bench: Bench, door: LabelStudio, trials: Counter[str]
) -> None:
    base = bench.ready_to_push()
    home = bench.home(base)
    bench.complete("push", home, title="enough space")
    expected = queued(bench.world, home, door, "enough space")
    assert bench.run("push", base, title="no space", file_limit=SMALLEST).complaint
    bench.complete("push", base, title="no space")
    assert queued(bench.world, base, door, "no space") == expected
    trials["full disks"] += 1


@contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[bool]:
    """A file system of that size at `at` until the block ends; False where this user may mount none."""
    at.mkdir()
    options = f"size={kilobytes}k,mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(at)], check=True)


@pytest.mark.parametrize("kilobytes", [16, 128])
def test_a_pull_onto_a_full_disk_goes_on_when_there_is_space(
    kilobytes: int, bench: Bench, tmp_path: Path, trials: Counter[str]
) -> None:
    undisturbed = bench.home()
    bench.complete("pull", undisturbed)
    with small_disk(tmp_path / "disk", kilobytes) as mounted:
        home = tmp_path / "disk" / "home"
        home.mkdir()
        ended = bench.run("pull", home, file_limit=None if mounted else kilobytes * 512)
        assert ended.complaint
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / "disk")], check=True)
        bench.complete("pull", home)
        assert bench.pulled(home) == bench.pulled(undisturbed)
        if mounted:
            complete_round(bench.world, home)
    trials["full disks"] += 1
