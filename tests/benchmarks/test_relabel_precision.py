"""The study of relabel rules: evidence as training gives it, rules that do what they say, and one table a run."""

import itertools
from pathlib import Path

import pytest
import torch

from benchmarks import relabel_precision
from benchmarks.command import finish
from benchmarks.relabel_rules import RULES, TARGET, Judged, gather, outcome
from fasten_model.relabel import NEVER


def judged(*, over_confident: float, seed: int = 0, count: int = 3000) -> Judged:
    """A model of 4 classes whose logits are `over_confident` times what they should be, 35 % wrong labels."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(4, (count,), generator=generator)
    logits, before = (
        over_confident * 3 * (3 * torch.eye(4)[true] + torch.randn(count, 4, generator=generator)) for _ in range(2)
    )
    given = torch.where(torch.rand(count, generator=generator) < 0.35, (true + 1) % 4, true)
    return Judged(
        logits=logits, visits=torch.log_softmax(before, dim=1), given=given, true=true,
        taught=torch.stack([true[:150], given[:150]], dim=1),
    )  # fmt: skip


OURS = "**Learn then Test (ours)**"


@pytest.mark.parametrize("over_confident", [0.5, 1.0, 3.0])
def test_a_model_whose_errors_are_independent_of_the_image_is_used_and_keeps_the_promise(over_confident: float) -> None:
    ours = relabel_precision.tallies([judged(over_confident=over_confident)], 400, 5)[OURS]
    assert ours.coverage > 0.25
    assert ours.right >= TARGET * ours.changed
    assert ours.kept == ours.used == 1.0


def test_each_rule_decides_on_the_evidence_alone() -> None:
    model = judged(over_confident=1.0)
    held = torch.arange(100)
    evidence = gather(model, held)
    for name, rule in RULES.items():
        changed, right = outcome(rule(evidence), evidence)
        assert 0 <= right <= changed <= len(model.true) - len(held), name
    assert outcome(NEVER, evidence) == (0, 0)
    assert outcome(0.0, evidence)[0] == len(evidence.bulk.confidence)
    of_one_class = torch.tensor([0.0, NEVER, NEVER, NEVER]).double()
    assert outcome(of_one_class, evidence)[0] == int((evidence.bulk.suggested == 0).sum())
    assert outcome(RULES[OURS](evidence), evidence) == (0, 0), "a hundred pairs have too few relabels for that"


def test_a_run_prints_every_rule_and_keeps_what_the_models_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--only", "digits", "--seeds", "1", "--draws", "2", "--epochs", "1", "--device", "cpu"]
    arguments += ["--models", str(tmp_path)]
    assert relabel_precision.main(arguments) == 0
    first = capsys.readouterr().out
    rows = [line for line in first.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1 : 1 + len(RULES)]] == list(RULES)
    assert "pairs as `fasten train` holds them out:" in first
    assert "400 pairs:" in first
    [kept] = tmp_path.iterdir()
    changed = kept.stat().st_mtime_ns
    assert relabel_precision.main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1:] == first.splitlines()[1:]
    assert kept.stat().st_mtime_ns == changed
    longer = ["2" if before == "--epochs" else each for before, each in itertools.pairwise(["", *arguments])]
    assert relabel_precision.main(longer) == 0
    assert len(list(tmp_path.iterdir())) == 2, "what was trained otherwise says something else"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--only", "clothing"), "no cell's name contains 'clothing'; there are digits asym:0.4, 900 + 200; "),
        (("--only", "worst"), "give --cifar10n DIR"),
        (("--models", "file"), "cannot be written (File exists); write elsewhere (--models)"),
        (("--fashion-mnist", "nowhere"), "no folder nowhere"),
        (("--cifar10n", "nowhere", "--only", "human"), "no folder nowhere"),
        (("--device", "tpu"), "no device named 'tpu'"),
        (("--seeds", "0"), "0 is below 1"),
        (("--threads", "0"), "0 is below 1"),
        (("--out", "a"), "unrecognized arguments: --out a"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_trained(
    wrong: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(relabel_precision, "judge", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        finish(relabel_precision.main, wrong)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
