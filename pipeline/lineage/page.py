"""How snapshots, differences and plans are told: as rows and lines for people, as JSON values for machines."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.lineage.catalogue import Catalogue, Entry
from pipeline.lineage.changes import Change, Difference
from pipeline.lineage.garbage import Plan
from pipeline.lineage.usage import Usage

SNAPSHOT_COLUMNS = ("SNAPSHOT", "PULLED", "PARENT", "NOISY", "CLEAN", "UNDECIDED", "LEFT OUT", "WHERE", "IN USE BY")
CHANGE_COLUMNS = ("SAMPLE", "WAS", "IS", "BY")


def snapshot_cells(entry: Entry, used: Usage) -> tuple[str, ...]:
    """A row of `SNAPSHOT_COLUMNS`."""
    manifest = entry.manifest
    counts = (manifest.rows.get(name, 0) for name in ("noisy", "clean", "undecided"))
    return (
        entry.snapshot_id,
        f"{manifest.created_at:%Y-%m-%d %H:%M}",
        manifest.parent or "–",
        *(f"{count:,}" for count in (*counts, sum(manifest.rejected.values()))),
        entry.where,
        ", ".join(_users(used)) or "–",
    )


def _users(used: Usage) -> Iterable[str]:
    yield from ("latest",) if used.latest else ()
    yield from used.aliases
    yield from ("last round",) if used.completed else ()
    for runs, what in ((used.tracked, "in MLflow"), (used.local_runs, "here")):
        if runs:
            yield f"{len(runs)} run{'s' if len(runs) > 1 else ''} {what}"


def snapshot_values(entry: Entry, used: Usage, *, asked: bool) -> Mapping[str, Any]:
    """Everything about a snapshot; `asked`: whether MLflow was."""
    manifest = entry.manifest
    return {
        "snapshot_id": entry.snapshot_id,
        "created_at": manifest.created_at.isoformat(),
        "parent": manifest.parent,
        "schema_version": manifest.schema_version,
        "rows": manifest.rows,
        "left_out": manifest.rejected,
        "local": entry.local,
        "stored": entry.stored,
        "latest": used.latest,
        "last_completed_round": used.completed,
        "aliases": used.aliases,
        "mlflow_runs": [use.run_id for use in used.tracked] if asked else None,
        "local_runs": used.local_runs,
    }


def difference_lines(old: Entry, new: Entry, difference: Difference) -> Iterator[str]:
    """The figures, before single samples are told."""
    yield " → ".join(f"{one.snapshot_id} ({one.manifest.created_at:%Y-%m-%d %H:%M})" for one in (old, new))
    if not difference.anything:
        yield "no label differs"
        return
    for verb, names in (("added", difference.classes_added), ("removed", difference.classes_removed)):
        if names:
            yield f"classes {verb}: {', '.join(names)}"
    samples = difference.samples
    yield (
        f"samples: {samples['relabelled']:,} with another label, {samples['moved']:,} moved with the same, "
        f"{samples['added']:,} added, {samples['removed']:,} removed"
        + (f", {samples['image']:,} with another image" if samples["image"] else "")
    )
    for (was, now), count in sorted(difference.moves.items()):
        yield f"  {was} → {now}: {count:,}"
    for who, done in sorted(difference.answers.items(), key=lambda each: (-each[1].total(), each[0])):
        yield f"answers of {who}: " + ", ".join(f"{done[what]:,} {what}" for what in sorted(done))


def change_cells(change: Change) -> tuple[str, ...]:
    """A row of `CHANGE_COLUMNS`."""
    by = (f"{each.who} ({each.how}{f', {each.at:%Y-%m-%d %H:%M}' if each.at else ''})" for each in change.by)
    return (
        change.sample_id,
        _labelled(change.place_was, change.label_was),
        _labelled(change.place_is, change.label_is),
        ", ".join(by) or "–",
    )


def _labelled(place: str | None, label: str | None) -> str:
    return "–" if place is None else place if label is None else f"{place} “{label}”"


def difference_values(old: Entry, new: Entry, difference: Difference) -> Mapping[str, Any]:
    """Everything that differs."""
    return {
        "before": old.snapshot_id,
        "after": new.snapshot_id,
        "classes_added": difference.classes_added,
        "classes_removed": difference.classes_removed,
        "samples": dict(difference.samples),
        "moves": [{"was": was, "is": now, "samples": count} for (was, now), count in sorted(difference.moves.items())],
        "answers": {who: dict(done) for who, done in sorted(difference.answers.items())},
        "changes": [
            {
                "sample_id": change.sample_id,
                "kind": change.kind,
                "was": {"place": change.place_was, "label": change.label_was},
                "is": {"place": change.place_is, "label": change.label_is},
                "by": [
                    {"who": each.who, "how": each.how, "at": each.at.isoformat() if each.at else None}
                    for each in change.by
                ],
            }
            for change in difference.changes
        ],
    }


def plan_lines(catalogue: Catalogue, plan: Plan, *, dry_run: bool) -> Iterator[str]:
    """What goes, and with `dry_run` why the rest stays."""
    verb = "would remove" if dry_run else "removing"
    yield f"{verb} {len(plan.removals):,} of {len(catalogue.entries):,} snapshots"
    for removal in plan.removals:
        runs = f"; MLflow runs refer to it: {', '.join(removal.runs)}" if removal.runs else ""
        entry = removal.entry
        yield f"  {entry.snapshot_id}  {entry.manifest.created_at:%Y-%m-%d %H:%M}  {entry.where}{runs}"
    if plan.leftovers:
        yield f"{verb} what publications left behind that never ended: {', '.join(plan.leftovers)}"
    if dry_run:
        for snapshot_id, reasons in plan.kept.items():
            yield f"  {snapshot_id} stays: {', '.join(reasons)}"
    for where in catalogue.damaged:
        yield f"  {where} is damaged and left alone: pull again, or remove it"
