"""What one round found and did, as text for people: the Prefect artifact, MLflow's description, `fasten report`."""

import html
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pipeline.records import AskedAs, Mode

_ADDRESS = re.compile(r":(?=//)|(?<=\bwww)\.|@", re.IGNORECASE)
_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundReport:
    """The figures of one completed round."""

    labels_project: str
    review_project: str
    snapshot_id: str
    noisy: int
    """Samples with bulk labels that nobody has decided."""
    audited: int
    """Samples decided at random audit."""
    reviewed: int
    """Samples decided in the queue."""
    rejected: Mapping[str, int]
    """What the pull left out, by reason."""
    pairs: int
    """Audited samples whose bulk label is known."""
    pairs_wrong: int
    """Those of them whose bulk label is not the audited one."""
    expected_wrong: float
    """Sum of the error probabilities of the noisy samples."""
    decisions: Mapping[str, int]
    mode: Mode
    relabels: str
    """From which ρ on labels count as relabeled, how many of those are right, and the evidence for it."""
    checks: int
    """Labels changed without asking that people were asked about at random, without being told."""
    checks_right: int
    """Of those, how many people labelled as the machine had."""
    temperature: float
    held_out: int
    accuracy: float | None
    queue_added: int
    queue_waiting: int
    """Tasks waiting for reviewers now."""
    planned: Mapping[AskedAs, int]
    """The questions of this round by why they are asked."""
    minutes: float
    """What they take of people's time, by their own pace."""
    corrections: float
    """Labels that the answers are expected to set right."""
    undecided: Mapping[str, int]
    """Samples that people looked at without a decision, by why."""
    contradicted: int
    """Decisions of people that the model contradicts."""
    model_version: str
    people: str = ""
    """Who confuses what: a section of Markdown."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Name → URL."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson, JASA 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def headline(report: RoundReport) -> str:
    """The round in one line."""
    relabeled, unsure = report.decisions.get("relabel", 0), report.decisions.get("low_confidence", 0)
    return (
        f"{report.noisy} labels scored: {relabeled} relabeled, {unsure} low-confidence; "
        f"{report.queue_added} added to the queue, {report.queue_waiting} waiting"
    )


def reverted_line(by: str, at: datetime) -> str:
    """What stands above the report of a round that was reverted since."""
    return (
        f"**This round was reverted on {at:%Y-%m-%d %H:%M} UTC by {escape(by)}: its relabels count no longer, and "
        "what it had added to the queue was taken back, but for what people had answered.**"
    )


def markdown(report: RoundReport) -> str:
    """The round as Markdown. Every text from outside is escaped."""
    low, high = wilson_interval(report.pairs_wrong, report.pairs)
    noise = (
        f"{report.pairs_wrong} of {report.pairs} audited labels were wrong: "
        f"{report.pairs_wrong / report.pairs:.1%} (95 % interval {low:.1%}–{high:.1%})"
        if report.pairs
        else "no audited sample carries its bulk label, so the noise rate is not known directly"
    )
    accuracy = (
        f"{report.accuracy:.1%} of {report.held_out} held-out audited samples"
        if report.accuracy is not None
        else "not known: no audited sample was held out"
    )
    decided = report.decisions
    lines = [
        f"# FasTEN on {escape(report.labels_project)}",
        "",
        f"**{escape(headline(report))}**",
        "",
        "| | |",
        "|---|---|",
        f"| Noise found | {noise} |",
        f"| Wrong labels expected among the undecided | {report.expected_wrong:.0f} of {report.noisy} |",
        f"| Model accuracy | {accuracy} |",
        f"| Decisions | {decided.get('keep', 0)} keep, {decided.get('relabel', 0)} relabel, "
        f"{decided.get('low_confidence', 0)} low confidence |",
        f"| Mode | {_MODES[report.mode]} |",
        f"| Relabels | the model {escape(report.relabels)} |",
        *_checks(report),
        f"| Queue “{escape(report.review_project)}” | {report.queue_added} added, {report.queue_waiting} waiting |",
        f"| Questions of this round | {_planned(report)} |",
        *_stuck(report),
        f"| Labels decided by people | {report.audited} audited at random, {report.reviewed} reviewed |",
        f"| Confidence temperature | {report.temperature:.2f} |",
        f"| Model | {escape(report.model_version)} |",
        f"| Snapshot | `{escape(report.snapshot_id)}` |",
    ]
    if report.rejected:
        left_out = ", ".join(f"{escape(reason)}: {count}" for reason, count in sorted(report.rejected.items()))
        lines.append(f"| Left out of the pull | {left_out} |")
    links = [
        f"[{escape(name)}]({url})" for name, url in report.links.items() if url.startswith(("http://", "https://"))
    ]
    if links:
        lines += ["", " · ".join(links)]
    if report.people:
        lines += ["", report.people.strip()]
    return "\n".join(lines) + "\n"


_MODES: Mapping[Mode, str] = {
    "suggest": "suggest: only people change labels",
    "auto": "auto: relabels are applied in the corrected data set",
}
_KINDS: Mapping[AskedAs, str] = {
    "tie_break": "tie-breaks",
    "audit": "drawn at random",
    "check": "checks of applied relabels",
    "targeted": "where the model doubts",
    "recheck": "rechecks",
}


def _planned(report: RoundReport) -> str:
    asked = [f"{report.planned[kind]} {name}" for kind, name in _KINDS.items() if report.planned.get(kind)]
    if not asked:
        return "none"
    minutes = f"about {report.minutes:.0f} minutes" if report.minutes >= 1 else "less than a minute"
    return f"{', '.join(asked)}; {minutes}, {report.corrections:.0f} labels set right"


def _checks(report: RoundReport) -> list[str]:
    if not report.checks:
        return []
    low, high = wilson_interval(report.checks_right, report.checks)
    share = f"{report.checks_right / report.checks:.1%} (95 % interval {low:.1%}–{high:.1%})"
    return [f"| Applied relabels checked | {report.checks_right} of {report.checks} right: {share} |"]


def _stuck(report: RoundReport) -> list[str]:
    states = {"disputed": "disputed", "not_sure": "not sure of", "unusable": "unusable"}
    said = [f"{count} {states.get(state, state)}" for state, count in sorted(report.undecided.items()) if count]
    lines = [f"| Looked at without a decision | {escape(', '.join(said))} |"] if said else []
    if report.contradicted:
        lines.append(
            f"| Decisions that the model contradicts | {report.contradicted}: `fasten triage --recheck` lists them |"
        )
    return lines


def escape(text: str) -> str:
    """Text from outside, inert in Markdown, HTML and a terminal, in a table cell too."""
    flat = "".join(mark if mark.isprintable() else "�" for mark in " ".join(text.split()))
    for mark in "\\`*_[]|~$#":
        flat = flat.replace(mark, "\\" + mark)
    # Many renderers make a link of a bare address, too.
    return _ADDRESS.sub(lambda found: f"&#{ord(found[0])};", html.escape(flat, quote=False))
