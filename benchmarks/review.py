"""The review loop, closed, with simulated reviewers: labels set right against reviews spent, policy against policy.

    python -m benchmarks.review --dataset digits --noise instance:0.4 asym:0.4 --seeds 5
    python -m benchmarks.review --dataset cifar10n --root DIR --noise human:worst --device cuda --preset fast
    python -m benchmarks.review --report benchmarks/results/review_digits.parquet …

Every policy starts from the same given labels, the same audited samples and, in the first round, the same model. A
round trains on everything decided so far, as the product does (`fasten_model.fit`), asks what the policy wants to know,
and gets answers of which some are wrong. Rows are kept round by round; a run that was stopped goes on where it was.
Policies: `benchmarks.review_loop.policies`; figures: `benchmarks.review_loop.report`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import finish, parser, positive, results_path, share, use_threads
from benchmarks.data import DATASETS, NoiseSpec, Source, load_source, parse_noise
from benchmarks.plan import HANDED
from benchmarks.report import settings_line
from benchmarks.review_loop.looks import Looks, Setup
from benchmarks.review_loop.play import Game, play
from benchmarks.review_loop.policies import POLICIES
from benchmarks.review_loop.pool import Pool, draw_pool
from benchmarks.review_loop.report import markdown
from benchmarks.review_loop.rows import RoundRow
from benchmarks.rows_file import RowsFile, check_writable, read_file
from benchmarks.run_notes import exit_status, warn_of_kept
from fasten_model.device import resolve_device
from fasten_model.errors import DataError
from fasten_model.holding_out import MOST_FOLDS
from fasten_model.presets import PRESETS
from fasten_model.relabel import CERTAINTY, TARGET_PRECISION
from fasten_model.train import TrainConfig
from pipeline.settings import PROMISING_FOLDS

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much of a data set is played with, where the command line says nothing."""

    samples: int
    audited: int
    batch: int
    rounds: int
    steps: int
    side: int
    """Of the square images."""


SIZES = {
    "digits": Size(samples=1198, audited=200, batch=110, rounds=4, steps=200, side=16),
    "fashion-mnist": Size(samples=3000, audited=400, batch=375, rounds=4, steps=300, side=16),
}
OTHER = Size(samples=20_000, audited=1000, batch=1000, rounds=5, steps=1500, side=32)
"""Of all other data sets: for a GPU."""


