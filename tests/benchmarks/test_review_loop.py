"""The simulated review loop counts right: what is asked, what is answered, what it makes of the labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks.data import NoiseSpec, Source
from benchmarks.review_loop.ledger import OPEN, Ledger, Question
from benchmarks.review_loop.looks import NONE, Kind, Look, Looks, Setup, look_fasten
from benchmarks.review_loop.measures import Run, area, curve, noise_by, precision, reviews_to_reach, runs_of
from benchmarks.review_loop.play import Game, handed_out, play, questions_of, standing_after
from benchmarks.review_loop.policies import BOUNDS, CLEANLAB, POLICIES, Policy
from benchmarks.review_loop.pool import Pool, answers_of, draw_pool
from benchmarks.review_loop.rows import RoundRow
from benchmarks.rows_file import RowsFile
from fasten_model.errors import DataError
from fasten_model.scoring import decide
from fasten_model.train import TrainConfig

SETUP = Setup(config=TrainConfig(device="cpu"), steps=2, audit_folds=1, target_precision=0.95, certainty=0.9, folds=3)
NOISE = NoiseSpec(kind="sym", rate=0.45)
PEOPLE = NoiseSpec(kind="annotators", annotators=3)


def toy_pool(
    seed: int = 0,
    *,
    samples: int = 200,
    audited: int = 20,
    reviewer_error: float = 0.0,
    noise: NoiseSpec = NOISE,
) -> Pool:
    """Three classes of 4×4 images that show nothing."""
    labels = torch.arange(300) % 3
    source = Source(
        name="toy", train_images=torch.zeros(300, 3, 4, 4, dtype=torch.uint8), train_labels=labels,
        test_images=torch.zeros(3, 3, 4, 4, dtype=torch.uint8), test_labels=torch.arange(3),
        classes=("a", "b", "c"), mistaken_for=(1, 2, 0),
    )  # fmt: skip
    return draw_pool(source, noise, samples=samples, audited=audited, reviewer_error=reviewer_error, seed=seed)


@dataclass
class Believer:
    """In place of `Looks`: a model that believes every label and needs no training."""

    pool: Pool
    seen: list[str] = field(default_factory=list)

    def look(self, kind: Kind, ledger: Ledger) -> Look:
        """Counts as trained."""
        self.seen.append(kind)
        labels = torch.where(ledger.open, self.pool.given, ledger.decided)
        return Look(
            p=torch.nn.functional.one_hot(labels, 3).float(), labels=labels, open=ledger.open, guess=labels,
            error=torch.zeros(int(ledger.open.sum()), dtype=torch.float64),
        )  # fmt: skip


def believer(pool: Pool) -> Looks:
    return Believer(pool)  # type: ignore[return-value]


def game_of(pool: Pool, *, rounds: int = 3, batch: int = 20) -> Game:
    return Game(dataset="toy", noise=str(NOISE), pool=pool, setup=SETUP, rounds=rounds, batch=batch)


def played(game: Game, policy: Policy, path: Path, looks: Looks | None = None) -> Run:
    results = RowsFile(path, RoundRow, {})
    play(game, policy, looks or believer(game.pool), results, lambda _: None)
    return next(run for key, run in runs_of(results.rows()).items() if key[1:] == (game.pool.seed, policy.name))


PERFECT, WITH_SLICE = (POLICIES[name] for name in BOUNDS)


def test_a_perfect_order_sets_one_label_right_with_every_review_until_none_is_wrong(tmp_path: Path) -> None:
    pool = toy_pool()
    run = played(game_of(pool, rounds=6), PERFECT, tmp_path / "a.parquet", Looks(pool, SETUP))
    wrong = int(pool.wrong[pool.audited :].sum())
    assert 20 < wrong < 120
    ideal = [1 - max(0, wrong - reviews) / len(pool) for reviews in range(121)]
    assert curve(run) == pytest.approx(ideal[: wrong + 1])
    assert curve(run, suggested=True) == [1] * (wrong + 1)
    assert reviews_to_reach(curve(run), 1.0, pool.audited) == pool.audited + wrong
    assert precision(run, 0.1) == 1
    assert area(curve(run), 120) == pytest.approx(sum(ideal) / 120 - (ideal[0] + ideal[-1]) / 240)


def test_a_perfect_order_with_the_slice_is_as_much_slower_as_the_slice_finds_less(tmp_path: Path) -> None:
    pool, looks = toy_pool(samples=300, audited=20), Looks(toy_pool(samples=300, audited=20), SETUP)
    run = played(game_of(pool, rounds=3, batch=50), WITH_SLICE, tmp_path / "a.parquet", looks)
    for row in run:
        asked = list(zip(row.asked_as or (), row.wrong or (), strict=True))
        places = [place for place, (asked_as, _) in enumerate(asked) if asked_as == "audit"]
        assert len(places) == round(0.1 * 50)
        assert all(wrong for asked_as, wrong in asked if asked_as == "targeted")
        assert max(b - a for a, b in pairwise([-1, *places, len(asked)])) <= 0.3 * len(asked), "evenly among them"
    assert not looks.trained
    found = [
        wrong
        for row in run
        for asked_as, wrong in zip(row.asked_as or (), row.wrong or (), strict=True)
        if asked_as == "audit"
    ]
    fastest = played(game_of(pool, rounds=3, batch=50), PERFECT, tmp_path / "b.parquet", looks)
    goal = 1 - 10 / 300
    slower = reviews_to_reach(curve(run), goal, 20), reviews_to_reach(curve(fastest), goal, 20)
    assert None not in slower
    assert 0 <= slower[0] - slower[1] <= found.count(False)  # type: ignore[operator]


def test_reviews_are_counted_from_the_first_audits_on_and_nobody_is_asked_twice(tmp_path: Path) -> None:
    pool = toy_pool()
    run = played(game_of(pool, rounds=4, batch=50), POLICIES["random"], tmp_path / "a.parquet")
    assert [row.spent for row in run] == [20, 70, 120, 170]
    assert [row.asked for row in run] == [50, 50, 50, 30]
    asked = [sample for row in run for sample in row.picked or []]
    assert sorted(asked) == list(range(20, 200))
    assert curve(run)[-1] == 1
    with pytest.raises(ValueError, match="decided already"):
        Ledger.start(pool).answered(pool, [Question(sample=3, asked_as="targeted")], all_claim=False)


def test_reviewers_err_as_often_as_they_are_said_to_and_always_in_the_same_place(tmp_path: Path) -> None:
    truth = torch.arange(20_000) % 3
    answers = answers_of(truth, 3, 0.03, 7)
    assert 0.025 < float((answers != truth).double().mean()) < 0.035
    assert ((answers >= 0) & (answers < 3)).all()
    assert torch.equal(answers, answers_of(truth, 3, 0.03, 7))
    assert torch.equal(answers_of(truth, 3, 0.0, 7), truth)

    pool = toy_pool(reviewer_error=0.2)
    errors = int((pool.answers != pool.truth)[pool.audited :].sum())
    run = played(game_of(pool, rounds=9), POLICIES["random"], tmp_path / "a.parquet")
    assert errors > 10
    assert curve(run)[-1] == pytest.approx(1 - errors / len(pool))  # the audits before the first round are right


def test_the_random_policy_finds_as_many_wrong_labels_as_there_are() -> None:
    shares = []
    for seed in range(30):
        pool = toy_pool(seed)
        ledger = Ledger.start(pool)
        questions = POLICIES["random"].choose(pool, ledger, believer(pool).look("fasten", ledger), 40, 1)
        shares.append(sum(bool(pool.wrong[q.sample]) for q in questions) / 40 - float(pool.wrong.double().mean()))
    assert abs(sum(shares) / 30) < 0.03


def test_what_is_stored_is_not_trained_again_and_the_rest_is_as_if_never_stopped(tmp_path: Path) -> None:
    pool, policy = toy_pool(reviewer_error=0.1), POLICIES["random"]
    straight = played(game_of(pool, rounds=4), policy, tmp_path / "a.parquet")
    played(game_of(pool, rounds=2), policy, tmp_path / "b.parquet")
    later = Believer(pool)
    resumed = played(game_of(pool, rounds=4), policy, tmp_path / "b.parquet", later)  # type: ignore[arg-type]
    assert len(later.seen) == 2

    def figures(run: Run) -> list[RoundRow]:
        return [replace(row, seconds=None, code="") for row in run]

    assert figures(resumed) == figures(straight)


def test_answers_to_the_random_slice_alone_may_estimate(tmp_path: Path) -> None:
    pool = toy_pool()
    half = Policy(name="half", kind="fasten", choose=_alternating)
    ledger = Ledger.start(pool)
    row = played(game_of(pool, rounds=1), half, tmp_path / "a.parquet")[0]
    honest = ledger.answered(pool, questions_of(row), all_claim=False)
    assert int(honest.at_random.sum()) == 20 + 10
    assert torch.equal(honest.clean(pool).estimates, honest.at_random[honest.decided != OPEN])
    careless = ledger.answered(pool, questions_of(row), all_claim=True)
    assert int(careless.claimed_random.sum()) == 20 + 20
    assert torch.equal(careless.at_random, honest.at_random)


def _alternating(pool: Pool, ledger: Ledger, _: Look, most: int, number: int) -> Sequence[Question]:
    """Half of the questions where labels are wrong, half at random."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(1000 * pool.seed + number)).tolist()
    drawn = [place for place in order if ledger.open[place]][: most // 2]
    doubtful = [
        place
        for place in pool.wrong.long().argsort(descending=True, stable=True).tolist()
        if ledger.open[place] and place not in drawn
    ]
    return [Question(sample=place, asked_as="audit") for place in drawn] + [
        Question(sample=place, asked_as="targeted") for place in doubtful[: most - len(drawn)]
    ]


def test_targeted_answers_overstate_the_noise_and_later_slices_alone_understate_it(tmp_path: Path) -> None:
    half = Policy(name="half", kind="fasten", choose=_alternating)
    errors: dict[str, list[float]] = {"rounds": [], "audits": [], "everything": []}
    for seed in range(40):
        pool = toy_pool(seed)
        run = played(game_of(pool), half, tmp_path / f"{seed}.parquet")
        for kind, found in errors.items():
            found.append((noise_by(run, kind) or 0) - float(pool.wrong.double().mean()))
    mean = {kind: sum(found) / len(found) for kind, found in errors.items()}
    assert abs(mean["rounds"]) < 0.02
    assert mean["audits"] < -0.02
    assert mean["everything"] > 0.1


def test_the_audited_samples_must_show_every_class() -> None:
    with pytest.raises(DataError, match=r"no sample of ., . among 1 audited ones; give --audited more"):
        toy_pool(audited=1)


@pytest.mark.parametrize("noise", [NOISE, PEOPLE], ids=str)
@pytest.mark.parametrize("name", [*CLEANLAB, "entropy", "least confidence", "margin"])
def test_every_ranking_asks_about_open_samples_only_each_once(name: str, noise: NoiseSpec) -> None:
    pool = toy_pool(noise=noise)
    p = torch.softmax(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    ledger = Ledger.start(pool)
    look = replace(believer(pool).look("fasten", ledger), p=p)
    questions = POLICIES[name].choose(pool, ledger, look, 180, 1)
    assert sorted(question.sample for question in questions) == list(range(20, 200))


@pytest.mark.parametrize(
    ("score", "first"), [("entropy", 2), ("least confidence", 2), ("margin", 1)], ids=lambda value: str(value)
)
def test_uncertainty_is_what_its_name_says(score: str, first: int) -> None:
    pool = toy_pool(samples=24, audited=20)
    p = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.5, 0.0], [0.45, 0.3, 0.25], [0.6, 0.4, 0.0]]).repeat(6, 1)
    ledger = Ledger.start(pool)
    look = replace(believer(pool).look("fasten", ledger), p=p)
    assert POLICIES[score].choose(pool, ledger, look, 1, 1)[0].sample == 20 + first


