"""The command for the next machine with a GPU runs from end to end on a CPU, in miniature."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_processes, gpu_setting
from benchmarks.command import finish
from benchmarks.methods import Outcome
from benchmarks.results import read_rows

MINIATURE = (
    "--device",
    "cpu",
    "--tiny",
    "--dataset",
    "digits",
    "--harness-noise",
    "asym:0.4",
    "--methods",
    "ce",
    "--variants",
    "paper +q",
)


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_setting, "LOADED", [])


def test_every_part_leaves_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)  # compiling takes a minute
    assert gpu.main([*MINIATURE, "--compile", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {f"{part}: end" for part in gpu.PARTS} <= found.keys()
    assert all(found[f"{part}: end"].startswith("done") for part in gpu.PARTS), found
    assert found["machine"]["torch"] == torch.__version__
    assert {cost["method"] for cost in found["step cost, fast, compiled"]} == {"two passes", "paper", "ours"}
    assert len(found["throughput, paper"]) == 5
    assert [row["seed"] for row in found["fast, sym:0.4"]["rows"]] == [0, 1, 2]
    assert found["paper, sym:0.4"]["rows"][0]["error"] is None
    assert found["paper, sym:0.4"]["floor_seconds"] > 0
    assert [each["compiled"] for each in found["torch.compile"]] == [False, True, True] * 2
    assert [each["cuda_graphs"] for each in found["torch.compile"]] == [False, False, True] * 2
    assert [row.method for row in read_rows(tmp_path / "harness.parquet")[0]] == ["ce"]
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "## fast, sym:0.4\n" in text
    assert "at the least" in text
    assert [row.method for row in read_rows(tmp_path / "ablation.parquet")[0]] == ["paper", "paper +q"]
    assert {rate["trunk"] for rate in found["feed"]} == {"fast", "resnet18"}
    assert (
        "## processes\n\nLeft out: torchrun with NCCL is measured on two GPUs or more, and torch sees 0 here." in text
    )
    judged = [target["what"].partition(":")[0] for target in found["targets"]]
    assert set(judged) == {
        "step cost, paper", "step cost, fast", "step cost, fast, compiled", "throughput, paper", "throughput, fast",
        "fast, sym", "paper, sym",
    }  # fmt: skip
    assert {target["verdict"] for target in found["targets"]} == {"not judged: in miniature"}
    assert text.index("## Targets\n") < text.index("## step cost, paper\n")
    assert len(list(tmp_path.iterdir())) == 6  # what comes back from the machine is counted


def test_seeds_and_noises_reach_the_trainings(tmp_path: Path) -> None:
    parts, noises = ("--parts", "paper", "harness"), ("--noise", "sym:0.2", "asym:0.4", "--harness-noise", "sym:0.6")
    assert gpu.main([*MINIATURE, "--out", str(tmp_path), *parts, *noises, "--seeds", "2"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    for noise in ("sym:0.2", "asym:0.4"):
        assert [(row["noise"], row["seed"]) for row in found[f"paper, {noise}"]["rows"]] == [(noise, 0), (noise, 1)]
    assert [(row["noise"], row["seed"]) for row in found["harness"]] == [("sym:0.6", 0), ("sym:0.6", 1)]


def test_a_part_that_takes_too_long_or_fails_does_not_cost_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless(setting: gpu_setting.Setting) -> None:
        setting.report.add("half", "of it", 1)
        try:
            while True:
                time.perf_counter()
        except Exception:  # as the harness does with a method's failure
            pytest.fail("the end of the time is no failure of a method")

    def broken(_: gpu_setting.Setting) -> None:
        raise RuntimeError("CUDA out of memory\nand so on")

    def good(setting: gpu_setting.Setting) -> None:
        setting.report.add("good", "as it should be", 2)

    monkeypatch.setattr(gpu, "PARTS", {"endless": (endless, 0.05), "broken": (broken, 9), "good": (good, 9)})
    assert gpu.main([*MINIATURE, "--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["half"] == 1
    assert found["endless: end"].startswith("cut off")
    assert found["broken: end"].startswith("failed: RuntimeError: CUDA out of memory (code ")
    assert found["good"] == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1] == (
        f"2 of 3 parts failed or were cut off (endless, broken); see “PART: end” in {tmp_path / 'gpu.md'}"
    )


def test_failed_rows_fail_their_part_in_a_line_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> Outcome:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr("benchmarks.methods.fasten.run_paper", broken)
    monkeypatch.setattr("benchmarks.methods.ce.run", broken)
    arguments = [*MINIATURE, "--methods", "ce", "glc", "--out", str(tmp_path), "--parts"]
    assert gpu.main([*arguments, "paper", "compile", "harness", "processes"]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["paper: end"].startswith(f"failed: 1 of 1 rows failed; see “Failed” in {tmp_path / 'gpu.md'} (")
    assert found["compile: end"].startswith("failed: 3 of 6 trainings failed; see “torch.compile” (")
    assert found["harness: end"].startswith(f"failed: 1 of 2 rows failed; see “Failed” in {tmp_path / 'harness.md'} (")
    assert found["processes: end"].startswith("done")
    assert "Failed: RuntimeError: no such kernel" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("3 of 4 parts failed or were cut off (paper, compile, harness); ")


def test_parts_of_several_calls_stand_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["first"]
    parts = {"a": (lambda it: it.report.add("a", said[0], said[0]), 9), "b": (lambda it: it.report.add("b", "B", 2), 9)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.main([*MINIATURE, "--out", str(tmp_path), "--parts", "a", "b"]) == 0
    said[0] = "again"
    assert gpu.main([*MINIATURE, "--out", str(tmp_path), "--parts", "a"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert (found["a"], found["b"]) == ("again", 2)
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## b", "## b: end", "## a", "## a: end"]
    assert "first" not in text


def test_torchrun_is_held_against_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were two GPUs: on the CPU the same command goes by gloo."""
    for module in (gpu, gpu_processes):
        monkeypatch.setattr(module, "gpu_count", lambda _: 2)
    monkeypatch.setattr(gpu_processes, "TRAININGS", (("fast", None),))
    assert gpu.main([*MINIATURE, "--out", str(tmp_path), "--parts", "processes"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    alone, together = found["processes"]
    assert (alone["processes"], together["processes"]) == (1, 2)
    assert alone["accuracy"] == together["accuracy"]
    assert min(alone["epoch_s"], together["epoch_s"]) > 0
    assert f"{alone['epoch_s'] / together['epoch_s']:.2f}" in found["sections"]["processes"]


def test_what_torchrun_adds_is_not_what_the_training_says() -> None:
    said = (
        "reading a\nRuntimeError: NCCL error\n\nE1129 02:58:00 1 api.py:874] failed (exitcode: 1)\nTraceback …\n====\n"
    )
    assert gpu_processes.last_line(said) == "RuntimeError: NCCL error"
    assert gpu_processes.last_line("reading a\nno such file\n") == "no such file"
    assert gpu_processes.last_line("") == "and it said nothing"


def stand_in(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell script where Python would be started."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_training_that_fails_is_told_and_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "gpu_count", lambda _: 2)
    monkeypatch.setattr(gpu_processes, "gpu_count", lambda _: 2)
    monkeypatch.setattr(gpu_processes, "read", lambda _, preset, world: gpu_processes.Parallel(
        preset=preset, processes=world, first_epoch_s=3.0, epoch_s=2.0 / world, accuracy=None))  # fmt: skip
    script = 'case "$*" in *nproc-per-node*paper*) echo "reading" >&2; echo "no NCCL here" >&2; exit 3;; esac'
    stand_in(tmp_path / "python", script, monkeypatch)
    assert gpu.main([*MINIATURE, "--out", str(tmp_path / "out"), "--parts", "processes"]) == 1
    found = json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))
    assert [(each["preset"], each["processes"]) for each in found["processes"]] == [
        ("fast", 1),
        ("fast", 2),
        ("paper", 1),
    ]
    lines = [line.split("|")[1:-1] for line in found["sections"]["processes"].splitlines() if line.startswith("| fast")]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["fast", "1", "3.00", "2.000", "1.00", "–"],
        ["fast", "2", "3.00", "1.000", "2.00", "–"],
    ]
    assert found["sections"]["processes"].endswith("Failed: paper in 2 processes: status 3, no NCCL here")
    assert found["processes: end"].startswith("failed: paper in 2 processes: status 3, no NCCL here (")
    assert "reading\nno NCCL here\n" in capsys.readouterr().err


