"""Everything that only a GPU can tell, in one command: what a session that has one runs first.

    python -m benchmarks.gpu --root DIR --out OUT --parts step_cost throughput fast compile
    python -m benchmarks.gpu --root DIR --out OUT --parts paper --compile --noise sym:0.4 sym:0.8 --limit-s 540
    python -m benchmarks.gpu --root DIR --out OUT --parts harness --harness-noise human:worst human:rater_1
    python -m benchmarks.gpu --root DIR --out OUT --parts feed ablation --variants paper/* --seeds 2
    python -m benchmarks.gpu --root DIR --out OUT --parts processes

DIR holds `train.parquet` and `test.parquet` of CIFAR-10N. The whole of it, one part after the other, on the CPU in
miniature: `python -m benchmarks.gpu --device cpu --tiny --dataset digits --harness-noise asym:0.4 --out OUT`. OUT gets
`gpu.json` and `gpu.md`, written anew after every figure, so that a run that is cut off leaves what it had and another
call adds its parts, and the harness' rows. What is wanted (`benchmarks.gpu_targets`) stands beside what was found,
“reached” or “missed”, which does not change the exit code; a part that fails, or is cut off, does.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.ablation import as_method, configure
from benchmarks.ablation import report as ablation_report
from benchmarks.command import above_zero, finish, parser, positive, use_threads
from benchmarks.data import DATASETS, NoiseSpec, parse_noise
from benchmarks.decode import KINDS
from benchmarks.decode import measure as measure_rates
from benchmarks.experiment import Budget
from benchmarks.gpu_processes import gpu_count, processes
from benchmarks.gpu_setting import PartFailed, Report, Setting
from benchmarks.gpu_targets import scoring_targets, step_targets
from benchmarks.gpu_training import fast, followed, paper
from benchmarks.learn import chosen_methods, report
from benchmarks.machine import code_line
from benchmarks.methods import Method
from benchmarks.plan import Configure, Plan, own_switches, run
from benchmarks.report import table
from benchmarks.results import ResultsFile
from benchmarks.rows_file import reason_of
from benchmarks.run_notes import failed_line
from benchmarks.step_cost import as_table as step_cost_table
from benchmarks.step_cost import measure_step_costs
from benchmarks.throughput import as_table as throughput_table
from benchmarks.throughput import measure_throughput
from benchmarks.variants import find_variants
from fasten_model.device import resolve_device
from fasten_model.errors import FastenError


class TimeIsUp(BaseException):
    """A part has had its time. Not an `Exception`: the harness takes those for a method's failure and goes on."""


def step_cost(setting: Setting) -> None:
    """FasTEN's step against plain cross-entropy's: bound and measured. Compiled, one share has to do."""
    rounds, steps = (3, 1) if setting.options.tiny else (15, 20)
    kinds = [("paper", False, [1.0, 0.5, 0.25]), ("fast", False, [0.5, 0.25, 0.125])]
    kinds += [("fast", True, [0.25])] if setting.options.compile else []
    for preset, compiled, shares in kinds:
        config = setting.config(preset, compile=compiled)
        costs = measure_step_costs(config, shares=shares, num_classes=10, rounds=rounds, steps=steps)
        name = f"step cost, {preset}{', compiled' if compiled else ''}"
        setting.report.add(name, step_cost_table(costs), [asdict(cost) for cost in costs])
        setting.report.judge(step_targets(name, costs, tiny=setting.options.tiny))


def throughput(setting: Setting) -> None:
    """Scoring against the bare forward pass."""
    for preset in ("paper", "fast"):
        images, rounds = (64, 2) if setting.options.tiny else (20_000, 7)
        found = measure_throughput(setting.config(preset), images=images, rounds=rounds)
        name = f"throughput, {preset}"
        setting.report.add(name, throughput_table(found), [asdict(each) for each in found])
        setting.report.judge(scoring_targets(name, found, tiny=setting.options.tiny))


COMPILED = {"": (False, False), ", compiled": (True, False), ", CUDA graphs": (True, True)}
"""How it is said → (compile, cuda_graphs)."""


