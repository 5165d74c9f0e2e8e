"""The parts of `benchmarks.gpu` that train to the last epoch: seconds and accuracy beside what is wanted of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from torch import nn

from benchmarks.data import NoiseSpec
from benchmarks.experiment import measure
from benchmarks.gpu_setting import PartFailed, Setting
from benchmarks.gpu_targets import CIFAR_10, PAPERS_ACCURACY, Target, Trained, fast_target, paper_target
from benchmarks.machine import device_name
from benchmarks.methods import METHODS, Method, Observer, Outcome, Problem
from benchmarks.report import table
from benchmarks.results import Row
from benchmarks.run_notes import failed_line
from benchmarks.step_cost import step_flops
from fasten_model.train import PAPER, TrainConfig
from fasten_model.train.plan import steps_per_epoch


def paper(setting: Setting) -> None:
    """The paper's preset to its last epoch, with the time that its arithmetic takes at the least."""
    config = setting.config("paper", method=PAPER, **_how(setting))
    _trained(setting, "paper", "fasten-paper", config, seeds=1, target=paper_target)


def fast(setting: Setting) -> None:
    """The fast preset with ours: seconds and accuracy. The first seed also pays for what CUDA sets up once."""
    _trained(setting, "fast", "fasten", setting.config("fast", **_how(setting)), seeds=3, target=fast_target)


def _how(setting: Setting) -> Mapping[str, bool]:
    """What the command line says about compiling, for a config."""
    graphs = setting.options.cuda_graphs
    return {"compile": setting.options.compile or graphs, "cuda_graphs": graphs}


Judge = Callable[[Trained], Target | None]


def _trained(setting: Setting, title: str, method: str, config: TrainConfig, *, seeds: int, target: Judge) -> None:
    """Train and judge as the harness does, `seeds` times a noise unless `--seeds` says otherwise."""
    rows: list[Row] = []
    for noise in setting.options.noise:
        name = f"{title}, {noise}"
        rows += _trained_on(setting, name, noise, method, config, setting.options.seeds or seeds, target)
    if line := failed_line(rows, setting.report.markdown):
        raise PartFailed(line)


def _trained_on(
    setting: Setting, title: str, noise: NoiseSpec, method: str, config: TrainConfig, seeds: int, target: Judge
) -> list[Row]:
    """What is known is written after every tenth epoch and every training."""
    epochs = setting.options.epochs or config.settings().epochs
    config = replace(config, epochs=epochs)
    flops = step_flops(config, num_classes=setting.source().num_classes)
    steps = epochs * steps_per_epoch(setting.sizes()[0], config.settings().noisy_batch)
    floor = flops * steps / (setting.options.peak_tflops * 1e12)
    head = (
        f"{method}, {noise}, {epochs} epochs, {steps} steps of {flops / 1e9:.1f} GFLOP: at "
        f"{setting.options.peak_tflops:g} TFLOP/s they take {floor:.3g} s at the least."
    )
    stated = PAPERS_ACCURACY.get(str(noise))
    if stated is not None and setting.options.dataset in CIFAR_10:
        head += f" The paper's accuracy: {stated:.2f} % (original images)."
    rows: list[Row] = []

    def written(under_way: str = "") -> None:
        text = table(_HEAD, [_line(row, floor) for row in rows], texts=(0, len(_HEAD) - 1))
        data = {"gflop_a_step": flops / 1e9, "floor_seconds": floor, "rows": [asdict(row) for row in rows]}
        setting.report.add(title, f"{head}\n\n{text}\n\n{under_way}".strip(), data)

    for seed in range(seeds):

        def on_epoch(epoch: int, seconds: float, seed: int = seed) -> None:
            if epoch % 10 == 0:
                written(f"Seed {seed}: epoch {epoch} after {seconds:.1f} s, evaluations included.")

        row = measure(
            method, followed(method, on_epoch), setting.options.dataset,
            setting.cell(noise, seed), replace(config, seed=seed), rho=config.switches().rho,
        )  # fmt: skip
        rows.append(row)
        written()
        trained = Trained(
            title=title, dataset=setting.options.dataset, noise=str(noise), epochs=epochs, floor=floor,
            device=device_name(setting.device), rows=[row for row in rows if row.error is None],
            tiny=setting.options.tiny,
        )  # fmt: skip
        setting.report.judge([target(trained)])
    return rows


_HEAD = ["seed", "test %", "best val. %", "labels right %", "seconds", "÷ floor", "peak MiB", ""]


def _line(row: Row, floor: float) -> list[str]:
    def percent(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.2f}"

    if row.error is not None:
        return [str(row.seed), *["–"] * 6, f"Failed: {row.error}"]
    seconds = row.seconds or 0.0
    return [
        str(row.seed), percent(row.accuracy_last), percent(row.accuracy_best), percent(row.labels_correct),
        f"{seconds:.1f}", f"{seconds / floor:.1f}", f"{row.peak_memory_mib or 0:.0f}", "",
    ]  # fmt: skip


def followed(method: str, on_epoch: Callable[[int, float], None]) -> Method:
    """The method; `on_epoch` hears of each epoch's end and of the seconds since the start."""

    def run_it(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        started = time.perf_counter()

        def told(epoch: int, network: nn.Module) -> None:
            if observer is not None:
                observer(epoch, network)
            on_epoch(epoch, time.perf_counter() - started)

        return METHODS[method](problem, config, told)

    return run_it
