"""What each method of some rows was configured with, in words: enough to run it again.

A row's `config` has every choice. Of FasTEN's switches a reader wants to know what is different from the published
method or from ours, and of the rest what is different from the other methods on the same data.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.results import Row
from fasten_model.train import OURS, PAPER

_SWITCH = "method."
_OWN = ("seed", "device", "preset.epochs", "preset.least_steps")
"""Of each row, in the tables or in the settings."""

EXPLAINED = (
    "FasTEN's switches (`fasten_model.train.Method`), told by what differs from `PAPER` or `OURS`, whichever is nearer "
    "in the code that made this page; and whatever else is not as in most rows of the same data. All of it is in the "
    "rows' `config`."
)


def switch_lines(rows: Sequence[Row]) -> list[str]:
    """“- paper +folds: PAPER, but folds 2” of each method whose rows tell; several where its rows differ."""
    configs = [(row, json.loads(row.config)) for row in rows]
    usual = {
        dataset: _usual([config for row, config in configs if row.dataset == dataset])
        for dataset in {row.dataset for row in rows}
    }
    lines = []
    for row, config in configs:
        switches = {name.removeprefix(_SWITCH): value for name, value in config.items() if name.startswith(_SWITCH)}
        others = {name: value for name, value in _rest(config).items() if value != usual[row.dataset][name]}
        said = [*([_nearest(switches)] if switches else []), *([_listed(others)] if others else [])]
        if said:
            lines.append(f"- {row.method}: {'; '.join(said)}")
    return list(dict.fromkeys(lines))


def _nearest(switches: Mapping[str, object]) -> str:
    """“OURS, but rho 0.8”."""
    found = {}
    for name, method in (("OURS", OURS), ("PAPER", PAPER)):
        base = json.loads(json.dumps(asdict(method)))
        found[name] = {each: value for each, value in switches.items() if each not in base or base[each] != value}
    nearer = min(found, key=lambda name: len(found[name]))
    return f"{nearer}, but {_listed(found[nearer])}" if found[nearer] else nearer


def _rest(config: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in config.items() if not name.startswith(_SWITCH) and name not in _OWN}


def _usual(configs: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The most frequent value of every other choice."""
    values: dict[str, Counter[str]] = {}
    for config in configs:
        for name, value in _rest(config).items():
            values.setdefault(name, Counter())[json.dumps(value)] += 1
    return {name: json.loads(counts.most_common(1)[0][0]) for name, counts in values.items()}


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
