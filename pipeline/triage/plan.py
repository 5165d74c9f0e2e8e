"""One batch of questions: what people are asked next, within a budget of answers and minutes.

In this order, each as far as the budget goes:

1. what people disagree on, since their work is stuck there (`tie_breaks`)
2. `audit_share` of the batch at random, in an order drawn before any model was looked at (`random_draw`)
3. in mode `auto`, `check_share` of the batch at random among the labels that the machine changes
4. a floor for every class, filled with the best questions that it has (`targeted`)
5. the best questions of all: most expected corrected labels per second

Nothing is asked that was asked before, and nothing targeted that shows what another question of the batch shows. Nobody
is asked where an answer would set next to nothing right: about a kept label, or for a gain below `targeted.NEGLIGIBLE`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import DataError
from pipeline.records import UNSHOWN, AskedAs, Mode, ReviewTask, Withdrawal
from pipeline.triage.budget import Budget, Room
from pipeline.triage.candidates import Candidate, Dispute, Open
from pipeline.triage.near_duplicates import AlreadyShown, Features
from pipeline.triage.pace import KINDS, Pace
from pipeline.triage.random_draw import due, first
from pipeline.triage.reasons import RANDOM, reason
from pipeline.triage.serving_order import ranked
from pipeline.triage.targeted import choose, floors, worth, worth_asking
from pipeline.triage.tie_breaks import tie_breaks

Key = Callable[[str, str], str]
"""The push key of (sample_id, question); the question is empty for the first one about a sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One batch of questions."""

    tasks: tuple[ReviewTask, ...]
    """In the order in which they are to be served."""
    minutes: float = 0.0
    """Of people's work, everybody's together."""
    expected_corrections: float = 0.0
    """Wrong labels that the answers are expected to set right."""
    counts: Mapping[AskedAs, int] = field(default_factory=dict)
    """Questions by why they are asked; every kind is there."""
    near_duplicates: int = 0
    """Questions left out because another one shows the same."""
    updates: tuple[ReviewTask, ...] = ()
    """Questions that wait already, as they are asked from now on."""
    withdrawals: tuple[Withdrawal, ...] = ()
    """Questions that wait and need no answer any more."""

    @classmethod
    def of(
        cls,
        tasks: Iterable[ReviewTask],
        *,
        pace: Pace | None = None,
        overlap: int = 1,
        minutes: float | None = None,
        near_duplicates: int = 0,
    ) -> "Plan":
        """A batch of these questions, by rank; `minutes` from the pace, where they are not known."""
        served = tuple(sorted(tasks, key=lambda task: (task.rank, task.push_key)))
        counted = Counter(task.asked_as for task in served)
        if minutes is None:
            pace = pace or Pace()
            minutes = sum(pace.of(kind) * count for kind, count in sorted(counted.items())) * overlap / 60
        return cls(
            tasks=served,
            minutes=minutes,
            expected_corrections=sum(task.priority for task in served),
            counts={kind: counted[kind] for kind in KINDS},
            near_duplicates=near_duplicates,
        )


def compose(
    candidates: Sequence[Candidate],
    disputes: Iterable[Dispute] = (),
    *,
    asked: Collection[str],
    budget: Budget,
    pace: Pace,
    mode: Mode,
    audit_share: float,
    check_share: float,
    class_floor: float,
    overlap: int,
    classes: Sequence[str],
    features: Features | None,
    key: Key,
    references: Mapping[str, Sequence[str]],
    run_key: str,
    finished: Mapping[str, int] | None = None,
    most_audits: int | None = None,
) -> Plan:
    """The next batch of questions about `candidates` and `disputes`; the same for the same input in any order.

    asked: push keys of every question ever asked, answered or not. classes: those that have a floor. features: [N,D] of
    the trunk, rows as `candidates`; None where nothing is known of looks. key: the push key of (sample_id, question).
    references: class → audited images of it. finished: push key → answers, of those of `asked` that nobody is served
    any more; where a key is missing, its question waits for `overlap` answers. most_audits: as many random questions
    may be added at most, so that a queue that is filled again and again does not fill with them. Raises `DataError`
    where a sample is among the candidates twice, or the features are not theirs.
    """
    known, room = frozenset(asked), Room(budget, pace, overlap)
    disputes = list(disputes)
    pool = _never_asked(candidates, {dispute.sample_id for dispute in disputes}, known, key)
    if features is not None and len(features) != len(candidates):
        raise DataError(f"{len(features)} rows of features for {len(candidates)} scored samples: score them again")

    settling = [
        task
        for task in tie_breaks(disputes, asked=known, overlap=overlap, key=key, run_key=run_key, finished=finished)
        if room.take(pace.of(task.asked_as))
    ]

    shares: dict[AskedAs, float] = {"audit": audit_share, "check": min(check_share, 1 - audit_share)}
    if mode == "suggest":
        del shares["check"]
    batch = room.most(shares)
    drawn: dict[AskedAs, list[Open]] = {"audit": [], "check": []}
    for kind, share in shares.items():
        wanted = due(share, before=len(known), batch=len(settling) + batch)
        if kind == "audit" and most_audits is not None:
            wanted = min(wanted, most_audits)
        drawn[kind] = [each for each in _at_random(kind, pool, wanted) if room.take(pace.of(kind))]
        taken = {each.push_key for each in drawn[kind]}
        pool = [each for each in pool if each.push_key not in taken]

    random, doubtful = [*drawn["audit"], *drawn["check"]], worth_asking(pool, mode, pace)
    shown = AlreadyShown([*random, *doubtful], features)
    for each in random:
        shown.choose(each)
    needs = floors(classes, class_floor, batch, random)
    best, near_duplicates = choose(doubtful, room, needs=needs, shown=shown)

    def questions(kind: AskedAs, about: Iterable[Open]) -> list[ReviewTask]:
        return [
            question_about(kind, each.candidate, each.push_key, mode=mode, references=references, run_key=run_key)
            for each in about
        ]

    tasks = ranked(
        settling,
        [
            (task, worth(each.candidate, mode, pace))
            for task, each in zip(questions("targeted", best), best, strict=True)
        ],
        *(questions(kind, about) for kind, about in drawn.items()),
    )
    return Plan.of(tasks, minutes=room.spent / 60, near_duplicates=near_duplicates)


def _never_asked(
    candidates: Sequence[Candidate], stuck: Collection[str], known: Collection[str], key: Key
) -> list[Open]:
    """The candidates that were never asked about, by `sample_id`."""
    found: dict[str, Open] = {}
    for row, each in enumerate(candidates):
        if each.sample_id in found:
            raise DataError(f"sample {each.sample_id!r} has two scores; score the labels again")
        found[each.sample_id] = Open(candidate=each, push_key=key(each.sample_id, ""), row=row)
    pool = [found[sample] for sample in sorted(found) if sample not in stuck]
    return [each for each in pool if each.push_key not in known]


def _at_random(kind: AskedAs, pool: Iterable[Open], count: int) -> list[Open]:
    if kind == "audit":
        return first(pool, count, "audit slice")
    return first((each for each in pool if each.candidate.decision == "relabel"), count, "check")


def question_about(
    kind: AskedAs,
    candidate: Candidate,
    push_key: str,
    *,
    mode: Mode,
    references: Mapping[str, Sequence[str]],
    run_key: str,
) -> ReviewTask:
    """What people are asked about a scored label; its place in the queue (`rank`) is not known here."""
    told = kind not in UNSHOWN
    return ReviewTask(
        push_key=push_key,
        sample_id=candidate.sample_id,
        image_url=candidate.image_url,
        asked_as=kind,
        current_label=candidate.given_label,
        model_label=candidate.model_label,
        confidence=candidate.model_label_probability,
        reason=reason(candidate) if told else RANDOM,
        priority=min(1.0, max(0.0, candidate.gain(mode))),
        model_version=candidate.model_version,
        run_key=run_key,
        references=tuple(references.get(candidate.model_label, ())) if told else (),
    )
