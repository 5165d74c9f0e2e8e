"""Which rule for automatic relabels keeps a promise of 95 %, on made and on human noise.

    python -m benchmarks.relabel_precision --cifar10n DIR

Each cell trains one small model a seed, as `fasten train` does. Held-out pairs are then drawn many times from all the
samples that trained with the label they came with, as such pairs do: as many as `fasten train` would hold out, and
more, as after a larger audit. Every rule chooses from them alone which labels of the others to change. The truth is
known here, so that each choice can be judged. A draw keeps the promise where at least 95 % of the changes are right, or
nothing is changed. What training itself was told of its held-out pairs (temperature, weights) is of one set of them.
"""

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.command import finish, parser, positive, use_threads
from benchmarks.data.load import load_source
from benchmarks.data.noise import apply_noise
from benchmarks.data.source import Source
from benchmarks.data.spec import parse_noise
from benchmarks.machine import commit, machine_line
from benchmarks.relabel_rules import RULES, TARGET, Evidence, Judged, gather, outcome
from benchmarks.rows_file import check_writable
from fasten_model.device import resolve_device
from fasten_model.errors import DataError
from fasten_model.posterior import soft_count_transition
from fasten_model.predict import predict_logits
from fasten_model.train import TrainConfig, TrainingSet, train
from fasten_model.train.seeds import generator

HOLDOUT = 0.25
ROUNDS = (0, 1, 2, 20)
MORE_PAIRS = (400, 1000)
"""Held-out pairs of larger audits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What a model is trained on."""

    dataset: str
    noise: str
    noisy: int
    audited: int

    def __str__(self) -> str:
        return f"{self.dataset} {self.noise}, {self.noisy:,} + {self.audited}"


CELLS = (
    Cell(dataset="digits", noise="asym:0.4", noisy=900, audited=200),
    Cell(dataset="fashion-mnist", noise="asym:0.4", noisy=3000, audited=400),
    Cell(dataset="fashion-mnist", noise="instance:0.4", noisy=3000, audited=400),
    Cell(dataset="fashion-mnist", noise="sym:0.6", noisy=3000, audited=400),
    Cell(dataset="cifar10n", noise="human:rater_1", noisy=2000, audited=285),
    Cell(dataset="cifar10n", noise="human:worst", noisy=2000, audited=285),
    Cell(dataset="cifar10n", noise="human:rater_1", noisy=6000, audited=500),
    Cell(dataset="cifar10n", noise="human:worst", noisy=6000, audited=500),
)


def judge(cell: Cell, source: Source, config: TrainConfig) -> Judged:
    """Train on a draw of the cell and look at what trained with the label that it came with."""
    seed, count = config.seed, len(source.train_labels)
    held_out = round(cell.audited * HOLDOUT)
    order = torch.randperm(count, generator=generator(seed, "relabel_precision"))[: cell.noisy + cell.audited]
    bulk, clean = order.tensor_split([cell.noisy + held_out])
    rows = torch.arange(cell.noisy, len(bulk))
    given = torch.full((count,), -1)
    given[order] = apply_noise(parse_noise(cell.noise), source, order, seed).labels
    images, true = source.train_images, source.train_labels
    trained = train(
        TrainingSet(
            noisy_images=images[bulk],
            noisy_labels=given[bulk],
            clean_images=images[clean],
            clean_labels=true[clean],
            clean_estimates=torch.ones(len(clean), dtype=torch.bool),
            clean_votes=given[clean][:, None],
            held_out_images=images[bulk[rows]],
            held_out_labels=true[bulk[rows]],
            held_out_rows=rows,
            num_classes=source.num_classes,
        ),
        config,
    )
    assert trained.visits is not None
    return Judged(
        logits=predict_logits(trained.network, images[bulk])[0],
        visits=trained.visits,
        given=given[bulk],
        true=true[bulk],
        taught=torch.stack([true[clean], given[clean]], dim=1),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """One rule in one cell, over all draws."""

    changed: int
    right: int
    coverage: float
    """Mean share of the bulk that was changed."""
    used: float
    """Share of the draws that changed anything."""
    kept: float
    """Share of the draws that kept the promise."""

    def __str__(self) -> str:
        precision = f"{100 * self.right / self.changed:.1f}" if self.changed else "–"
        return f"{precision} · {100 * self.coverage:.1f} · {100 * self.used:.0f} · {100 * self.kept:.1f}"


def draws(judged: Judged, held_out: int, count: int) -> list[Evidence]:
    """The evidence of so many sets of held-out pairs."""
    chance = generator(0, "held-out pairs")
    rows = [torch.randperm(len(judged.true), generator=chance)[:held_out] for _ in range(count)]
    return [gather(judged, held) for held in rows]


def tallies(models: Sequence[Judged], held_out: int, count: int) -> dict[str, Tally]:
    """Every rule on the same draws."""
    evidence = [each for model in models for each in draws(model, held_out, count)]
    found = {}
    for name, rule in RULES.items():
        results = [(*outcome(rule(each), each), len(each.given)) for each in evidence]
        found[name] = Tally(
            changed=sum(changed for changed, _, _ in results),
            right=sum(right for _, right, _ in results),
            coverage=statistics.mean(changed / total for changed, _, total in results),
            used=statistics.mean(changed > 0 for changed, _, _ in results),
            kept=statistics.mean(right >= TARGET * changed for changed, right, _ in results),
        )
    return found


def transition_errors(models: Sequence[Judged]) -> list[str]:
    """For each number of rounds of `soft_count_transition`: mean absolute error, and how far the diagonal is off."""
    cells = []
    for rounds in ROUNDS:
        errors, diagonals = [], []
        for judged in models:
            p = torch.softmax(judged.logits.double(), dim=1)
            found = soft_count_transition(p, judged.given, p.shape[1], pairs=judged.taught, rounds=rounds)
            counted = torch.zeros_like(found).index_put_(
                (judged.true, judged.given), torch.ones(len(p), dtype=found.dtype), accumulate=True
            )
            counted /= counted.sum(dim=1, keepdim=True)
            errors.append(float((found - counted).abs().mean()))
            diagonals.append(float((found - counted).diagonal().mean()))
        cells.append(f"{statistics.mean(errors):.4f} ({statistics.mean(diagonals):+.3f})")
    return cells


def stored(cell: Cell, source: Source | None, config: TrainConfig, folder: Path | None) -> Judged:
    """The cell's model, from `folder` where an earlier run of this code has left it there, trained alike."""
    name = str(cell).replace(",", "").replace(" ", "-").replace(":", "-")
    trained = hashlib.sha256(repr((commit(), sorted(config.described().items()))).encode()).hexdigest()[:12]
    path = None if folder is None else folder / f"{name}-{config.seed}-{trained}.safetensors"
    if path is not None and path.exists():
        return Judged(**load_file(path))
    assert source is not None
    judged = judge(cell, source, config)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in asdict(judged).items()}, path)
    return judged


