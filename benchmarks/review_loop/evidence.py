"""What the machine says of itself, and the truth beside it: calibration, promises, estimates."""

from collections.abc import Mapping
from statistics import fmean

from benchmarks.report import table, unique
from benchmarks.review_loop.measures import Run, changed_labels, noise_by, promise_kept
from benchmarks.review_loop.policies import BIASED, POLICIES
from benchmarks.review_loop.rows import RoundRow

Runs = Mapping[tuple[int, str], Run]
"""(seed, policy) → rounds, of one cell."""


def calibration(runs: Runs) -> str:
    """Reliability tables: of the first round, where all policies look at the same model, and of ours in the last."""
    parts = []
    for kind, words in (("fasten", "Our model"), ("folds", "Cross-entropy, out of fold")):
        names = [name for name in unique(name for _, name in runs) if POLICIES[name].kind == kind]
        if names:
            rows = [run[0] for (_, name), run in runs.items() if name == names[0]]
            parts.append(f"{words}, first round: {reliability_table(rows)}")
    rows = [run[-1] for (_, name), run in runs.items() if name == "ours, suggest"]
    if rows:
        parts.append(f"Our model in `suggest`, last round: {reliability_table(rows)}")
    return "\n\n".join(parts)


def reliability_table(rows: list[RoundRow]) -> str:
    """All seeds' open samples together, in ten bins."""
    count, predicted, wrong = (
        [sum(values) for values in zip(*columns, strict=True)]
        for columns in (
            [row.bin_count or [] for row in rows],
            [row.bin_predicted or [] for row in rows],
            [row.bin_wrong or [] for row in rows],
        )
    )
    total = sum(count)
    if not total:
        return "no open sample."
    gap = sum(abs(p - w) for p, w in zip(predicted, wrong, strict=True)) / total
    body = [
        [f"{place / len(count):.1f}–{(place + 1) / len(count):.1f}", str(n), _percent(p, n), _percent(w, n)]
        for place, (n, p, w) in enumerate(zip(count, predicted, wrong, strict=True))
    ]
    return f"ECE {100 * gap:.2f} %\n\n" + table(["error probability", "labels", "mean said %", "wrong %"], body)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "–"


def promises(runs: Runs) -> str:
    """Of the rounds in which labels would be changed at ρ: how often as many were right as promised."""
    body = []
    for name in (each for each in POLICIES if any(each == name for _, name in runs)):
        own = [run for (_, each), run in runs.items() if each == name]
        made = [row for run in own for row in run if promise_kept(row) is not None]
        if all(row.rho is None for run in own for row in run):
            continue
        changed, right = (sum(counts) for counts in zip((0, 0), *map(changed_labels, made), strict=True))
        kept = [promise_kept(row) for row in made]
        broken = sum(any(promise_kept(row) is False for row in run) for run in own)
        body.append(
            [
                name,
                f"{len(made)} of {sum(len(run) for run in own)}",
                _percent(right, changed),
                f"{changed / len(made):.0f}" if made else "–",
                f"{sum(map(bool, kept))} of {len(made)}",
                f"{len(own) - broken} of {len(own)}",
            ]
        )
    promised = next((row.target_precision for run in runs.values() for row in run if row.target_precision), None)
    said = (
        f"Promised: {100 * (promised or 0):g} % of the changed labels are right. Only `auto` changes "
        "any: counted are all that it hands out after a round, those of earlier promises among them. For all other "
        "policies the promise is what it would have been.\n\n"
        if promised
        else ""
    )
    heads = [
        "policy",
        "rounds that change labels",
        "changed labels right %",
        "changed a round",
        "promise kept",
        "seeds",
    ]
    return said + table(heads, body) if body else "nothing was promised"


def estimates(runs: Runs) -> str:
    """From what was drawn at random, and from all answers as if they had been; beside the truth, after all rounds."""
    body = []
    shown = ("random", "ours, suggest", "ours, auto", BIASED)
    for name in (each for each in shown if any(each == name for _, name in runs)):
        own = [run for (_, each), run in runs.items() if each == name]
        last = [run[-1] for run in own]
        body.append(
            [
                name,
                _mean([row.noise_rate for row in last]),
                *(_mean([noise_by(run, kind) for run in own]) for kind in ("rounds", "audits", "everything")),
                _mean([row.diagonal_true for row in last]),
                _mean([row.diagonal_estimated for row in last]),
                _mean([row.transition_absolute for row in last], 2),
                _mean([row.accuracy_true for row in last]),
                _mean([row.accuracy_estimated for row in last]),
            ]
        )
    heads = [
        "policy",
        "wrong labels %",
        "by each slice",
        "by all audits",
        "by all answers",
        "T diagonal %",
        "T̂ diagonal",
    ]
    heads += ["T̂ abs. error", "model right %", "as estimated"]
    return table(heads, body)


def _mean(values: list[float | None], digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * fmean(known):.{digits}f}" if known else "–"
