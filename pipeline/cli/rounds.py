"""`fasten retrain | pull | triage | push | report`: the loop, whole and step by step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.console import out, printable, say
from pipeline.errors import ConfigError, FastenError
from pipeline.records import AskedAs, Mode
from pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from pipeline.queue import Change

Labels = Annotated[str | None, typer.Option("--labels-project", help="Id or title; else FASTEN_LABELS_PROJECT.")]
Audit = Annotated[str | None, typer.Option("--audit-project", help="Id or title; else FASTEN_AUDIT_PROJECT.")]
Review = Annotated[str | None, typer.Option("--review-project", help="Id or title; else FASTEN_REVIEW_PROJECT.")]
Reviews = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="The most answers that may wait; else FASTEN_QUEUE_SIZE.")
]
Minutes = Annotated[
    float | None,
    typer.Option(min=0, help="The most minutes of reviewers' work that may wait; else FASTEN_REVIEW_MINUTES."),
]

MOST_LISTED = 30
"""Questions that a dry run lists, unless `--verbose` wants all."""


def retrain(
    labels: Labels = None,
    audit: Audit = None,
    review: Review = None,
    force: Annotated[bool, typer.Option("--force", help="Also where nothing is new.")] = False,
    mode: Annotated[
        Mode | None,
        typer.Option(metavar="MODE", help="suggest: only people change labels. auto: so does what reaches ρ."),
    ] = None,
    reviews: Reviews = None,
    minutes: Minutes = None,
    rho: Annotated[
        str | None, typer.Option(metavar="RHO", help="A probability such as 0.8, or auto; else FASTEN_RHO.")
    ] = None,
) -> None:
    """Run one round here and now: pull, train, score, triage, push.

    The flow `fasten`, as `prefect deployment run fasten/retrain` runs it, but in this process and without a worker.
    """
    settings = load_settings(mode=mode, queue_size=reviews, review_minutes=minutes, rho=rho)
    if settings.prefect_api_url is None:  # Prefect would start a server of its own below the user's home
        raise ConfigError("no Prefect is set: run `fasten up`, or set FASTEN_PREFECT_API_URL")
    from pipeline.orchestrator import run_in_process

    parameters = {
        "labels_project": labels,
        "audit_project": audit,
        "review_project": review,
        "force": force,
        "mode": mode,
        "reviews": reviews,
        "minutes": minutes,
        "rho": rho if rho in (None, "auto") else float(rho),
    }
    state = run_in_process(parameters, api_url=settings.prefect_api_url)
    if not state.is_completed():
        raise FastenError(state.message or f"the flow ended {state.name}")
    say(f"{state.name}: {state.message}")


def pull(labels: Labels = None, audit: Audit = None, review: Review = None) -> None:
    """Pull labels, audits, reviews and images into a Parquet snapshot."""
    from pipeline import loop
    from pipeline.snapshot import open_snapshot

    settings = _settings(labels, audit, review)
    pulled = loop.pull_labels(settings, loop.survey(settings))
    manifest = open_snapshot(pulled.snapshot).manifest
    say(f"snapshot {manifest.snapshot_id}: {pulled.snapshot}")
    for name, count in manifest.rows.items():
        say(f"  {name:8} {count}")
    for why, count in manifest.rejected.items():
        say(f"  left out: {count} × {why}")


def triage(
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A scores.parquet; else that of the last round.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the most doubtful to list.")] = 10,
    recheck: Annotated[
        int,
        typer.Option("--recheck", min=0, metavar="N", help="List N decisions of people that the model contradicts."),
    ] = 0,
    labels: Labels = None,
) -> None:
    """Show what the scores say, and the most doubtful labels.

    With `--recheck` decisions of people instead, the most strongly contradicted first: `fasten push --recheck` asks a
    second person about the reviewed ones, audits are for their auditor to mend.
    """
    from pipeline import loop, scoring
    from pipeline.contradictions import contradictions_known
    from pipeline.triage import contradicted, count_decisions
    from pipeline.workspace import Workspace

    if recheck:
        if scores is not None:
            raise ConfigError("--recheck is about the last round's decisions: leave out --scores")
        folder = loop.last_run(_settings(labels, None, None))
        rows = contradictions_known(folder / "scores.parquet", Workspace(folder=folder.parent.parent))
        _list_contradicted(contradicted(rows)[:recheck])
        return
    path = scores or loop.last_run(_settings(labels, None, None)) / "scores.parquet"
    found = scoring.read_scores(path)
    for decision, count in count_decisions(scoring.decisions_of(found)).items():
        say(f"{decision:15} {count:,}")
    table = Table(box=None, pad_edge=False)
    for column in ("SAMPLE", "GIVEN", "MODEL SAYS", "WITH P", "WRONG WITH P", "DECISION"):
        table.add_column(column, overflow="fold")
    for row in found.sort_by([("priority", "descending"), ("sample_id", "ascending")]).slice(0, top).to_pylist():
        table.add_row(
            *(_plain(row[name]) for name in ("sample_id", "given_label", "model_label")),
            f"{row['model_label_probability']:.0%}",
            f"{row['error_probability']:.0%}",
            row["decision"],
        )
    if top:
        out.print(table)


def _list_contradicted(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        say("the model contradicts no decision")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("SAMPLE", "DECIDED", "BY", "AS", "MODEL SAYS", "WITH P"):
        table.add_column(column, overflow="fold")
    for row in rows:
        names = ("sample_id", "label", "auditor", "provenance", "model_label")
        table.add_row(*(_plain(row[name]) for name in names), f"{row['probability']:.0%}")
    out.print(table)


def push(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, question by question.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every question that changes.")] = False,
    reviews: Reviews = None,
    minutes: Minutes = None,
    recheck: Annotated[
        int,
        typer.Option("--recheck", min=0, metavar="N", help="Ask again about N decisions that the model contradicts."),
    ] = 0,
    labels: Labels = None,
    review: Review = None,
) -> None:
    """Bring the reviewers' queue up to date with the last scores.

    As many questions are added as the budget has room for. Of those that wait, what the model says otherwise now is
    updated, and what it no longer doubts is retired: served to nobody, and deleted a day later.

    What waits there already is not added again, and what a person has answered or begun is left alone. Decisions stay
    decided, unless a second person is to be asked about them with `--recheck`.
    """
    from pipeline import loop
    from pipeline.queue import ACTIONS

    settings = load_settings(labels_project=labels, review_project=review, queue_size=reviews, review_minutes=minutes)
    found = loop.survey(settings)
    pulled, scores = loop.last_round(settings, found)
    if dry_run:
        plan = loop.plan_questions(settings, found, pulled, scores, recheck=recheck)
        pushed = loop.preview_queue(settings, found, plan)
    else:
        pushed = loop.push_queue(settings, found, loop.triage_scores(settings, found, pulled, scores, recheck=recheck))
    verb = "would be added" if dry_run else "added"
    say(f"{pushed.added:,} {verb} to “{pushed.title}”, {pushed.waiting:,} waiting")
    for kind in get_args(AskedAs):
        count = Counter(change.action for change in pushed.changes if change.asked_as == kind)
        if count:
            done = ", ".join(f"{action} {count[action]:,}" for action in ACTIONS if count[action])
            say(f"  {kind.replace('_', '-'):10} {done}")
    if verbose or dry_run:
        _list_changes(pushed.changes, None if verbose else MOST_LISTED)
    if pushed.added:
        minutes_of_work = f"about {pushed.minutes:.0f} minutes" if pushed.minutes >= 1 else "less than a minute"
        say(f"{minutes_of_work} of work, {pushed.corrections:.0f} labels set right")
    if pushed.url:
        say(pushed.url)


def _list_changes(changes: Sequence["Change"], most: int | None) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "SAMPLE", "KIND", "SUGGESTED", "SUGGESTS", "WHY"):
        table.add_column(column, overflow="fold")
    for change in changes[:most]:
        kind = change.asked_as.replace("_", "-")
        table.add_row(
            change.action,
            _plain(change.sample_id),
            kind,
            *(_plain(text) or "–" for text in (change.before, change.after)),
            _plain(change.why),
        )
    if changes:
        out.print(table)
    if most is not None and len(changes) > most:
        say(f"{len(changes) - most:,} more: --verbose lists them all")


def report(labels: Labels = None) -> None:
    """Print the report of the last completed round (Markdown)."""
    from pipeline import loop

    say(loop.last_report(_settings(labels, None, None)))


def _settings(labels: str | None, audit: str | None, review: str | None) -> Settings:
    return load_settings(labels_project=labels, audit_project=audit, review_project=review)


def _plain(text: str) -> str:
    """Text from outside, without rich's markup or control characters."""
    return escape(printable(text))
