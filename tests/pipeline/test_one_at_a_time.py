"""One process at a time: a second one waits, says for whom, and gives up; a dead one holds nothing."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, FastenError
from pipeline.one_at_a_time import one_at_a_time
from pipeline.queue import one_push

HOLD = """
import sys
from pathlib import Path
from pipeline.one_at_a_time import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), what="a push"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process holds the lock."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_a_second_process_is_told_who_holds_it_and_fails_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "new" / "lock", Clock()
    with held(path) as other, caplog.at_level(logging.WARNING):
        said = rf"a push \(process {other.pid} on .+, since 20.+\) has not ended within 5 s"
        with (
            pytest.raises(FastenError, match=said),
            one_at_a_time(path, what="a push", wait_s=5, pause=clock.pause, clock=clock),
        ):
            pytest.fail("two at a time")
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        f"waiting for a push (process {other.pid} on {os.uname().nodename}"
    ]
    assert 5 <= clock.now < 6


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path) as other:
        other.kill()
        other.wait()
        with one_at_a_time(path, what="a push", wait_s=0):
            assert f'"pid": {os.getpid()}' in path.read_text()


def test_it_is_taken_as_soon_as_its_holder_ends(tmp_path: Path) -> None:
    path, clock = tmp_path / "lock", Clock()
    with held(path) as other:

        def pause(seconds: float) -> None:
            clock.pause(seconds)
            other.kill()
            other.wait()

        with one_at_a_time(path, what="a push", pause=pause, clock=clock):
            assert clock.now < 1


def test_a_lock_that_was_tidied_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with one_at_a_time(path, what="a push", wait_s=0):
            path.unlink()
    with one_at_a_time(path, what="a push", wait_s=0):
        assert path.exists()


def test_whatever_stands_in_the_file_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path):
        path.write_bytes(b"\xff{[")
        with (
            pytest.raises(FastenError, match="only just begun"),
            one_at_a_time(path, what="a push", wait_s=0),
        ):
            pytest.fail("two at a time")


def test_pushes_to_one_project_exclude_each_other_and_those_to_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        one_push("http://ls/", 7),
        one_push("http://ls", 8),
        one_push("http://other", 7),
        pytest.raises(FastenError, match="another push to project 7 of http://ls"),
        one_push("http://ls", 7, wait_s=0),
    ):
        pytest.fail("two at a time")
    with one_push("http://ls", 7, wait_s=0):
        pass


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"fasten-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="not this user's alone"), one_push("http://ls", 7):
        pytest.fail("anybody could hold it")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="not this user's alone"), one_push("http://ls", 7):
        pytest.fail("it leads elsewhere")
