"""The last stage of a round: tell people what it did, and remember it as completed."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fasten_model.relabel import NEVER
from pipeline import scoring, trail
from pipeline.checks import checked
from pipeline.contradictions import contradictions_known
from pipeline.corrected import standing_relabels
from pipeline.errors import DataError, ServiceError
from pipeline.label_studio import LabelStudio
from pipeline.loop.model import TrainedModel, promise_broken, read_fitted
from pipeline.loop.pushing import Pushed
from pipeline.loop.survey import Found, Pulled, find_projects
from pipeline.people import markdown as markdown_of_people
from pipeline.people import people_of
from pipeline.people import summary as summary_of_people
from pipeline.records import Project
from pipeline.report import RoundReport, headline, markdown, reverted_line
from pipeline.settings import Settings
from pipeline.snapshot import open_snapshot
from pipeline.snapshot.folder import snapshot_folder
from pipeline.tracking import Tracking
from pipeline.triage import contradicted, count_decisions
from pipeline.workspace import Completed, Workspace, config_digest, write_whole

logger = logging.getLogger(__name__)

_BROKEN = {
    "rho": NEVER,
    "per_class": None,
    "broken": True,
    "sentence": "relabels nothing: too many of the applied relabels that people checked were wrong",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The round's report."""

    headline: str
    markdown: str


def report_run(
    settings: Settings,
    pulled: Pulled,
    trained: TrainedModel,
    scores_path: Path,
    pushed: Pushed,
    *,
    prefect_url: str = "",
) -> Summary:
    """Tell people what the round did, and remember it as completed: its last act."""
    snapshot = open_snapshot(pulled.snapshot)
    scores = scoring.read_scores(scores_path)
    clean = pq.read_table(snapshot.clean_path, columns=["label", "given_label", "provenance"]).to_pylist()
    pairs = [row for row in clean if row["provenance"] == "audit" and row["given_label"] is not None]
    fitted = read_fitted(trained.folder)
    workspace = Workspace.of(settings, pulled.labels.project_id)
    broken = promise_broken(settings, workspace, snapshot, trained.run_key)
    relabels = fitted["relabels"] | (_BROKEN if broken else {})
    people = people_of(snapshot, scores)
    checks = checked(workspace, snapshot, run_key=trained.run_key)
    undecided = Counter(pq.read_table(snapshot.undecided_path, columns=["state"])["state"].to_pylist())
    promise, promised = trail.promise_of(relabels), dict[str, str]()
    if settings.mode == "auto" and promise in ("made", "none"):
        promised = standing_relabels(workspace, snapshot, run_key=trained.run_key, promises=promise == "made")
    standing = _standing(promised, scores)
    report = RoundReport(
        labels_project=pulled.labels.title,
        review_project=pushed.title,
        snapshot_id=pulled.snapshot_id,
        noisy=scores.num_rows,
        audited=sum(row["provenance"] == "audit" for row in clean),
        reviewed=sum(row["provenance"] == "review" for row in clean),
        rejected=snapshot.manifest.rejected,
        pairs=len(pairs),
        pairs_wrong=sum(row["given_label"] != row["label"] for row in pairs),
        expected_wrong=sum(scores["error_probability"].to_pylist()),
        decisions=count_decisions(scoring.decisions_of(scores)),
        mode=settings.mode,
        relabels=relabels["sentence"] + (f"; {standing} of earlier promises stand" if standing else ""),
        checks=checks.answered,
        checks_right=checks.right,
        temperature=fitted["temperature"],
        held_out=trained.held_out,
        accuracy=trained.accuracy,
        queue_added=pushed.added,
        queue_waiting=pushed.waiting,
        planned=pushed.counts,
        minutes=pushed.minutes,
        corrections=pushed.corrections,
        undecided=dict(undecided),  # asdict makes nonsense of a Counter
        contradicted=len(contradicted(contradictions_known(scores_path, workspace))),
        model_version=trained.model_version,
        people=markdown_of_people(people),
        links={
            "Queue": pushed.url,
            "MLflow run": trained.mlflow_url,
            **({"Prefect run": prefect_url} if prefect_url else {}),
        },
    )
    summary = Summary(headline=headline(report), markdown=markdown(report))
    write_whole(trained.folder / "report.json", json.dumps(asdict(report)).encode())
    write_whole(trained.folder / "people.json", json.dumps(summary_of_people(people)).encode())
    write_whole(trained.folder / "report.md", summary.markdown.encode())
    try:
        Tracking(settings.tracking).log_report(trained.mlflow_run_id, summary.markdown)
    except ServiceError as error:  # the round is done; a page in MLflow is not worth doing it again
        logger.warning("the report is not in MLflow: %s", error)
    trail.append_machine(
        workspace,
        trained.run_key,
        snapshot,
        scores,
        {**fitted, "relabels": relabels},
        mode=settings.mode,
        mlflow_run_id=trained.mlflow_run_id,
        at=datetime.now(UTC),
    )
    workspace.remember(
        Completed(
            fingerprint=pulled.fingerprint,
            snapshot_id=pulled.snapshot_id,
            config=config_digest(settings),
            run_key=trained.run_key,
        )
    )
    logger.info("%s", summary.headline)
    return summary


def _standing(promised: Mapping[str, str], scores: pa.Table) -> int:
    """How many labels an earlier promise changes that this run does not: its model suggests the same, less surely."""
    columns = (scores[name].to_pylist() for name in ("sample_id", "model_label", "decision"))
    return sum(
        promised.get(sample_id) == suggestion and decision != "relabel"
        for sample_id, suggestion, decision in zip(*columns, strict=True)
    )


def last_run(settings: Settings) -> Path:
    """The folder of the last completed round of the labels project."""
    with LabelStudio(settings.label_studio) as door:
        labels, _, _ = find_projects(settings, door)
    return _last(settings, labels)[1]


def last_round(settings: Settings, found: Found) -> tuple[Pulled, Path]:
    """What the last completed round pulled, and its `scores.parquet`; raises `DataError` where it was reverted."""
    completed, folder = _last(settings, found.labels)
    workspace = Workspace.of(settings, found.labels.project_id)
    if completed.run_key in trail.reverted(workspace):
        raise DataError(
            f"the last round, {completed.run_key}, was reverted and its questions taken back: new labels, or another "
            "FASTEN_SEED, and `fasten retrain` make a new one"
        )
    pulled = Pulled(
        labels=found.labels,
        snapshot=snapshot_folder(workspace.folder, completed.snapshot_id),
        snapshot_id=completed.snapshot_id,
        fingerprint=completed.fingerprint,
        nothing_new="",
    )
    return pulled, folder / "scores.parquet"


def _last(settings: Settings, labels: Project) -> tuple[Completed, Path]:
    workspace = Workspace.of(settings, labels.project_id)
    completed = workspace.completed()
    if completed is None:
        raise DataError(f"no round of “{labels.title}” has been completed yet: run `fasten retrain`")
    return completed, workspace.run_folder(completed.run_key)


def last_report(settings: Settings) -> str:
    """The report of the last completed round, as Markdown; one that was reverted says so first."""
    folder = last_run(settings)
    path = folder / "report.md"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise DataError(f"{path} is missing: run `fasten retrain --force`") from None
    rows = trail.reverted_rows(Workspace(folder=folder.parent.parent))
    undone = (reverted_line(row["by"], row["at"]) for row in rows if row["run_key"] == folder.name)
    return "".join(f"{line}\n\n" for line in undone) + text