def test_processes_end_with_the_part_that_started_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torchrun that would go on for ever, and leaves a mark when it is told to end."""
    started, ended = tmp_path / "started", tmp_path / "ended"
    script = f"trap 'touch {ended}; exit 1' TERM\ntouch {started}\nwhile true; do sleep 0.05; done"
    stand_in(tmp_path / "python", script, monkeypatch)

    def cut_off(child: subprocess.Popen[str]) -> None:
        while not started.exists():
            assert child.poll() is None
        raise gpu.TimeIsUp

    monkeypatch.setattr(subprocess.Popen, "communicate", cut_off)
    with pytest.raises(gpu.TimeIsUp):
        gpu_processes.train([], 2)
    assert ended.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--parts", "all"),
        ("--limit-s", "-1"),
        ("--limit-s", "nan"),
        ("--peak-tflops", "0"),
        ("--methods", "magic"),
        ("--variants", "magic"),
        ("--noise", "x"),
        ("--threads", "0"),
        ("--seeds", "0"),
        ("--epochs", "0"),
        ("--dataset", "imagenet"),
        ("--device", "tpu"),
        ("--out", "file"),
        ("--out", "file/deep"),
        ("--dataset", "cifar10n", "--root", "/nowhere"),
        ("--noise", "sym:0.4", "human:worst"),
        ("--harness-noise", "human:worst"),
        ("--out", "other"),
        ("--out", "broken"),
    ],
)
def test_bad_arguments_of_the_gpu_command(
    wrong: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "run_parts", lambda *_: pytest.fail("run"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for folder, written in (("other", {"machine": {}, "targets": [], "sections": {}}), ("broken", [])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "gpu.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        finish(gpu.main, [*MINIATURE, "--out", str(tmp_path), *wrong])
    assert stop.value.code == 2
    assert not list(tmp_path.rglob("*.md"))
    assert capsys.readouterr().err.count("\n") == 1
