"""Decisions of people that the model contradicts, for a second person; asked on demand only."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.records import ReviewTask
from pipeline.triage.reasons import recheck_reason

Contradiction = Mapping[str, Any]
"""One decision: `sample_id, image_url, label, provenance, auditor, model_label, probability` (of `model_label`), and
where known `error_probability` (that the decision is wrong, people being mostly right) and `model_version`."""


def recheck_tasks(
    rows: Iterable[Contradiction],
    n: int,
    *,
    key: Callable[[str, str], str],
    asked: Iterable[str] = (),
    references: Mapping[str, tuple[str, ...]] | None = None,
    run_key: str = "",
) -> tuple[ReviewTask, ...]:
    """Questions about the `n` reviewed decisions that the model contradicts most, those never rechecked before.

    Those whose image has no address cannot be shown. Audited decisions are not among them: the model may not choose
    which of its own measures are measured again. Their auditor may (`contradicted` lists them).
    """
    known = frozenset(asked)
    reviewed = (row for row in contradicted(rows) if row["provenance"] == "review" and row["image_url"])
    chosen = [row for row in reviewed if key(row["sample_id"], "recheck") not in known][:n]
    return tuple(
        ReviewTask(
            push_key=key(row["sample_id"], "recheck"),
            sample_id=row["sample_id"],
            image_url=row["image_url"],
            asked_as="recheck",
            current_label=row["label"],
            model_label=row["model_label"],
            confidence=row["probability"],
            reason=recheck_reason(label=row["label"], model_label=row["model_label"], probability=row["probability"]),
            priority=row.get("error_probability", row["probability"]),
            model_version=row.get("model_version", ""),
            run_key=run_key,
            rank=place / len(chosen),
            references=tuple((references or {}).get(row["model_label"], ())),
        )
        for place, row in enumerate(chosen)
    )


def contradicted(rows: Iterable[Contradiction]) -> list[Contradiction]:
    """Decisions that the model contradicts, audits too, the most strongly contradicted first: for people to read."""
    found = [row for row in rows if row["model_label"] != row["label"]]
    return sorted(found, key=lambda row: (-row["probability"], row["sample_id"]))