def add_options(made: argparse.ArgumentParser) -> None:
    """On which data, who asks, how much, how to train, where to keep it."""
    made.add_argument("--dataset", choices=DATASETS, default="digits")
    made.add_argument("--root", type=Path, help="folder of the data's files")
    made.add_argument("--limit", type=positive, help="keep at most so many images of each part in memory")
    made.add_argument("--noise", nargs="+", type=parse_noise, default=[parse_noise("instance:0.4")], metavar="KIND",
                      help="one or several cells, as for benchmarks.learn")  # fmt: skip
    made.add_argument("--policies", nargs="+", metavar="NAME", help=f"default all: {'; '.join(POLICIES)}")
    made.add_argument("--seeds", type=positive, default=3, help="how many: 0, 1, …")
    made.add_argument("--first-seed", type=int, default=0)
    made.add_argument("--samples", type=positive, help="N, labels to set right")
    made.add_argument("--audited", type=positive, help="C of them, drawn at random, audited before the first round")
    made.add_argument("--batch", type=positive, help="questions of a round")
    made.add_argument("--rounds", type=positive)
    made.add_argument("--reviewer-error", type=float, default=0.03, help="probability that an answer is wrong")
    made.add_argument("--audit-folds", type=int, choices=range(1, MOST_FOLDS + 1), metavar="N", default=PROMISING_FOLDS,
                      help="models that each look comes from, as in the product's mode `auto`")  # fmt: skip
    made.add_argument("--target-precision", type=share, default=TARGET_PRECISION)
    made.add_argument("--certainty", type=share, default=CERTAINTY, help="of that promise")
    made.add_argument("--folds", type=int, choices=range(2, MOST_FOLDS + 1), metavar="N", default=3,
                      help="of the cross-entropy model that is cleanlab's own")  # fmt: skip
    made.add_argument("--preset", choices=tuple(PRESETS), default="small")
    made.add_argument("--steps", type=positive, help="of each training")
    made.add_argument("--side", type=positive, help="of the square images")
    made.add_argument("--flip", action=argparse.BooleanOptionalAction, help="mirror pictures (default: by data set)")
    made.add_argument("--out", type=Path, help="where to, without ending (default: benchmarks/results/review_DATASET)")
    made.add_argument("--report", nargs="+", type=Path, metavar="PARQUET", help="run nothing; show these files' rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is played."""

    dataset: str
    source: Source
    noises: tuple[NoiseSpec, ...]
    seeds: tuple[int, ...]
    policies: tuple[str, ...]
    size: Size
    reviewer_error: float
    setup: Setup

    def settings(self) -> dict[str, object]:
        """What rows of one file must agree on. More rounds, seeds, cells and policies may join later."""
        size, config = self.size, self.setup.config
        return {
            "dataset": self.dataset,
            "source": [len(self.source.train_images), len(self.source.test_images)],
            "samples": size.samples,
            "audited": size.audited,
            "batch": size.batch,
            "reviewer_error": self.reviewer_error,
            "audit_folds": self.setup.audit_folds,
            "target_precision": self.setup.target_precision,
            "certainty": self.setup.certainty,
            "folds": self.setup.folds,
            "preset": config.preset,
            "steps": size.steps,
            "side": size.side,
            "horizontal_flip": config.horizontal_flip,
            "device": resolve_device(config.device).type,
        }

    def draw(self, noise: NoiseSpec, seed: int) -> Pool:
        """The pool of `noise`, the same for each policy."""
        return draw_pool(
            self.source, noise, samples=self.size.samples, audited=self.size.audited,
            reviewer_error=self.reviewer_error, seed=seed,
        )  # fmt: skip


def plan_from(options: argparse.Namespace) -> Plan:
    """Read the data and settle every choice; `DataError` for one that cannot be."""
    usual = SIZES.get(options.dataset, OTHER)
    names = ("samples", "audited", "batch", "rounds", "steps", "side")
    size = Size(**{name: getattr(options, name) or getattr(usual, name) for name in names})
    unknown = [name for name in options.policies or () if name not in POLICIES]
    if unknown:
        raise DataError(f"no policy is called {unknown[0]!r}; there are {', '.join(POLICIES)}")
    config = TrainConfig(
        preset=options.preset,
        image_size=size.side,
        horizontal_flip=options.flip if options.flip is not None else options.dataset not in HANDED,
        device=str(resolve_device(options.device)),
    )
    limit = options.limit or (3 * size.samples if options.dataset in ("fashion-mnist", "cifar10n") else None)
    return Plan(
        dataset=options.dataset,
        source=load_source(options.dataset, root=options.root, size=size.side, limit=limit),
        noises=tuple(options.noise),
        seeds=tuple(range(options.first_seed, options.first_seed + options.seeds)),
        policies=tuple(options.policies or POLICIES),
        size=size,
        reviewer_error=options.reviewer_error,
        setup=Setup(
            config=config,
            steps=size.steps,
            audit_folds=options.audit_folds,
            target_precision=options.target_precision,
            certainty=options.certainty,
            folds=options.folds,
        ),
    )


def run(plan: Plan, results: RowsFile[RoundRow]) -> list[RoundRow]:
    """Play every round that `results` does not have yet, all cells of one seed first, a line printed for each; all
    rounds of these games, failed ones too.

    `DataError` where a pool cannot be drawn; that of every noise is tried with the first seed before anything else.
    """
    asked = {
        (plan.dataset, str(noise), seed, policy, number)
        for noise in plan.noises
        for seed in plan.seeds
        for policy in plan.policies
        for number in range(1, plan.size.rounds + 1)
    }
    kept = [row for row in results.rows() if row.key in asked and row.error is None]
    warn_of_kept(results.path, kept, plan.setup.config.device)
    for noise in plan.noises[1:]:  # the first is drawn below
        plan.draw(noise, plan.seeds[0])
    for seed in plan.seeds:
        for noise in plan.noises:
            pool = plan.draw(noise, seed)
            game = Game(
                dataset=plan.dataset, noise=str(noise), pool=pool, setup=plan.setup, rounds=plan.size.rounds,
                batch=plan.size.batch, device=plan.setup.config.device,
            )  # fmt: skip
            looks = Looks(pool, plan.setup)
            for name in plan.policies:
                play(game, POLICIES[name], looks, results, lambda row: print(_line(row), flush=True))
    return [row for row in results.rows() if row.key in asked]


def _line(row: RoundRow) -> str:
    head = f"{row.cell}, seed {row.seed}, {row.policy}, round {row.round}: "
    if row.error is not None:
        return head + row.error
    handed, wrong = row.handed or [0.0], row.wrong or []
    found = f"{sum(wrong)} of {len(wrong)} asked were wrong" if wrong else "nobody asked"
    return f"{head}{found}; labels right {100 * handed[0]:.2f} → {100 * handed[-1]:.2f} %; {row.seconds or 0:.1f} s"


def report(title: str, paths: Sequence[Path]) -> str:
    """The rows of all `paths` as Markdown."""
    rows: list[RoundRow] = []
    lines = []
    for path in paths:
        found, settings = read_file(path, RoundRow)
        rows += found
        lines.append(settings_line(path, settings))
    return markdown(title, rows, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, or report."""
    made = parser("benchmarks.review", __doc__)
    add_options(made)
    options = made.parse_args(arguments)
    use_threads(options.threads)
    if options.report:
        tables = results_path(options.out).with_suffix(".md") if options.out else None
        if tables:
            check_writable(tables)
        text = report("The review loop: all files", options.report)
        print(text)
        if tables:
            tables.write_text(text, encoding="utf-8")
        return 0
    plan = plan_from(options)
    results = RowsFile(
        results_path(options.out or RESULTS / f"review_{options.dataset}"), RoundRow, plan.settings()
    )  # fmt: skip
    tables = results.path.with_suffix(".md")
    try:
        rows = run(plan, results)
    finally:
        if results.path.exists():
            text = report(f"The review loop: {plan.dataset}", [results.path])
            tables.write_text(text, encoding="utf-8")
    print(f"{text}\nThis is {tables}, its rows are {results.path}.")
    return exit_status(rows, tables)


if __name__ == "__main__":
    finish(main)