def test_one_model_serves_all_policies_that_know_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, trained = toy_pool(), []

    def train(kind: str) -> Callable[[Pool, Ledger, Setup], Look]:
        def look(pool: Pool, ledger: Ledger, _: Setup) -> Look:
            trained.append(kind)
            return believer(pool).look("fasten", ledger)

        return look

    monkeypatch.setattr("benchmarks.review_loop.looks.look_fasten", train("fasten"))
    monkeypatch.setattr("benchmarks.review_loop.looks.look_folds", train("folds"))
    looks, start = Looks(pool, SETUP), Ledger.start(pool)
    asked = start.answered(pool, [Question(sample=50, asked_as="targeted")], all_claim=False)
    claimed = start.answered(pool, [Question(sample=50, asked_as="targeted")], all_claim=True)
    for ledger in (start, asked, start, claimed):
        looks.look("fasten", ledger)
        looks.look("folds", ledger)
    # Cross-entropy does not care how a sample was drawn; ours does.
    assert trained == ["fasten", "folds", "fasten", "folds", "fasten"]  # start, asked, claimed


def test_a_pool_whose_truth_is_not_known_is_refused() -> None:
    source = Source(
        name="own", train_images=torch.zeros(9, 3, 4, 4, dtype=torch.uint8), train_labels=torch.tensor([0, 1, -1] * 3),
        test_images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8), test_labels=torch.arange(2),
        classes=("a", "b"), mistaken_for=(1, 0), given=torch.tensor([0, 1, 1] * 3),
    )  # fmt: skip
    with pytest.raises(DataError, match="own lacks some; in data of your own, give the noisy file a column true_label"):
        draw_pool(source, NoiseSpec(kind="own"), samples=9, audited=3, reviewer_error=0.0, seed=0)


