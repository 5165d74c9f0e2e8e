"""Rounds as Markdown: every policy beside the others, then what the machine promised and estimated, and the truth."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from benchmarks.measures import mean_with_interval
from benchmarks.report import made_lines, table, unique
from benchmarks.review_loop.evidence import calibration, estimates, promises
from benchmarks.review_loop.measures import Run, area, curve, precision, reviews_to_reach, runs_of
from benchmarks.review_loop.policies import BOUNDS, CLEANLAB, OURS, POLICIES
from benchmarks.review_loop.rows import RoundRow

GOALS = (0.95, 0.98, 0.99)
SHARES = (0.01, 0.05, 0.10)

LEGEND = """\
Mean ± half of the 95 % confidence interval over the seeds (Student's t). Reviews: answers by people, the audits before
the first round among them. Labels right: share of all labels handed out that are the true one; a label is handed out as
it was given until a person decides, and in `auto` also as the model has changed it. Area: mean of that share over all
reviews after the first audits, up to the number that every policy has. Precision: of the first 1, 5 and 10 % of all
labels that were asked about, how many were really wrong; “targeted” leaves the random slices of ours out. To reach: the
reviews from which on the share stays there for good; “> 650 (97.1)” where it does not in some seed: the end of the
curve and the mean share there. n: seeds. Runs that were stopped before their last round are left out.
"""


def markdown(title: str, rows: Sequence[RoundRow], settings: Sequence[str]) -> str:
    """Everything about `rows`. settings: lines that say how they were made."""
    good = [row for row in rows if row.error is None]
    runs = runs_of(good)
    parts = [f"# {title}", *settings, *made_lines(rows), LEGEND]
    for cell in unique(row.cell for row in good):
        inside = _finished({(seed, policy): run for (where, seed, policy), run in runs.items() if where == cell})
        parts += [f"## {cell}", _given(inside.values())]
        parts += ["### Reviews spent", _policies(inside), _against_cleanlab(inside)]
        parts += ["### Labels right % after so many reviews: as handed out", _curves(inside, suggested=False)]
        parts += ["### Labels right % after so many reviews: with the model's suggestions taken for whatever is open",
                  _curves(inside, suggested=True)]  # fmt: skip
        parts += ["### Calibration of the error probability", calibration(inside)]
        parts += ["### Promises", promises(inside), "### Estimates", estimates(inside)]
    failed = [row for row in rows if row.error is not None]
    if failed:
        lines = [f"- {row.cell}, seed {row.seed}, {row.policy}, round {row.round}: {row.error}" for row in failed]
        parts += ["## Failed", "\n".join(lines)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


Runs = dict[tuple[int, str], Run]
"""(seed, policy) → rounds, of one cell."""


def _finished(runs: "Runs") -> "Runs":
    """Those with as many rounds as any: a run that was stopped half-way would be compared with whole ones."""
    most = max(map(len, runs.values()), default=0)
    return {key: run for key, run in runs.items() if len(run) == most}


def _given(runs: Iterable[Run]) -> str:
    found = list(runs)
    first, noise = found[0][0], fmean(run[0].noise_rate or 0 for run in found)
    return (
        f"{first.samples:,} labels, {100 * noise:.1f} % of them wrong; {first.audited} audited before the first round; "
        f"rounds of {max(row.asked for run in found for row in run)} questions."
    )


def _of(runs: Runs, policy: str) -> list[Run]:
    return [run for (_, name), run in runs.items() if name == policy]


def _names(runs: Runs) -> list[str]:
    """In the order of `POLICIES`, whatever was run first."""
    return sorted(unique(name for _, name in runs), key=list(POLICIES).index)


def common_reviews(runs: Iterable[Run], batch: int | None = None) -> int:
    """Reviews after the first audits that every run had the chance to spend: its rounds × the largest batch."""
    found = list(runs)
    largest = batch or max(row.asked for run in found for row in run)
    return min(len(run) for run in found) * largest


def _show(values: Sequence[float | None], digits: int = 2) -> str:
    known = [100 * value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "–"
    mean = mean_with_interval(known)
    return f"{mean.mean:.{digits}f}" + ("" if mean.half_width is None else f" ± {mean.half_width:.{digits}f}")


def _policies(runs: Runs) -> str:
    reviews = common_reviews(runs.values())
    body = []
    for name in _names(runs):
        own = _of(runs, name)
        body.append(
            [
                name,
                _show([area(curve(run), reviews) for run in own]),
                _show([area(curve(run, suggested=True), reviews) for run in own]),
                *(_show([precision(run, share) for run in own], 1) for share in SHARES),
                _show([precision(run, 0.05, targeted=True) for run in own], 1),
                *(_reached(own, goal) for goal in GOALS),
                str(len(own)),
            ]
        )
    heads = ["policy", "area %", "area %, suggestions taken", *(f"precision at {share:.0%}" for share in SHARES)]
    heads += ["targeted, at 5%", *(f"to reach {goal:.0%}" for goal in GOALS), "n"]
    return table(heads, body)


def _reached(runs: Sequence[Run], goal: float) -> str:
    found = [reviews_to_reach(curve(run), goal, run[0].audited) for run in runs]
    known = [count for count in found if count is not None]
    if len(known) < len(found):
        ends = [curve(run) for run in runs]
        last = fmean(run[0].audited + len(values) - 1 for run, values in zip(runs, ends, strict=True))
        some = f", {len(known)} of {len(found)} did" if known else ""
        return f"> {last:.0f} ({100 * fmean(values[-1] for values in ends):.1f}{some})"
    mean = mean_with_interval([float(count) for count in known])
    return f"{mean.mean:.0f}" + ("" if mean.half_width is None else f" ± {mean.half_width:.0f}")


def _against_cleanlab(runs: Runs) -> str:
    """Reviews of ours, and of a perfect order, ÷ those of whichever way of cleanlab needs fewest, seed by seed."""
    lines = []
    for name in (each for each in (*OURS, *BOUNDS) if each in _names(runs)):
        for goal in GOALS:
            ratios, left = [], 0
            for seed in sorted({seed for seed, _ in runs}):
                mine = _spent(runs, seed, name, goal)
                theirs = [count for each in CLEANLAB if (count := _spent(runs, seed, each, goal)) is not None]
                if mine is None or not theirs:
                    left += 1
                else:
                    ratios.append(mine / min(theirs))
            if ratios:
                missing = f"; in {left} more seeds one of them does not get there" if left else ""
                lines.append(f"- {name}, {goal:.0%}: {_ratio(ratios)} of the reviews of cleanlab's best{missing}.")
    return "\n".join(lines)


def _spent(runs: Runs, seed: int, policy: str, goal: float) -> int | None:
    run = runs.get((seed, policy))
    return None if run is None else reviews_to_reach(curve(run), goal, run[0].audited)


def _ratio(ratios: Sequence[float]) -> str:
    mean = mean_with_interval(ratios)
    return f"{mean.mean:.2f}" + ("" if mean.half_width is None else f" ± {mean.half_width:.2f}")


def _curves(runs: Runs, *, suggested: bool) -> str:
    first = next(iter(runs.values()))
    batch = max(row.asked for run in runs.values() for row in run)
    places = range(0, common_reviews(runs.values(), batch) + 1, max(1, batch // 2))

    def at(values: Sequence[float], place: int) -> float:
        return values[min(place, len(values) - 1)]

    body = [
        [
            name,
            *(_show([at(curve(run, suggested=suggested), place) for run in _of(runs, name)], 1) for place in places),
        ]
        for name in _names(runs)
    ]
    return table(["policy", *(str(first[0].audited + place) for place in places)], body)
