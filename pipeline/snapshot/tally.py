"""What a pull counts while it runs, and what it tells at its end."""

from collections import Counter
from dataclasses import dataclass
from typing import get_args

from pipeline.snapshot.said import Said
from pipeline.snapshot.settle import Fate

_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class PullReport:
    """What one pull found, in numbers."""

    annotations: dict[str, int]
    """Annotations read, by origin."""
    samples: dict[str, int]
    """Samples by their `settle.Fate`."""
    linked_by_image: int
    """Audited tasks that were matched to a labelled sample by their image."""
    rejected: dict[str, int]
    """What was left out, by reason, most frequent first."""
    examples: dict[str, tuple[str, ...]]
    """A few of each reason, with particulars."""
    notes: dict[str, int]
    """What was used although something about it is odd."""
    unsettled: int = 0
    """Images and tasks that a server failed over: the next pull has to look again, whatever the projects say."""

    def summary(self) -> str:
        """One line for a log."""
        counts = self.samples
        line = f"{counts['noisy']} noisy, {counts['audit']} audited and {counts['review']} reviewed samples"
        undecided = {"disagreed about": "disputed", "were not sure of": "not_sure", "found unusable": "unusable"}
        line += "".join(f"; {counts[fate]} that people {did}" for did, fate in undecided.items() if counts[fate])
        if self.rejected:
            line += f"; left out: {sum(self.rejected.values())} (" + _listed(self.rejected) + ")"
        return line


class Tally:
    """Counts while a pull runs."""

    def __init__(self) -> None:
        self.annotations = Counter[str](labels=0, audit=0, review=0)
        self.samples = Counter[str](dict.fromkeys(get_args(Fate), 0))
        self.notes = Counter[str]()
        self.linked = 0
        self.ground_truth = 0
        self.unsettled = 0
        self._rejected = Counter[str]()
        self._examples: dict[str, list[str]] = {}

    def heard(self, said: Said) -> None:
        """Count one annotation."""
        answer = said.answer
        self.annotations[answer.origin] += 1
        where = f"task {said.task_id} of project {said.project_id}"
        if answer.kind == "unknown_class":
            self.reject("annotation names an unknown class", f"{where}: {str(answer.label)[:80]!r}")
        elif answer.kind == "several":
            self.reject("annotation with several classes", where)
        elif answer.kind == "empty":
            self.reject("annotation is empty", where)

    def reject(self, reason: str, where: str) -> None:
        self._rejected[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(where)

    def report(self) -> PullReport:
        if self.ground_truth > 10 and self.ground_truth > self.samples["noisy"]:
            # Label Studio marks every annotation that is imported with its task as ground truth unless told not to.
            self.notes["samples marked as ground truth in the labels project are taken as audited"] = self.ground_truth
        return PullReport(
            annotations=dict(self.annotations),
            samples=dict(self.samples),
            linked_by_image=self.linked,
            rejected=dict(self._rejected.most_common()),
            examples={reason: tuple(examples) for reason, examples in self._examples.items()},
            notes=dict(self.notes),
            unsettled=self.unsettled,
        )


def _listed(counts: dict[str, int]) -> str:
    first = [f"{count} × {reason}" for reason, count in list(counts.items())[:3]]
    return ", ".join(first) + (", …" if len(counts) > 3 else "")