def test_a_policy_that_asks_too_much_is_no_policy(tmp_path: Path) -> None:
    greedy = replace(PERFECT, choose=lambda pool, ledger, look, most, number: PERFECT.choose(
        pool, ledger, look, most + 1, number))  # fmt: skip
    game, results = game_of(toy_pool()), RowsFile(tmp_path / "a.parquet", RoundRow, {})
    play(game, greedy, believer(game.pool), results, lambda _: None)
    [row] = results.rows()  # its first round is its last
    assert row.error is not None
    assert "21 questions, 20 were allowed" in row.error
    assert row.picked is None


@pytest.mark.parametrize("noise", [NOISE, PEOPLE], ids=str)
def test_our_model_judges_what_is_open_and_nothing_else(noise: NoiseSpec) -> None:
    pool = toy_pool(samples=60, audited=20, noise=noise)
    look = look_fasten(pool, Ledger.start(pool), SETUP)
    assert look.fitted is not None
    assert set(pool.annotators) <= set(look.fitted.model.annotators)
    assert len(pool.annotators) == (3 if noise == PEOPLE else 0)
    assert look.scores is not None
    assert len(look.error) == len(look.scores.guess) == 40
    assert torch.equal(look.guess[:20], pool.truth[:20])
    assert look.p.shape == (60, 3)


