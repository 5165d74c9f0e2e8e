"""What people said of labels that the machine had changed: whether the promise is kept.

ρ promises a precision before anything is changed. In mode `auto` some of the changed labels, drawn at random, are shown
to people who are not told what the machine says (questions of kind `check`). Where too many of these turn out wrong,
nothing is changed any more, until enough rounds have passed that newer models deserve a new try.
"""

from collections import defaultdict
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq

from fasten_model.binomial import upper_bound
from pipeline.snapshot import Snapshot
from pipeline.trail import machine_runs
from pipeline.workspace import Workspace

LEVEL = 0.01
"""Risk of calling a kept promise broken, each time that it is looked at: people slip, too."""
RECENT_RUNS = 5
"""Checks of older runs say little of today's model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """First answers about labels that recent runs had changed."""

    answered: int
    """Labels, however many people have answered: two who look at one image do not err independently."""
    right: int
    """People said what the machine had said, without having been shown it."""

    def contradict(self, precision: float) -> bool:
        """Whether the share of right ones is certainly below `precision` (Clopper–Pearson, one-sided)."""
        return upper_bound(self.right, self.answered, LEVEL) < precision


def checked(workspace: Workspace, snapshot: Snapshot, *, run_key: str = "") -> Checks:
    """The checks of the last runs before the run of that key, or of all: what it finds is the same when repeated."""
    named = (pc.field("asked_as") == "check") & (pc.field("answer") == "class") & pc.field("asked_by_run").is_valid()
    columns = ["sample_id", "label", "asked_by_run", "annotation_id"]
    rows = pq.read_table(snapshot.labels_path, columns=columns, filters=named).sort_by("annotation_id")
    said: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in rows.to_pylist():
        said[row["asked_by_run"]].setdefault(row["sample_id"], row["label"])
    answered = right = 0
    for run in [run for run in machine_runs(workspace) if run.run_key != run_key][:RECENT_RUNS]:
        answers = said.pop(run.run_key, {})
        if not answers:
            continue
        asked = pc.field("sample_id").isin(list(answers))
        changed = pq.read_table(run.path, columns=["sample_id", "suggestion"], filters=asked).to_pylist()
        suggestion = {row["sample_id"]: row["suggestion"] for row in changed}
        for sample, label in answers.items():
            answered += sample in suggestion
            right += suggestion.get(sample) == label
    return Checks(answered=answered, right=right)
