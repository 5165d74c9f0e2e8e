"""Ours: the product's own triage, with the settings that it has by default."""

from collections.abc import Callable, Sequence

from torch import Tensor

from benchmarks.review_loop.ledger import Ledger, Question
from benchmarks.review_loop.looks import NONE, Look
from benchmarks.review_loop.pool import Pool
from fasten_model.scoring import DECISIONS
from pipeline.records import Mode
from pipeline.settings import Settings
from pipeline.triage import Budget, Candidate, Pace, compose, stand


def compose_questions(
    mode: Mode, *, audit_share: float | None = None
) -> Callable[[Pool, Ledger, Look, int, int], Sequence[Question]]:
    """The batch that `pipeline.triage.compose` makes of what is open, in the order in which it is served.

    audit_share: the product's own unless given.
    """

    def choose(pool: Pool, ledger: Ledger, look: Look, most: int, number: int) -> list[Question]:
        assert look.scores is not None
        assert look.scores.features is not None
        defaults = {name: Settings.model_fields[name].default for name in ("audit_share", "check_share", "class_floor")}
        if audit_share is not None:
            defaults["audit_share"] = audit_share
        rows = look.rows.tolist()
        place = {pool.sample_ids[row]: row for row in rows}
        asked = {_key(pool.sample_ids[row]) for row in (~ledger.open).nonzero().flatten().tolist()[pool.audited :]}
        standing = {} if look.standing is None else _standing(pool, look.standing)
        plan = compose(
            stand(_candidates(pool, look), standing),
            (),
            asked=asked,
            budget=Budget(reviews=most, minutes=None),
            pace=Pace(seconds={}),
            mode=mode,
            overlap=1,
            classes=pool.classes,
            features=look.scores.features.numpy(),
            key=_key,
            references={},
            run_key=f"round {number}",
            **defaults,
        )
        return [Question(sample=place[task.sample_id], asked_as=task.asked_as) for task in plan.tasks]

    return choose


def _standing(pool: Pool, labels: Tensor) -> dict[str, str]:
    places = (labels != NONE).nonzero().flatten().tolist()
    return {pool.sample_ids[place]: pool.classes[int(labels[place])] for place in places}


def _candidates(pool: Pool, look: Look) -> list[Candidate]:
    scores = look.scores
    assert scores is not None
    columns = zip(
        look.rows.tolist(),
        scores.given_labels.tolist(),
        scores.guess.tolist(),
        scores.guess_probability.tolist(),
        scores.confidence.tolist(),
        scores.error_probability.tolist(),
        scores.decisions.tolist(),
        strict=True,
    )
    return [
        Candidate(
            sample_id=pool.sample_ids[row],
            image_url="",
            image_sha256=pool.sample_ids[row],
            given_label=pool.classes[given],
            model_label=pool.classes[guess],
            model_label_probability=belief,
            confidence=confidence,
            error_probability=error,
            decision=DECISIONS[decision],
            priority=error,
            model_version="",
        )
        for row, given, guess, belief, confidence, error, decision in columns
    ]


def _key(sample_id: str, asked: str = "") -> str:
    return f"{sample_id} {asked}"
