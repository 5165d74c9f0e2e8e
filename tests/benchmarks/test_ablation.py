"""The ablation's variants are what they say, and its table holds each against its base."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks import ablation
from benchmarks.command import finish
from benchmarks.results import read_rows, write_rows
from benchmarks.variants import BASES, VARIANTS, find_variants
from fasten_model.errors import DataError


def test_every_variant_changes_something_that_its_base_has_not() -> None:
    for variant in VARIANTS.values():
        if variant.name in BASES:
            assert variant.method() == BASES[variant.name]
            continue
        base = BASES[variant.base]
        for switch, value in variant.switches.items():
            assert getattr(base, switch) != value, f"{variant.name}: {switch} is {value!r} in {variant.base} already"
        assert variant.switches or variant.judges or variant.clean_share
        assert variant.predicted


def test_no_two_variants_are_the_same() -> None:
    assert {name: VARIANTS[name].judged for name in BASES} == {"paper": "p", "ours": "q", "fitted": "fitted"}
    made = [
        (str([getattr(v.method(), f.name) for f in fields(v.method())]), v.judged, v.clean_share)
        for v in VARIANTS.values()
    ]
    assert len(set(made)) == len(made)


def test_variants_come_with_their_base() -> None:
    assert [v.name for v in find_variants(["ours -pairs"])] == ["ours", "ours -pairs"]
    assert {v.base for v in find_variants(["paper/*"])} == {"paper"}
    assert len(find_variants(None)) == len(VARIANTS)
    with pytest.raises(DataError, match="no variant is called 'paper -magic'"):
        find_variants(["paper -magic"])


def test_a_variant_is_trained_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--dataset digits --noisy 64 --clean 20 --validation 20 --seeds 2 --budget 1epochs --noise sym:0.4"
    with pytest.raises(SystemExit) as stop:
        finish(
            ablation.main,
            [*arguments.split(), "--variants", "paper +q", "--device", "cpu", "--out", str(tmp_path / "a")],
        )
    assert stop.value.code == 0
    rows, settings = read_rows(tmp_path / "a.parquet")
    assert [row.error for row in rows] == [None] * 4
    of = {(row.seed, row.method): row for row in rows}
    for seed in (0, 1):  # one network, judged in two ways
        assert of[seed, "paper"].accuracy_last == of[seed, "paper +q"].accuracy_last
        assert of[seed, "paper"].ece == of[seed, "paper +q"].ece
        assert of[seed, "paper"].transition_absolute != of[seed, "paper +q"].transition_absolute  # of other labels
    assert '"method.estimator": "clean_batch"' in rows[0].config

    better = [replace(row, labels_correct=0.5 if row.method == "paper" else 0.6) for row in rows]
    write_rows(tmp_path / "b.parquet", better, settings)
    text = ablation.report("b", [tmp_path / "b.parquet"])
    line = next(line for line in text.splitlines() if line.startswith("| paper +q"))
    assert "+10.00 ± 0.00" in line
    assert VARIANTS["paper +q"].predicted in line
    assert "## digits, sym:0.4" in capsys.readouterr().out


def test_the_list_has_every_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in VARIANTS)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--variants", "theirs"),
        ("--out", "/proc/x/y"),
        ("--out", "/"),
        ("--seeds", "0"),
        ("--threads", "0"),
        ("--dataset", "imagenet"),
        ("--report", "nowhere.parquet"),
    ],
)
def test_bad_arguments_are_one_line(wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        finish(ablation.main, wrong)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_variant_that_fails_makes_the_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "as_method", lambda _: lambda *_: 1 / 0)
    arguments = "--noisy 64 --clean 20 --validation 20 --seeds 1 --budget 1epochs --device cpu --variants paper --out"
    assert ablation.main([*arguments.split(), str(tmp_path / "a")]) == 1
    assert capsys.readouterr().err == f"1 of 1 rows failed; see “Failed” in {tmp_path / 'a.md'}\n"