def test_what_was_promised_stands_while_the_label_is_open_and_the_model_suggests_the_same() -> None:
    pool = toy_pool(samples=60)
    ledger = Ledger.start(pool)
    believed = Believer(pool).look("fasten", ledger)
    places = believed.rows
    p = torch.nn.functional.one_hot(pool.given[places], 3).double()
    sure = decide(p, p.roll(1, dims=1), pool.given[places], rho=0.9, target_precision=0.95)
    unsure = decide(p, p.roll(1, dims=1), pool.given[places], rho=2.0, target_precision=0.95)
    nothing = torch.full((len(pool),), NONE)
    promised = standing_after(replace(believed, scores=sure), nothing)
    assert torch.equal(promised[places], sure.guess)
    assert bool((promised[~ledger.open] == NONE).all())
    asked = [Question(sample=int(places[0]), asked_as="targeted")]
    later = Believer(pool).look("fasten", after := ledger.answered(pool, asked, all_claim=False))
    open_scores = decide(p[1:], p[1:].roll(1, dims=1), pool.given[after.open], rho=2.0, target_precision=0.95)
    agrees = later.labels.clone()
    agrees[places] = sure.guess
    kept = standing_after(replace(later, scores=open_scores, guess=agrees), promised)
    assert kept[places[0]] == NONE, "a person has decided"
    assert torch.equal(kept[places[1:]], promised[places[1:]])
    taken_back = standing_after(replace(later, scores=open_scores), promised)
    assert torch.equal(taken_back, nothing), "it believes the given labels"
    assert torch.equal(standing_after(replace(believed, scores=unsure), nothing), nothing)
    assert torch.equal(handed_out(replace(later, standing=kept))[places[1:]], sure.guess[1:])