def chosen_cells(part: str, *, cifar10n: bool) -> list[Cell]:
    """Those whose name contains `part`; `DataError` where that is none. cifar10n: whether there are its files."""
    named = [cell for cell in CELLS if part in str(cell)]
    if not named:
        raise DataError(f"no cell's name contains {part!r}; there are {'; '.join(map(str, CELLS))}")
    found = [cell for cell in named if cifar10n or cell.dataset != "cifar10n"]
    if not found:
        raise DataError(f"every cell whose name contains {part!r} needs the files of CIFAR-10N; give --cifar10n DIR")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, draw, choose, and print both tables."""
    command = parser("benchmarks.relabel_precision", __doc__)
    command.add_argument("--seeds", type=positive, default=2, help="models a cell")
    command.add_argument("--draws", type=positive, default=30, help="sets of held-out pairs a model")
    command.add_argument("--only", default="", help="cells whose name contains this")
    command.add_argument("--fashion-mnist", type=Path, help="folder of the idx files; Debian's unless given")
    command.add_argument("--cifar10n", type=Path, help="folder of train.parquet and test.parquet; else left out")
    command.add_argument("--models", type=Path, help="keep what the models say here, and take it from here")
    command.add_argument("--epochs", type=positive, help="of each training; the preset's unless given")
    options = command.parse_args(arguments)
    use_threads(options.threads)
    cells = chosen_cells(options.only, cifar10n=options.cifar10n is not None)
    device = str(resolve_device(options.device))
    if options.models:
        check_writable(options.models / "models", option="--models")
    print(machine_line(device), flush=True)
    roots = {"digits": None, "fashion-mnist": options.fashion_mnist, "cifar10n": options.cifar10n}
    tables: dict[str, dict[str, dict[str, Tally]]] = {}
    errors: dict[str, list[str]] = {}
    config = TrainConfig(device=device, epochs=options.epochs)
    size = config.settings().image_size
    sources = {  # all of them before the first training: a folder that is not there is told now
        name: load_source(name, root=roots[name], size=size, limit=12_000 if name != "digits" else None)
        for name in dict.fromkeys(cell.dataset for cell in cells)
    }
    for cell in cells:
        seeded = [replace(config, seed=seed) for seed in range(options.seeds)]
        models = [stored(cell, sources[cell.dataset], each, options.models) for each in seeded]
        least = min(len(judged.true) for judged in models)
        for pairs in (None, *MORE_PAIRS):
            held_out = round(cell.audited * HOLDOUT) if pairs is None else pairs
            if held_out <= least / 2:  # else few are left to be judged
                title = "pairs as `fasten train` holds them out" if pairs is None else f"{pairs:,} pairs"
                tables.setdefault(title, {})[str(cell)] = tallies(models, held_out, options.draws)
        errors[str(cell)] = transition_errors(models)
        print(f"{cell}: done", flush=True)
    print_tables(tables, errors, seeds=options.seeds, count=options.draws)
    return 0


def print_tables(
    tables: dict[str, dict[str, dict[str, Tally]]], errors: dict[str, list[str]], *, seeds: int, count: int
) -> None:
    """Markdown: rules by cells for each number of pairs, and errors of T by cells."""
    print(
        f"\nPrecision of the changes % · share of labels changed % · share of draws that change anything % · share of "
        f"draws that keep the promise of {100 * TARGET:g} %; {seeds} models × {count} draws"
    )
    for title, table in tables.items():
        cells = list(table)
        print(f"\n{title}:\n")
        print("| rule | " + " | ".join(cells) + " |")
        print("|---|" + "---|" * len(cells))
        for rule in RULES:
            print(f"| {rule} | " + " | ".join(str(table[cell][rule]) for cell in cells) + " |")
    print("\nT of the original labels: mean absolute error (mean diagonal − true one), by rounds\n")
    print("| cell | " + " | ".join(str(rounds) for rounds in ROUNDS) + " |")
    print("|---|" + "---|" * len(ROUNDS))
    for name, row in errors.items():
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    finish(main)