def compile_or_not(setting: Setting) -> None:
    """Seconds of an epoch with and without torch.compile and CUDA graphs; the first epoch has the compiling in it."""
    lines, data, failed = [], [], 0
    for preset, epochs in (("fast", 6), ("paper", 3)):
        for how, (compiled, graphs) in COMPILED.items():
            ends: list[float] = []
            taken = 2 if setting.options.tiny else epochs
            config = setting.config(preset, compile=compiled, cuda_graphs=graphs, epochs=taken)
            method = "fasten-paper" if preset == "paper" else "fasten"
            name = f"{preset}{how}"
            try:
                followed(method, lambda _, seconds, ends=ends: ends.append(seconds))(  # type: ignore[misc]
                    setting.cell(setting.options.noise[0], 0).problem, config, None
                )
            except Exception as error:  # no compiler on the machine: the others still count
                lines.append([name, "–", "–", reason_of(error)])
                failed += 1
            else:
                laps = sorted(now - before for before, now in pairwise(ends))
                first, later = ends[0], laps[len(laps) // 2]
                lines.append([name, f"{first:.2f}", f"{later:.3f}", ""])
                times = {"first_epoch": first, "later_epoch": later}
                data.append({"preset": preset, "compiled": compiled, "cuda_graphs": graphs, **times})
            head = ["training", "first epoch, s", "later epochs, s (median)", ""]
            setting.report.add("torch.compile", table(head, lines, texts=(0, 3)), data)
    if failed:
        raise PartFailed(f"{failed} of {len(lines)} trainings failed; see “torch.compile”")


def feed(setting: Setting) -> None:
    """Images that do not lie on the device: how fast they come, against how fast plain training takes them."""
    lines, data = [], []
    rounds, steps, count = (2, 1, 64) if setting.options.tiny else (5, 10, 20_000)
    for kind, preset in zip(KINDS, ("resnet18", "fast"), strict=True):
        config = setting.config(preset, image_size=32 if setting.options.tiny else kind.size)
        cost = measure_step_costs(config, shares=[0.5], num_classes=10, rounds=rounds, steps=steps)[0]
        taken = 1000 * cost.noisy_batch / cost.plain_ms
        with tempfile.TemporaryDirectory() as folder:
            rates = measure_rates(
                kind, count=count, workers=[os.cpu_count() or 1], rounds=rounds, device=setting.device,
                folder=Path(folder),
            )  # fmt: skip
        for rate in rates:
            lines.append([rate.kind, rate.work, rate.spread, f"{statistics.median(rate.rates) / taken:.2f}"])
            data.append({**asdict(rate), "trunk": preset, "trunk_images_per_second": taken})
        head = ["images", "work", "images/s, median (range)", "÷ what plain training takes"]
        setting.report.add("feed", table(head, lines), data)


def ablation(setting: Setting) -> None:
    """Each remedy on human noise, with the fast preset's trunk and schedule; `--variants` names some."""
    chosen = find_variants(setting.options.variants)
    methods = {variant.name: as_method(variant) for variant in chosen}
    _in_harness(setting, "ablation", methods, ablation_report, configure)


def harness(setting: Setting) -> None:
    """Every method on human noise, with the fast preset's trunk and schedule."""

    def reported(subject: str, paths: Sequence[Path]) -> str:
        return report(f"Methods of the harness: {subject}", paths)

    _in_harness(setting, "harness", chosen_methods(setting.options.methods), reported)


def _in_harness(
    setting: Setting,
    name: str,
    methods: Mapping[str, Method],
    reported: Callable[[str, Sequence[Path]], str],
    configured: Configure = own_switches,
) -> None:
    options = setting.options
    noisy, clean, validation = setting.sizes()
    plan = Plan(
        dataset=options.dataset,
        source=setting.source(),
        noises=tuple(options.harness_noise),
        seeds=tuple(range(options.seeds or 1)),
        noisy=noisy,
        clean=clean,
        validation=validation,
        imbalance=1.0,
        budget=Budget(epochs=options.epochs or setting.config("fast").settings().epochs),
        config=setting.config("fast"),
        rho=0.8,
    )
    results = ResultsFile(setting.out / f"{name}.parquet", plan.settings())
    tables = results.path.with_suffix(".md")
    try:
        rows = run(plan, methods, results, configured)
    finally:
        if results.path.exists():
            text = reported(options.dataset, [results.path])
            tables.write_text(text, encoding="utf-8")
            setting.report.add(name, f"In `{tables.name}`.", [asdict(row) for row in results.rows()])
    if line := failed_line(rows, tables):
        raise PartFailed(line)


PARTS: Mapping[str, tuple[Callable[[Setting], None], int]] = {
    "step_cost": (step_cost, 90),
    "throughput": (throughput, 60),
    "fast": (fast, 150),
    "compile": (compile_or_not, 240),
    "paper": (paper, 420),
    "harness": (harness, 540),
    "feed": (feed, 120),
    "ablation": (ablation, 540),
    "processes": (processes, 240),
}
"""Name → (part, seconds that it may take unless `--limit-s` says otherwise)."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises `TimeIsUp` in here once `seconds` have passed."""

    def up(_: int, __: FrameType | None) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_parts(setting: Setting, names: Sequence[str]) -> list[str]:
    """Each part within its time; one that fails or is cut off says so, and the next goes on. The names of those."""
    unfinished = []
    for name in names:
        part, limit = PARTS[name]
        seconds = setting.options.limit_s or limit
        started = time.perf_counter()
        try:
            with _time_limit(seconds):
                part(setting)
            ended = f"done in {time.perf_counter() - started:.0f} s"
        except TimeIsUp:
            ended = f"cut off after {seconds:.0f} s"
        except FastenError as error:
            ended = f"failed: {error}"
        except Exception as error:  # a part's failure must not cost the others their time on the machine
            traceback.print_exc()
            ended = f"failed: {reason_of(error)}"
        if not ended.startswith("done"):
            unfinished.append(name)
        ended = f"{ended} ({code_line()})"  # parts of several calls may stand in one file
        setting.report.add(f"{name}: end", ended, ended)
    return unfinished


def check_data(setting: Setting, names: Sequence[str]) -> None:
    """Read the data and draw every noise once, for the parts that train on it; `DataError` now and not in each part."""
    noises: list[NoiseSpec] = []
    if {"fast", "compile", "paper"} & set(names) or ("processes" in names and gpu_count(setting.device) > 1):
        noises += setting.options.noise
    if {"harness", "ablation"} & set(names):
        noises += setting.options.harness_noise
    for noise in dict.fromkeys(noises):
        setting.cell(noise, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts."""
    made = parser("benchmarks.gpu", __doc__)
    made.add_argument("--out", type=Path, required=True, help="folder for gpu.json, gpu.md and rows; gone on with")
    made.add_argument(
        "--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), metavar="PART",
        help=f"default all, in this order: {' '.join(PARTS)}",
    )  # fmt: skip
    made.add_argument("--dataset", choices=DATASETS, default="cifar10n")
    made.add_argument("--root", type=Path, help="folder of the data's files")
    noise: Mapping[str, Any] = {"type": parse_noise, "nargs": "+", "metavar": "NOISE"}
    made.add_argument("--noise", **noise, default=[NoiseSpec(kind="sym", rate=0.4)], help="of paper and fast")
    made.add_argument(
        "--harness-noise", **noise, default=[NoiseSpec(kind="human", column="worst")], help="of harness and ablation"
    )
    made.add_argument("--methods", nargs="+", metavar="NAME", help="of the harness; default all")
    made.add_argument("--variants", nargs="+", metavar="NAME", help="of the ablation; default all")
    made.add_argument("--seeds", type=positive, help="of each noise; else 3 in fast, 1 in paper, harness and ablation")
    made.add_argument("--epochs", type=positive, help="instead of the presets'")
    made.add_argument("--limit-s", type=above_zero, help="seconds for each part, instead of its own limit")
    made.add_argument("--peak-tflops", type=above_zero, default=989.0, help="bf16, for the floor (H200, H100: 989)")
    made.add_argument("--compile", action="store_true", help="in step_cost, fast and paper too")
    made.add_argument("--cuda-graphs", action="store_true", help="in fast and paper: compiled, and replayed as graphs")
    made.add_argument("--tiny", action="store_true", help="a small trunk, few samples, one epoch: does it run at all?")
    options = made.parse_args(arguments)
    chosen_methods(options.methods)
    find_variants(options.variants)
    use_threads(options.threads)
    device = resolve_device(options.device)
    setting = Setting(options=options, device=device, out=options.out, report=Report(options.out, device))
    check_data(setting, options.parts)
    unfinished = run_parts(setting, options.parts)
    if unfinished:
        print(
            f"{len(unfinished)} of {len(options.parts)} parts failed or were cut off ({', '.join(unfinished)}); see "
            f"“PART: end” in {options.out / 'gpu.md'}",
            file=sys.stderr,
        )
    return 1 if unfinished else 0


if __name__ == "__main__":
    finish(main)
