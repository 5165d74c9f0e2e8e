"""What one run of the harness is made of, the same for each method, and the run itself, row by row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from benchmarks.data import Cell, NoiseSpec, Source, draw_cell
from benchmarks.experiment import Budget, measure
from benchmarks.methods import Method
from benchmarks.results import ResultsFile, Row
from benchmarks.run_notes import warn_of_kept
from fasten_model.device import resolve_device
from fasten_model.train import OURS, PAPER, TrainConfig

SIZES = {
    "digits": (900, 200, 90),
    "fashion-mnist": (8000, 400, 1000),
    "cifar10": (44000, 1000, 5000),
    "cifar100": (44000, 1000, 5000),
    "cifar10n": (44000, 1000, 5000),
    "clothing1m": (100000, 10000, 4000),
    "parquet": (1000, 100, 100),
}
"""(noisy, clean, validation) samples where the command line says nothing; CIFAR's as in the paper."""

HANDED = ("digits", "parquet")
"""Data whose pictures are not mirrored: a mirrored digit is another sign; what your own show, nobody here knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is run: everything here is the same for each method."""

    dataset: str
    source: Source
    noises: tuple[NoiseSpec, ...]
    seeds: tuple[int, ...]
    noisy: int
    clean: int
    validation: int
    imbalance: float
    budget: Budget
    config: TrainConfig
    """Seed and epochs are put in for each run."""
    rho: float

    def settings(self) -> dict[str, object]:
        """What rows of one file must agree on."""
        config = self.config
        return {
            "dataset": self.dataset,
            "source": [len(self.source.train_images), len(self.source.test_images)],
            "noisy": self.noisy,
            "clean": self.clean,
            "validation": self.validation,
            "imbalance": self.imbalance,
            "epochs": self.budget.epochs,
            "budget_seconds": self.budget.seconds,
            "preset": config.preset,
            "trunk": config.settings().trunk,
            "noisy_batch": config.noisy_batch,
            "clean_batch": config.clean_batch,
            "lr": config.lr,
            "horizontal_flip": config.horizontal_flip,
            "compile": config.compile,
            "device": resolve_device(config.device).type,
            "rho": self.rho,
        }

    def draw(self, noise: NoiseSpec, seed: int) -> Cell:
        """The cell of `noise`, the same for each method."""
        return draw_cell(
            self.source, noise, noisy=self.noisy, clean=self.clean, validation=self.validation, seed=seed,
            imbalance=self.imbalance,
        )  # fmt: skip


Configure = Callable[[str, TrainConfig], TrainConfig]
"""(name of the method, the config that all have) → the config that it is run with."""


SWITCHES = {"fasten-paper": PAPER, "fasten": OURS}
"""What the harness' two FasTENs run with, whatever the config says: put into it, so that each row has it in writing."""


def own_switches(name: str, config: TrainConfig) -> TrainConfig:
    """What a comparison of methods takes: the same for all, and beside it FasTEN's own switches."""
    return replace(config, method=SWITCHES[name]) if name in SWITCHES else config


def run(
    plan: Plan, methods: Mapping[str, Method], results: ResultsFile, configure: Configure = own_switches
) -> list[Row]:
    """Run every row that `results` does not have yet, a line printed for each; all rows asked for, failed ones too.

    A cell is drawn once for all methods. With a budget in seconds the epochs of a method are found out once, at its
    first run, and kept for the others, those of a later call too. `DataError` where a cell cannot be drawn; that of
    every noise is tried with the first seed before hours go into the first.
    """
    seconds = plan.budget.seconds
    asked = {(str(noise), seed, name) for seed in plan.seeds for noise in plan.noises for name in methods}
    good = [row for row in results.rows() if row.error is None]
    warn_of_kept(results.path, [row for row in good if row.key in asked], plan.config.device)
    chosen = {row.method: row.epochs for row in good}
    missing = asked - {row.key for row in good}
    to_come, done = {noise for noise, _, _ in missing}, 0
    for noise in plan.noises[1:]:  # the first is drawn below
        if str(noise) in to_come:
            plan.draw(noise, plan.seeds[0])
    for seed in plan.seeds:  # every cell of one seed first: a run that is stopped early has something of each
        for noise in plan.noises:
            todo = [name for name in methods if not results.has((str(noise), seed, name))]
            if not todo:
                continue
            cell = plan.draw(noise, seed)
            for name in todo:
                epochs = plan.budget.epochs if seconds is None else chosen.get(name)
                config = configure(name, replace(plan.config, seed=seed, epochs=epochs))
                row = measure(
                    name, methods[name], plan.dataset, cell, config,
                    rho=plan.rho, seconds=seconds if epochs is None else None,
                )  # fmt: skip
                if row.error is None:
                    chosen[name] = row.epochs
                results.add(row)
                done += 1
                print(f"{done}/{len(missing)} {_line(row)}", flush=True)
    return [row for row in results.rows() if row.key in asked]


def _line(row: Row) -> str:
    head = f"{row.noise}, seed {row.seed}, {row.method}: "
    if row.error is not None:
        return head + row.error
    return (
        f"{head}test {_percent(row.accuracy_last)}, labels right {_percent(row.labels_correct)}, "
        f"{row.epochs} epochs in {row.seconds:.1f} s"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
