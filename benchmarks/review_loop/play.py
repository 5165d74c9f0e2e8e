"""One policy on one pool, round after round: train, choose, ask, note.

What is stored already is not trained again: the questions of its rounds are answered as they were then, and the next
round goes on from there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.data.noise import counted_transition
from benchmarks.machine import code_line, hardware_line
from benchmarks.measures import transition_error
from benchmarks.review_loop.ledger import Ledger, Question
from benchmarks.review_loop.looks import NONE, Look, Looks, Setup
from benchmarks.review_loop.policies import Policy
from benchmarks.review_loop.pool import Pool
from benchmarks.review_loop.reliability import reliability
from benchmarks.review_loop.rows import RoundRow
from benchmarks.rows_file import RowsFile, reason_of
from fasten_model.scoring import RELABEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Game:
    """What every policy is played with."""

    dataset: str
    noise: str
    pool: Pool
    setup: Setup
    rounds: int
    batch: int
    """The most questions of a round."""
    device: str = "cpu"


def play(
    game: Game, policy: Policy, looks: Looks, results: RowsFile[RoundRow], said: Callable[[RoundRow], None]
) -> None:
    """Every round of `policy` that `results` does not have; `said` is called with each new row.

    A round that fails is a row with its `error`, and the policy's last: what would come next hangs on its answers.
    """
    pool, ledger = game.pool, Ledger.start(game.pool)
    standing = torch.full((len(pool),), NONE)
    stored = {row.key: row for row in results.rows() if row.error is None}
    for number in range(1, game.rounds + 1):
        empty = RoundRow(
            dataset=game.dataset, noise=game.noise, seed=pool.seed, policy=policy.name, round=number
        )  # fmt: skip
        row = stored.get(empty.key)
        if row is None:
            try:
                row = _round(game, policy, looks, ledger, standing, empty)
            except Exception as error:  # one policy's failure must not end the others' games
                row = replace(
                    empty, error=reason_of(error), machine=hardware_line(game.device), code=code_line()
                )  # fmt: skip
            results.add(row)
            said(row)
            if row.error is not None:
                return
        if row.standing is not None:
            standing = torch.tensor(row.standing, dtype=torch.int64)
        ledger = ledger.answered(pool, questions_of(row), all_claim=policy.all_claim)


def questions_of(row: RoundRow) -> list[Question]:
    """What was asked in a stored round."""
    pairs = zip(row.picked or (), row.asked_as or (), strict=True)
    return [Question(sample=sample, asked_as=asked_as) for sample, asked_as in pairs]  # type: ignore[arg-type]


def _round(game: Game, policy: Policy, looks: Looks, ledger: Ledger, standing: Tensor, empty: RoundRow) -> RoundRow:
    pool, started = game.pool, time.perf_counter()
    look = looks.look(policy.kind, ledger)
    if policy.applies:
        look = replace(look, standing=standing_after(look, standing))
    questions = list(policy.choose(pool, ledger, look, game.batch, empty.round))
    seconds = time.perf_counter() - started
    if len(questions) > game.batch:
        raise ValueError(f"{policy.name} asked {len(questions)} questions, {game.batch} were allowed")
    picked = torch.tensor([question.sample for question in questions], dtype=torch.int64)
    bins = reliability(look.error, pool.wrong[look.open])
    row = replace(
        empty,
        samples=len(pool),
        audited=pool.audited,
        spent=int((~ledger.open).sum()),
        noise_rate=float(pool.wrong.double().mean()),
        noise_at_random=noise_among(pool, ledger, ledger.claimed_random),
        picked=picked.tolist(),
        asked_as=[question.asked_as for question in questions],
        wrong=pool.wrong[picked].tolist(),
        contradicted=(pool.given != pool.answers)[picked].tolist(),
        handed=accuracy_curve(handed_out(look), picked, pool),
        suggested=accuracy_curve(look.guess, picked, pool),
        standing=None if look.standing is None else look.standing.tolist(),
        standing_right=None if look.standing is None else int((look.standing == pool.truth).sum()),
        bin_count=bins.count.tolist(),
        bin_predicted=bins.predicted.tolist(),
        bin_wrong=bins.wrong.tolist(),
        seconds=seconds,
        machine=hardware_line(game.device),
        code=code_line(),
    )
    return row if look.fitted is None else _with_estimates(row, game, look)


def standing_after(look: Look, before: Tensor) -> Tensor:
    """int64 [N]: this model's relabels, and those of before that it suggests as well, as far as the labels are open
    (`pipeline.corrected`)."""
    assert look.scores is not None
    relabeled = look.scores.decisions == RELABEL
    standing = torch.where(look.open & (look.guess == before), before, NONE)
    standing[look.rows[relabeled]] = look.scores.guess[relabeled]
    return standing


def handed_out(look: Look) -> Tensor:
    """int64 [N]: the labels before this round's answers; with relabels where they are applied."""
    return look.labels if look.standing is None else torch.where(look.standing != NONE, look.standing, look.labels)


def accuracy_curve(labels: Tensor, picked: Tensor, pool: Pool) -> list[float]:
    """Share of right labels among int64 [N], before the first answer and after each of `picked` int64 [B]: [B + 1]."""
    right = (labels == pool.truth).long()
    gained = (pool.answers == pool.truth).long()[picked] - right[picked]
    steps = torch.cat([right.sum()[None], gained]).cumsum(dim=0)
    return (steps.double() / len(pool)).tolist()


def _with_estimates(row: RoundRow, game: Game, look: Look) -> RoundRow:
    """What the model and the loop say of themselves, and the truth beside it."""
    pool, fitted, scores = game.pool, look.fitted, look.scores
    assert fitted is not None
    assert scores is not None
    changed = scores.decisions == RELABEL
    right = scores.guess == pool.truth[look.open]
    transition = counted_transition(pool.truth, pool.given, len(pool.classes), pool.true_transition)
    distance = transition_error(fitted.model.transition, transition)
    return replace(
        row,
        rho=fitted.model.rho,
        changed=int(changed.sum()),
        changed_right=int((changed & right).sum()),
        target_precision=game.setup.target_precision,
        diagonal_true=distance.true_diagonal,
        diagonal_estimated=distance.estimated_diagonal,
        transition_absolute=distance.absolute,
        accuracy_true=look.accuracy,
        accuracy_estimated=fitted.accuracy,
    )


def noise_among(pool: Pool, ledger: Ledger, rows: Tensor) -> float | None:
    """Share of the decided `rows` bool [N] whose given label is not what people say."""
    found = (pool.given != ledger.decided)[rows]
    return float(found.double().mean()) if len(found) else None
