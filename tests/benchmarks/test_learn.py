"""The harness from end to end on the digits, one epoch; its command's arguments; its budget."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import learn
from benchmarks.command import finish, parser
from benchmarks.data import Cell, draw_cell
from benchmarks.experiment import Budget, epochs_within, measure, parse_budget
from benchmarks.methods import Observer, Outcome, Problem
from benchmarks.report import markdown
from benchmarks.results import read_rows
from fasten_model.errors import DataError
from fasten_model.network import build_network
from fasten_model.train import TrainConfig

SMALL = ("--dataset", "digits", "--noisy", "64", "--clean", "20", "--validation", "20", "--device", "cpu")


def toy(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
    """Learns nothing and is sure of the given labels; T̂ = I."""
    network = build_network(config.preset, problem.num_classes).eval()
    for epoch in range(1, config.settings().epochs + 1):
        if observer is not None:
            observer(epoch, network)
    beliefs = torch.nn.functional.one_hot(problem.noisy_labels, problem.num_classes).float()
    return Outcome(network=network, beliefs=beliefs, transition=torch.eye(problem.num_classes), passes=0.0)


def broken(*_: object) -> Outcome:
    """Fails in two lines."""
    raise RuntimeError("no such thing\nas this method")


def ended(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """(status, what was printed on stderr) of the command."""
    with pytest.raises(SystemExit) as stop:
        finish(learn.main, arguments)
    return stop.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def cell() -> Cell:
    """64 noisy digits, 20 clean ones and 20 for validation."""
    options = parser("test", "test")
    learn.add_options(options)
    plan = learn.plan_from(options.parse_args(SMALL))
    return draw_cell(plan.source, plan.noises[0], noisy=64, clean=20, validation=20, seed=0)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "METHODS", {"toy": toy, "broken": broken, "other": toy})


@pytest.mark.usefixtures("toys")
def test_a_failing_method_is_a_row_with_one_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*SMALL, "--noise", "sym:0.4", "--seeds", "2", "--budget", "1epochs", "--out", str(tmp_path / "a"))
    assert ended(arguments, capsys) == (1, f"2 of 6 rows failed; see “Failed” in {tmp_path / 'a.md'}\n")
    rows, settings = read_rows(tmp_path / "a.parquet")
    assert {row.key for row in rows} == {
        ("sym:0.4", seed, name) for seed in (0, 1) for name in ("toy", "broken", "other")
    }
    assert [row.error for row in rows if row.method == "broken"] == ["RuntimeError: no such thing"] * 2
    assert all(row.error is None and row.accuracy_last is not None for row in rows if row.method != "broken")
    assert settings["epochs"] == 1
    assert settings["dataset"] == "digits"
    written = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "## digits, sym:0.4" in written
    assert "## Failed\n\n- digits, sym:0.4, seed 0, broken: RuntimeError: no such thing\n" in written


@pytest.mark.usefixtures("toys")
def test_who_watches_sees_how_much_is_left_and_where_the_tables_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--methods", "toy", "other", "--budget", "1epochs", "--out", str(tmp_path / "a"), "--seeds"]
    assert learn.main([*arguments, "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":0.4")[0] for line in printed[:2]] == ["1/2 asym", "2/2 asym"]
    assert printed[-1] == f"This is {tmp_path / 'a.md'}, its rows are {tmp_path / 'a.parquet'}."
    assert learn.main([*arguments, "2"]) == 0
    assert [line[:13] for line in capsys.readouterr().out.splitlines()[:2]] == ["1/2 asym:0.4,", "2/2 asym:0.4,"]


def test_data_with_labels_of_its_own_is_about_those_unless_told_otherwise() -> None:
    options = parser("test", "test")
    learn.add_options(options)
    for dataset, noise in (("digits", "asym:0.4"), ("cifar10n", "asym:0.4"), ("parquet", "own"), ("clothing1m", "own")):
        assert [str(each) for each in learn.noises_of(options.parse_args(["--dataset", dataset]))] == [noise]
    chosen = options.parse_args(["--dataset", "parquet", "--noise", "sym:0.2", "own"])
    assert [str(each) for each in learn.noises_of(chosen)] == ["sym:0.2", "own"]


@pytest.mark.usefixtures("toys")
def test_only_the_failures_of_what_was_asked_for_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*SMALL, "--seeds", "1", "--budget", "1epochs", "--out", str(tmp_path / "a"), "--methods")
    assert ended((*arguments, "broken"), capsys)[0] == 1
    assert ended((*arguments, "toy"), capsys) == (0, "")
    assert ended((*arguments, "toy", "broken"), capsys)[1].startswith("1 of 2 rows failed;")


@pytest.mark.usefixtures("toys")
def test_rows_of_another_commit_or_machine_are_kept_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*SMALL, "--methods", "toy", "other", "--budget", "1epochs", "--out", str(tmp_path / "a"), "--seeds")
    path = tmp_path / "a.parquet"
    monkeypatch.setattr("benchmarks.experiment.code_line", lambda: "code abc, 2026-11-27 08:00 UTC")
    monkeypatch.setattr("benchmarks.run_notes.code_line", lambda: "code abc, 2026-11-28 08:00 UTC")
    assert ended((*arguments, "1"), capsys) == (0, "")
    assert ended((*arguments, "1"), capsys) == (0, ""), "another day is no other code"
    kept = read_rows(path)[0]
    monkeypatch.setattr("benchmarks.run_notes.code_line", lambda: "code def, 2026-11-28 08:00 UTC")
    status, said = ended((*arguments, "2"), capsys)
    assert (status, said.count("\n")) == (0, 1)
    assert said.startswith(f"warning: {path} keeps 2 of the rows asked for, 2 of other code (code abc; now code def); ")
    assert "remove it or write elsewhere (--out)" in said
    assert read_rows(path)[0][:2] == kept
    monkeypatch.setattr("benchmarks.run_notes.code_line", lambda: "code abc, 2026-11-28 08:00 UTC")
    monkeypatch.setattr("benchmarks.run_notes.hardware_line", lambda _: "a machine")
    said = ended((*arguments, "1"), capsys)[1]
    assert "keeps 2 of the rows asked for, 2 of another machine, device or version of torch; " in said


def test_calibration_is_measured_at_the_temperature_that_a_method_says(cell: Cell) -> None:
    def flattened(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        return replace(toy(problem, config, observer), temperature=1e6)  # every p is 1/K

    row = measure("flat", flattened, "digits", cell, TrainConfig(device="cpu", epochs=1), rho=0.8)
    assert row.accuracy_last is not None
    assert row.ece == pytest.approx(abs(row.accuracy_last - 0.1), abs=1e-4)


@pytest.mark.usefixtures("toys")
def test_what_is_there_is_not_run_again_and_what_failed_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*SMALL, "--noise", "sym:0.4", "--seeds", "1", "--budget", "1epochs", "--out", str(tmp_path / "a"))
    assert ended(arguments, capsys)[0] == 1
    called = []

    def counted(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        called.append(config.seed)
        return toy(problem, config, observer)

    monkeypatch.setattr(learn, "METHODS", {"toy": counted, "broken": counted, "other": counted})
    assert ended(arguments, capsys) == (0, "")
    assert called == [0]
    ended((*arguments[:-2], "--out", str(tmp_path / "a.parquet"), "--seeds", "2"), capsys)
    assert called == [0, 1, 1, 1]
    assert all(row.error is None for row in read_rows(tmp_path / "a.parquet")[0])


@pytest.mark.usefixtures("toys")
def test_other_settings_are_refused_and_leave_the_rows_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*SMALL, "--methods", "toy", "--seeds", "1", "--budget", "1epochs", "--out", str(tmp_path / "a"))
    ended(arguments, capsys)
    before = (tmp_path / "a.parquet").read_bytes()
    for more, word in ((("--clean", "30"), "clean"), (("--rho", "0.9"), "rho"), (("--no-resume",), "--no-resume")):
        status, said = ended((*arguments, *more), capsys)
        assert status == 2
        assert word in said
        assert said.count("\n") == 1
    assert (tmp_path / "a.parquet").read_bytes() == before


@pytest.mark.parametrize(
    "wrong",
    [
        ("--noise", "fog:0.3"),
        ("--noise", "sym:2"),
        ("--budget", "ten"),
        ("--budget", "0epochs"),
        ("--methods", "magic"),
        ("--seeds", "0"),
        ("--clean", "many"),
        ("--trunk", "vgg"),
        ("--dataset", "imagenet"),
        ("--dataset", "parquet"),
        ("--dataset", "cifar10", "--root", "/nowhere"),
        ("--noisy", "5000"),
        ("--noise", "sym:0.4", "human:worst"),  # told before the first noise is trained on
        ("--lr", "nan"),
        ("--device", "tpu3"),
        ("--report", "/nowhere.parquet"),
        ("--nonsense",),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(
    wrong: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.plan.measure", lambda *_, **__: pytest.fail("trained"))
    status, said = ended((*SMALL[:2], "--out", str(tmp_path / "a"), *wrong), capsys)
    assert status == 2
    assert said.count("\n") == 1
    assert len(said) > 20
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("where", ["file/a", "file/deep/a", "n" * 300])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_trained(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "run", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").touch()
    for more in ((), ("--no-resume",), ("--report", str(tmp_path / "none.parquet"))):
        status, said = ended((*SMALL, "--out", str(tmp_path / where), *more), capsys)
        assert status == 2
        assert "cannot be written" in said
        assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("toys")
def test_the_name_of_the_results_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = ended((*SMALL, "--out", f"{tmp_path}/"), capsys)
    assert (status, said) == (2, f"error: {tmp_path} is a folder; name the results in it: --out {tmp_path / 'NAME'}\n")
    arguments = (*SMALL, "--methods", "toy", "--seeds", "1", "--budget", "1epochs", "--out", str(tmp_path / "v1.2"))
    assert ended(arguments, capsys)[0] == 0
    assert ended(("--report", str(tmp_path / "v1.2.parquet"), "--out", str(tmp_path / "w1.2")), capsys)[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"v1.2.parquet", "v1.2.md", "w1.2.md"}


@pytest.mark.parametrize(
    ("option", "wrong", "right"),
    [
        ("--rho", ("nan", "inf", "-1", "-0.1", "most"), {"0": 0.0, "0.8": 0.8, "2": 2.0}),  # above 1: never
        ("--imbalance", ("nan", "inf", "0", "0.99", "-3", "much"), {"1": 1.0, "50": 50.0}),
    ],
)
def test_numbers_that_mean_nothing_are_told_before_the_data_is_read(
    option: str, wrong: Sequence[str], right: dict[str, float], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for text in wrong:
        status, said = ended((*SMALL, "--root", "/nowhere", "--out", str(tmp_path / "a"), option, text), capsys)
        assert status == 2
        assert f"argument {option}: " in said
        assert text in said
        assert said.count("\n") == 1
    options = parser("test", "test")
    learn.add_options(options)
    for text, number in right.items():
        assert getattr(options.parse_args((option, text)), option[2:]) == number


def test_help_names_every_noise_and_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        finish(learn.main, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in ("annotators:R", "human:COLUMN", "fasten-paper", "mw-net", "15epochs or 60s"):
        assert name in text


def test_real_methods_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("ce", "ce-clean", "fasten-paper", "fasten")
    arguments = (*SMALL, "--noise", "asym:0.4", "--seeds", "1", "--budget", "1epochs", "--methods", *methods)
    assert ended((*arguments, "--out", str(tmp_path / "a")), capsys)[0] == 0
    rows = {row.method: row for row in read_rows(tmp_path / "a.parquet")[0]}
    assert tuple(rows) == methods
    assert [row.error for row in rows.values()] == [None] * 4
    for row in rows.values():
        assert row.noise_rate == rows["ce"].noise_rate
        assert row.best_epoch == 1
        assert row.accuracy_best == row.accuracy_last
        assert row.seconds is not None
        assert row.seconds > 0
    assert rows["ce"].passes == 1
    assert rows["ce"].transition_absolute is None
    assert rows["fasten"].transition_absolute is not None
    configured = (tmp_path / "a.md").read_text(encoding="utf-8").partition("## Configured\n")[2]
    assert [line for line in configured.splitlines() if line.startswith("- ")] == [
        "- fasten-paper: PAPER",
        "- fasten: OURS",
    ]


@pytest.mark.usefixtures("toys")
def test_report_merges_files_and_a_figure_outweighs_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*SMALL, "--methods", "toy", "--seeds", "1", "--budget", "1epochs", "--noise")
    ended((*arguments, "sym:0.4", "--out", str(tmp_path / "a")), capsys)
    ended((*arguments, "asym:0.4", "--out", str(tmp_path / "b")), capsys)
    text = learn.report("both", [tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert "## digits, sym:0.4" in text
    assert "## digits, asym:0.4" in text
    assert "all cells" in text


def test_the_observer_finds_the_best_validation_epoch(cell: Cell) -> None:
    """The network is good at epochs 2 and 3: the first of them counts."""
    cell = replace(cell, test_labels=torch.full_like(cell.test_labels, 3), validation_labels=torch.full((20,), 3))

    def twice(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        network = build_network(config.preset, problem.num_classes).eval()
        for epoch, answer in ((1, 5), (2, 3), (3, 3), (4, 4)):
            with torch.no_grad():
                network.clean_head.bias.fill_(0.0)[answer] = 1e6
            if observer is not None:
                observer(epoch, network)
        return Outcome(network=network, beliefs=toy(problem, config, None).beliefs, transition=None, passes=1.0)

    row = measure("twice", twice, "digits", cell, TrainConfig(epochs=4, device="cpu"), rho=0.8)
    assert row.error is None
    assert (row.best_epoch, row.accuracy_best, row.accuracy_last) == (2, 1.0, 0.0)
    assert row.validation_accuracy == [0.0, 1.0, 1.0, 0.0]
    assert row.transition_absolute is None


def test_a_transition_of_corrected_labels_is_held_against_those(cell: Cell) -> None:
    """All labels corrected to the truth: T of them is the identity, and T̂ = I has no error."""

    def corrected(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        return replace(toy(problem, config, observer), transition_of=cell.truth)

    config = TrainConfig(epochs=1, device="cpu")
    assert measure("x", corrected, "digits", cell, config, rho=0.8).transition_absolute == 0
    of_given = measure("x", toy, "digits", cell, config, rho=0.8)
    assert of_given.transition_absolute is not None
    assert of_given.transition_absolute > 0.01
    assert of_given.true_diagonal == pytest.approx(float(cell.true_transition.diagonal().mean()))


def test_beliefs_that_do_not_sum_to_one_are_a_failure(cell: Cell) -> None:
    def doubtful(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        outcome = toy(problem, config, observer)
        return replace(outcome, beliefs=2 * outcome.beliefs)

    row = measure("doubtful", doubtful, "digits", cell, TrainConfig(epochs=1, device="cpu"), rho=0.8)
    assert row.error is not None
    assert "sum to 1" in row.error


def test_memory_is_what_a_method_grows_by_whatever_was_freed_before(cell: Cell) -> None:
    pieces = [torch.ones(2**10) for _ in range(2**13)]  # 32 MiB of the heap, which keeps what is freed
    last = torch.ones(2**10)  # above it
    del pieces

    def greedy(problem: Problem, config: TrainConfig, _: Observer | None) -> Outcome:
        kept = [torch.ones(2**10) for _ in range(2**13)]
        assert len(kept) == 2**13
        return toy(problem, config, None)

    row = measure("greedy", greedy, "digits", cell, TrainConfig(epochs=1, device="cpu"), rho=0.8)
    assert row.peak_memory_mib is not None
    assert row.peak_memory_mib > 30
    assert last.sum() == 2**10


def test_what_nobody_knows_the_truth_of_has_no_figures_of_it(cell: Cell) -> None:
    """Data of one's own: no sample was labelled by people and audited as well."""
    cell = replace(cell, truth=torch.full_like(cell.truth, -1), true_transition=torch.eye(10), pairs=0)

    def of_corrected(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        return replace(toy(problem, config, observer), transition_of=problem.noisy_labels)

    for method in (toy, of_corrected):
        row = measure("x", method, "digits", cell, TrainConfig(epochs=1, device="cpu"), rho=0.8)
        assert row.error is None
        assert row.accuracy_last is not None
        assert row.estimated_diagonal == 1
        for figure in (row.noise_rate, row.labels_correct, row.transition_absolute, row.transition_chi2):
            assert figure is None
        assert row.true_diagonal is None
    assert "64 noisy samples, whose true labels nobody knows; 20 clean." in markdown("t", [row], [])


def test_every_figure_of_a_row_is_the_methods_own(cell: Cell) -> None:
    """Beliefs that are right everywhere, and a network that says one class of everything."""

    class Stuck(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([0.0, 2.0] + [0.0] * 8))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.bias.expand(len(images), -1)
            return logits, logits

    def sure(problem: Problem, *_: object) -> Outcome:
        beliefs = torch.nn.functional.one_hot(cell.truth, problem.num_classes).float()
        return Outcome(network=Stuck().eval(), beliefs=beliefs, transition=torch.eye(10), passes=1.5)

    row = measure("sure", sure, "digits", cell, TrainConfig(epochs=3, device="cpu"), rho=0.8)
    assert row.error is None
    share = float((cell.test_labels == 1).double().mean())
    said = float(torch.tensor([0.0, 2.0] + [0.0] * 8).double().softmax(dim=0)[1])
    assert row.accuracy_last == pytest.approx(share)
    assert row.ece == pytest.approx(abs(said - share), abs=1e-6)
    assert (row.labels_correct, row.labels_correct_of_wrong) == (1, 1)
    assert (row.relabel_precision, row.relabel_recall, row.passes) == (1, 1, 1.5)
    wrong = float((cell.truth != cell.problem.noisy_labels).double().mean())
    assert row.noise_rate == pytest.approx(wrong)
    assert row.relabelled == pytest.approx(wrong)
    assert row.seconds is not None
    assert row.images_per_second == pytest.approx(len(cell.truth) * 3 / row.seconds)
    assert row.estimated_diagonal == 1
    assert row.accuracy_best is None  # nothing was shown


def test_a_budget_in_seconds_becomes_the_epochs_that_fit(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: 3 s once and 2 s an epoch."""
    now = [0.0]
    monkeypatch.setattr("benchmarks.experiment.time.perf_counter", lambda: now[0])

    def slow(problem: Problem, config: TrainConfig, observer: Observer | None) -> Outcome:
        now[0] += 3 + 2 * config.settings().epochs
        return toy(problem, config, observer)

    assert epochs_within(23.5, slow, cell, TrainConfig(device="cpu")) == 10
    assert epochs_within(1.0, slow, cell, TrainConfig(device="cpu")) == 1


def test_budgets() -> None:
    assert parse_budget("10epochs") == Budget(epochs=10)
    assert parse_budget("1.5s") == Budget(seconds=1.5)
    for wrong in ("", "s", "epochs", "-3s", "0s", "infs", "nans", "1.5epochs", "7"):
        with pytest.raises(DataError):
            parse_budget(wrong)
