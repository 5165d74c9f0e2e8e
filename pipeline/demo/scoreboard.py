"""The score board: what each round of the loop did to the labels, told by the truth that the loop never saw."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """`count` of `total`."""

    count: int
    total: int

    @property
    def fraction(self) -> float:
        """0–1; 0 of nothing is 0."""
        return self.count / self.total if self.total else 0.0

    def __str__(self) -> str:
        return f"{self.count:,} of {self.total:,} ({self.fraction:.1%})" if self.total else "none"


def wrong_labels(truths: Mapping[str, str], labels: Mapping[str, str]) -> Share:
    """How many of `labels` (`sample_id` → label) are not the truth; samples without a known truth do not count."""
    known = [(truths[sample_id], label) for sample_id, label in labels.items() if sample_id in truths]
    return Share(count=sum(truth != label for truth, label in known), total=len(known))


def accuracy(truths: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of `predicted` that is the truth, 0–1, in the same order; 0 of nothing is 0."""
    right = sum(truth == label for truth, label in zip(truths, predicted, strict=True))
    return Share(count=right, total=len(truths)).fraction


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRow:
    """One round: `fasten/retrain` ran once, then reviewers took what it queued."""

    round_number: int
    labels: int
    """Labels whose truth is known, on which `wrong_before` and `wrong_after` are counted."""
    wrong_before: int
    """Wrong labels as the annotators left them (majority of the votes)."""
    wrong_after: int
    """Wrong labels in the corrected data set: people's decisions, and in mode `auto` the machine's."""
    wrong_if_taken: int
    """Wrong labels if every suggestion of the model were taken, whatever its confidence."""
    accuracy: float | None
    """The model's, on the held-out images, 0–1; None where nothing is held out."""
    plain_accuracy: float | None
    """The same of plain cross-entropy, trained on the same data; None where it was not trained."""
    waiting: int
    """Tasks in the queue that nobody has answered when the round ends."""
    shown: int = 0
    """Tasks that reviewers answered in this round."""
    shown_wrong: int = 0
    """Of those, how many carried a wrong label indeed."""
    seconds: float = 0.0


def scoreboard(rows: Sequence[RoundRow], *, title: str = "Round by round, told by the truth") -> Table:
    """One row per round, readable on a terminal of 80 columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in (
        "#", "wrong\nbefore", "wrong\nafter", "all\ntaken", "held\nout", "plain\nCE",
        "wait-\ning", "wrong of\nasked", "time",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row.round_number),
            _share(row.wrong_before, row.labels),
            _share(row.wrong_after, row.labels),
            _share(row.wrong_if_taken, row.labels),
            _percent(row.accuracy),
            _percent(row.plain_accuracy),
            f"{row.waiting:,}",
            f"{row.shown_wrong}/{row.shown}" if row.shown else "–",
            f"{row.seconds:.0f} s",
        )
    if rows and rows[-1].labels:
        table.caption = (
            f"wrong before, after, if all suggestions were taken: of {rows[-1].labels:,} labels whose truth is known · "
            "held out, plain CE: accuracy of FasTEN and of plain cross-entropy on images the loop never saw"
        )
        table.caption_justify = "left"
    return table


def _share(count: int, total: int) -> str:
    return f"{count:,} {count / total:.1%}" if total else "–"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def save_rows(rows: Sequence[RoundRow], path: Path) -> None:
    """Writes `path` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False
    ) as file:
        try:
            json.dump([asdict(row) for row in rows], file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    Path(file.name).replace(path)


def load_rows(path: Path) -> list[RoundRow]:
    """Raises DataError when `path` is missing or was not written by `save_rows`."""
    try:
        return [_row(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a score board: {error}") from error


def _row(entry: Mapping[str, object]) -> RoundRow:
    hints = get_type_hints(RoundRow)
    for field in fields(RoundRow):
        wanted = (int, float) if hints[field.name] is float else hints[field.name]
        if field.name in entry and not isinstance(entry[field.name], wanted):
            raise ValueError(f"{field.name} is {entry[field.name]!r}")
    return RoundRow(**entry)  # type: ignore[arg-type]
