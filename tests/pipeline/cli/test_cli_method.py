"""`fasten train` and `fasten score` from two Parquet files, as their users call them."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fasten_model.model import load_model
from pipeline.cli.app import app
from pipeline.schema import SCORES

if TYPE_CHECKING:
    from tests.pipeline.conftest import Row

runner = CliRunner()
WriteSamples = Callable[..., Path]
MakeSquares = Callable[..., "list[Row]"]


def names_in(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(*arguments: str | Path) -> str:
    """The one line that the command ends with, once it is sure that it changed no file."""
    before = files_below(Path.cwd())
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert re.fullmatch(r"fasten: error: [^\n]+\n", result.stderr), result.stderr
    assert files_below(Path.cwd()) == before
    return result.stderr


def test_train_and_score_from_the_shell(clean: Path, noisy: Path, own_folder: Path) -> None:
    fasten = Path(sys.executable).with_name("fasten")
    trained = subprocess.run(
        [fasten, "train", "--clean", clean, "--noisy", noisy, "--out", "model", "--epochs", "2"],
        env={**os.environ, "FASTEN_DEVICE": "cpu", "FASTEN_HORIZONTAL_FLIP": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr
    assert re.search(r"training on 90 noisy and 30 audited samples, 3 classes, device cpu", trained.stderr)
    assert re.findall(r"epoch (\d/\d): loss", trained.stderr) == ["1/2", "2/2"], "long work shows how far it is"
    assert re.fullmatch(
        r"accuracy on \d+ held-out audited samples: [\d.]+%\nthe model relabels nothing: .+\nmodel: model\n",
        trained.stdout,
    )
    assert names_in("model") == ["fitted.json", "model.json", "model.safetensors", "visits.safetensors"]
    assert load_model(own_folder / "model").classes == ("bright", "dark", "grey")

    scored = runner.invoke(app, ["score", "--model", "model", "--noisy", str(noisy), "--out", "made/scores.parquet"])
    assert scored.exit_code == 0, scored.stderr
    counts = {line.split()[0]: int(line.split()[1]) for line in scored.stdout.splitlines()[:3]}
    assert list(counts) == ["keep", "relabel", "low_confidence"]
    assert sum(counts.values()) == pq.read_metadata("made/scores.parquet").num_rows == 90
    assert scored.stdout.endswith("\nscores: made/scores.parquet\n")
    assert names_in("made") == ["scores.parquet"]


TRAIN = ("--out", "model", "--epochs", "1", "--device", "cpu")


def test_another_trunk_is_trained_with_the_presets_settings(clean: Path, noisy: Path, own_folder: Path) -> None:
    result = runner.invoke(app, ["train", "--clean", str(clean), "--noisy", str(noisy), *TRAIN, "--trunk", "fast"])
    assert result.exit_code == 0, result.stderr
    assert load_model(own_folder / "model").network.trunk_name == "fast"
    assert "no trunk" in refused("train", "--clean", clean, "--noisy", noisy, *TRAIN, "--trunk", "nobodys")


def test_decoded_images_are_read_from_the_cache_the_next_time(
    clean: Path, noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "--clean", str(clean), "--noisy", str(noisy), *TRAIN, "--cache", "kept"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert names_in("kept")

    def decoded_again(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("fasten_model.images.cache.decode_images", decoded_again)
    before = files_below(Path("kept"))
    assert runner.invoke(app, arguments).exit_code == 0
    assert files_below(Path("kept")) == before


def test_a_training_that_was_cut_off_goes_on_from_its_checkpoint(
    clean: Path, noisy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["train", "--clean", str(clean), "--noisy", str(noisy), *TRAIN, "--checkpoint", "kept"]
    with monkeypatch.context() as patch:

        def cut_off(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("fasten_model.fit_files.save_model", cut_off)
        assert runner.invoke(app, arguments).exit_code != 0
    assert "checkpoint.json" in names_in("kept")
    assert "checkpoint of another training" in refused(*arguments, "--seed", "7")
    with caplog.at_level(logging.INFO, logger="fasten_model"):
        result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "going on after step" in caplog.text
    assert not Path("kept").exists(), "the model is written"


def test_triage_lists_the_most_doubtful_of_a_scores_file(trained: Path, noisy: Path) -> None:
    runner.invoke(app, ["score", "--model", str(trained), "--noisy", str(noisy), "--out", "s.parquet"])
    rows = sorted(pq.read_table("s.parquet").to_pylist(), key=lambda row: (-row["priority"], row["sample_id"]))
    result = runner.invoke(app, ["triage", "--scores", "s.parquet", "--top", "4"])
    assert result.exit_code == 0, result.stderr
    listed = [line.split() for line in result.stdout.splitlines()[4:]]
    assert [line[:3] for line in listed] == [[r["sample_id"], r["given_label"], r["model_label"]] for r in rows[:4]]
    silent = runner.invoke(app, ["triage", "--scores", "s.parquet", "--top", "0"])
    assert len(silent.stdout.splitlines()) == 3


@pytest.mark.usefixtures("own_folder")
def test_names_in_a_scores_file_cannot_steer_the_terminal() -> None:
    row: dict[str, Any] = dict.fromkeys(SCORES.names, 0.5)
    row |= {"sample_id": "[red]a\x1b[2J", "given_label": "[/]", "model_label": "x", "suggested_label": "x"}
    row |= {"decision": "keep", "model_version": "1", "posterior": [1.0]}
    row |= {"confidence": 0.95, "model_label_probability": 0.55}  # max p may be another class's
    pq.write_table(pa.Table.from_pylist([row], schema=SCORES), "s.parquet")
    result = runner.invoke(app, ["triage", "--scores", "s.parquet"])
    assert result.exit_code == 0, result.stderr
    assert "[red]a�[2J" in result.stdout
    assert "[/]" in result.stdout
    assert result.stdout.splitlines()[-1].split()[2:] == ["x", "55%", "50%", "keep"], "how sure it is of what it says"


@pytest.mark.parametrize("which", ["clean", "noisy"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_text("sample_id,label\n"), "is not a sound Parquet file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is not a sound Parquet file"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory"),
        (lambda path: pq.write_table(pq.read_table(path).drop(["label"]), path), "has no column label"),
        (lambda path: pq.write_table(pq.read_table(path).drop(["image"]), path), "has no column image"),
        (lambda path: pq.write_table(pq.read_table(path).slice(0, 0), path), "has no sample that can be trained on"),
    ],
    ids=["missing", "csv", "cut off", "folder", "no label", "no image", "empty"],
)
def test_a_file_that_cannot_be_trained_on_is_one_line_that_names_it(
    clean: Path, noisy: Path, which: str, damage: Callable[[Path], object], says: str
) -> None:
    path = {"clean": clean, "noisy": noisy}[which]
    damage(path)
    line = refused("train", "--clean", clean, "--noisy", noisy, "--out", "model")
    assert says in line
    assert str(path) in line
    assert not Path("model").exists()


def test_a_single_class_and_a_class_without_an_audited_sample_are_one_line(
    clean: Path, noisy: Path, write_samples: WriteSamples, make_squares: MakeSquares
) -> None:
    only = [row for row in make_squares("square", 30) if row[2] == "dark"]
    write_samples(clean, only[:4])
    line = refused("train", "--clean", clean, "--noisy", noisy, "--out", "model")
    assert "no audited sample of classes “bright”, “grey”" in line
    write_samples(noisy, only[4:])
    line = refused("train", "--clean", clean, "--noisy", noisy, "--out", "model")
    assert "only one class (“dark”)" in line


@pytest.mark.parametrize("which", ["clean", "noisy"])
def test_images_that_do_not_decode_are_counted_and_left_out(
    clean: Path,
    noisy: Path,
    write_samples: WriteSamples,
    make_squares: MakeSquares,
    caplog: pytest.LogCaptureFixture,
    which: str,
) -> None:
    caplog.set_level("INFO")
    rows = make_squares("square", 30)
    broken: list[Row] = [(f"broken-{i}", (rows[i][1] or b"")[:-30], "dark") for i in range(2)]
    broken += [("none", None, "dark"), ("nameless", rows[0][1], None)]
    write_samples({"clean": clean, "noisy": noisy}[which], [*rows, *broken])
    result = runner.invoke(
        app, ["train", "--clean", str(clean), "--noisy", str(noisy), "--out", "model", "--epochs", "1"]
    )
    assert result.exit_code == 0, result.stderr
    assert f"{which}.parquet: 4 of 34 rows are left out" in caplog.text
    assert "  2: the PNG does not decode" in caplog.text
    assert "  1: it has no inline image bytes" in caplog.text
    assert "  1: it has no label" in caplog.text


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("noisy.parquet", "is a file: give --out a folder"),
        ("noisy.parquet/model", "nothing can be written to"),
        ("/proc/model", "nothing can be written to /proc/model"),
    ],
)
def test_a_model_needs_a_folder(clean: Path, noisy: Path, out: str, says: str) -> None:
    assert says in refused("train", "--clean", clean, "--noisy", noisy, "--out", out)


@pytest.mark.parametrize("command", ["train", "score"])
def test_a_device_that_is_not_there_is_one_line(trained: Path, clean: Path, noisy: Path, command: str) -> None:
    for device in ("warp", "meta", "cuda:97", "xpu"):
        own = ("--clean", clean) if command == "train" else ("--model", trained)
        line = refused(command, *own, "--noisy", noisy, "--out", "new", "--device", device)
        assert f"'{device}'" in line
        assert "cpu" in line


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda model: shutil.rmtree(model), "no model at"),
        (lambda model: (model / "model.json").write_text("{"), "not a FasTEN model"),
        (lambda model: (model / "model.safetensors").unlink(), "cannot be read"),
        (lambda model: (model / "model.safetensors").write_bytes(b"\0" * 100), "is not the file that"),
        (lambda model: rename_a_class(model / "model.json"), "has no sample that can be scored"),
    ],
    ids=["missing", "json cut off", "weights missing", "weights damaged", "another task's"],
)
def test_a_damaged_model_is_one_line(trained: Path, noisy: Path, damage: Callable[[Path], object], says: str) -> None:
    model = Path(shutil.copytree(trained, "copied"))
    damage(model)
    line = refused("score", "--model", model, "--noisy", noisy, "--out", "scores.parquet")
    assert says in line
    assert "copied" in line or "“cat”" in line


def rename_a_class(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": ["cat", "dog", "cow"]}))


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (".", "is a folder"),
        ("noisy.parquet", "exists and is no scores file"),
        ("clean.parquet", "exists and is no scores file"),
        ("clean.parquet/scores.parquet", "nothing can be written to"),
        ("/proc/scores.parquet", "nothing can be written to /proc"),
    ],
)
def test_scores_never_replace_anything_but_scores(trained: Path, clean: Path, noisy: Path, out: str, says: str) -> None:
    assert clean.exists()
    assert says in refused("score", "--model", trained, "--noisy", noisy, "--out", out)


def test_older_scores_are_replaced(trained: Path, noisy: Path) -> None:
    for rho in ("0", "1.5"):
        arguments = ["score", "--model", str(trained), "--noisy", str(noisy), "--out", "scores.parquet", "--rho", rho]
        assert runner.invoke(app, arguments).exit_code == 0
    table = pq.read_table("scores.parquet")
    assert "relabel" not in table["decision"].to_pylist()
    assert table["suggested_label"].equals(table["given_label"])


def test_rho_of_the_environment_counts_in_scoring_too(
    trained: Path, noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["score", "--model", str(trained), "--noisy", str(noisy), "--out", "scores.parquet"]
    decisions = []
    for environment, option in ((None, "0.5"), ("0.5", None), ("0.5", "1.5"), ("0.5", "auto"), (None, "auto")):
        if environment is None:
            monkeypatch.delenv("FASTEN_RHO", raising=False)
        else:
            monkeypatch.setenv("FASTEN_RHO", environment)
        result = runner.invoke(app, [*arguments, *([] if option is None else ["--rho", option])])
        assert result.exit_code == 0, result.stderr
        decisions.append(pq.read_table("scores.parquet")["decision"].to_pylist())
    assert decisions[0] == decisions[1]
    assert "relabel" in decisions[1]
    assert "relabel" not in decisions[2], "an option wins"
    assert decisions[3] == decisions[4] != decisions[1], "so does auto: the model's own"


def test_a_certainty_that_is_none_is_one_line(clean: Path, noisy: Path) -> None:
    said = refused("train", "--clean", clean, "--noisy", noisy, "--out", "m", "--certainty", "1")
    assert "setting certainty (FASTEN_CERTAINTY" in said
