"""The command for the next machine with a GPU runs from end to end on a CPU, in miniature."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_setting
from benchmarks.command import finish
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
    assert gpu.main([*MINIATURE, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["half"] == 1
    assert found["endless: end"].startswith("cut off")
    assert found["broken: end"] == "failed: RuntimeError: CUDA out of memory"
    assert found["good"] == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [("--parts", "all"), ("--limit-s", "-1"), ("--methods", "magic"), ("--variants", "magic"), ("--noise", "x")],
)
def test_bad_arguments_of_the_gpu_command(
    wrong: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        finish(gpu.main, [*MINIATURE, "--out", str(tmp_path), *wrong])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
