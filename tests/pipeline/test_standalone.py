"""Training and scoring from files: what is left behind, and that a failure leaves nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fasten_model import fitting
from fasten_model.model import load_model
from fasten_model.relabel import NEVER
from pipeline.errors import DataError
from pipeline.schema import NOISY, SCORES
from pipeline.settings import Settings
from pipeline.standalone import score_file, train_files

if TYPE_CHECKING:
    from fasten_model.fitting import Fitted
    from tests.pipeline.conftest import Row

WriteSamples = Callable[..., Path]
MakeSquares = Callable[..., "list[Row]"]


def quick(**changes: Any) -> Settings:
    return Settings(**{"epochs": 1, "device": "cpu", **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def scores_of(
    model: Path, noisy: Path, *, rho: float | None = None, target_precision: float = 0.95
) -> list[dict[str, Any]]:
    score_file(
        model=model,
        noisy=noisy,
        out=Path("scores.parquet"),
        rho=rho,
        target_precision=target_precision,
        device="cpu",
        mode="auto",
    )
    table = pq.read_table("scores.parquet")
    assert table.schema.remove_metadata().equals(SCORES), "the columns of the contract, types included"
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_the_model_undoes_the_noise(trained: Path, noisy: Path, make_squares: MakeSquares) -> None:
    truth = {sample_id: label for sample_id, _, label in make_squares("bulk", 90)}
    rows = scores_of(trained, noisy, rho=0.5)
    assert sum(row["given_label"] != truth[row["sample_id"]] for row in rows) == 18
    assert sum(row["suggested_label"] != truth[row["sample_id"]] for row in rows) <= 4


def test_a_folder_holds_the_model_and_what_is_known_of_it(clean: Path, noisy: Path) -> None:
    fitted = train_files(clean=clean, noisy=noisy, out=Path("a/model"), settings=quick(rho=0.7))
    loaded = load_model(Path("a/model"))
    assert (loaded.rho, loaded.temperature) == (0.7, fitted.model.temperature)
    known = json.loads(Path("a/model/fitted.json").read_text())
    assert known["held_out"] == fitted.held_out == sum(map(sum, known["confusion"]))
    assert [sum(row) for row in known["transition"]] == pytest.approx([1.0] * 3)
    assert [metrics["epoch"] for metrics in known["history"]] == [1]
    assert known["relabels"]["rho"] == 0.7
    assert known["relabels"]["sentence"] == loaded.metadata["relabels"]


def test_rho_is_chosen_for_the_target_from_what_the_audits_know_of_the_labels(
    own_folder: Path, noisy: Path, write_samples: WriteSamples, make_squares: MakeSquares
) -> None:
    """The same training with and without pairs: only with them anything is relabeled."""
    rows = make_squares("audited", 120)
    said = [label for _, _, label in make_squares("audited", 120, wrong_every=2)]
    chosen = {}
    for name, given in (("with", said), ("without", None)):
        clean = write_samples(own_folder / "clean.parquet", rows, given=given)
        settings = quick(epochs=3, target_precision=0.6, holdout=0.5)
        fitted = train_files(clean=clean, noisy=noisy, out=Path(name), settings=settings)
        decisions = {row["decision"] for row in scores_of(Path(name), noisy)}
        chosen[name] = (load_model(Path(name)).rho, "relabel" in decisions)
        assert (fitted.choice.pairs_held_out > 0) == (given is not None)
    assert chosen["with"][0] <= 1
    assert chosen["with"][1]
    assert chosen["without"] == (NEVER, False)


def test_the_same_seed_trains_the_same_model_and_another_does_not(clean: Path, noisy: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_files(clean=clean, noisy=noisy, out=Path(name), settings=quick(seed=seed))
    weights = [Path(name, "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_one_row_for_each_usable_sample_below_rho_the_given_label_and_from_rho_the_models(
    trained: Path, noisy: Path, write_samples: WriteSamples, make_squares: MakeSquares
) -> None:
    rows = make_squares("bulk", 60, wrong_every=4)
    rows[7] = ("bulk-7", b"no image", rows[7][2])
    rows[9] = ("bulk-9", rows[9][1], "a class that the model does not know")
    write_samples(noisy, rows)
    free = scores_of(trained, noisy, rho=0.0)
    doubted = sorted(row["model_label_probability"] for row in free if row["decision"] == "relabel")
    rho, target = doubted[len(doubted) // 2], 0.8  # the boundary itself corrects
    found = scores_of(trained, noisy, rho=rho, target_precision=target)
    assert [row["sample_id"] for row in found] == [f"bulk-{i}" for i in range(60) if i not in (7, 9)]
    classes = load_model(trained).classes
    for row in found:
        q = dict(zip(classes, row["posterior"], strict=True))
        best = max(q, key=lambda name: q[name])
        assert row["model_label"] == best
        assert row["model_label_probability"] == pytest.approx(q[best], abs=1e-5)
        if best != row["given_label"] and row["model_label_probability"] >= rho:
            expected = (best, "relabel")
        else:
            expected = (row["given_label"], "keep" if 1 - row["error_probability"] >= target else "low_confidence")
        assert (row["suggested_label"], row["decision"]) == expected
        for name in ("confidence", "given_label_probability", "error_probability", "priority"):
            assert 0.0 <= row[name] <= 1.0
        assert row["confidence"] >= row["given_label_probability"]
        assert sum(row["posterior"]) == pytest.approx(1.0, abs=1e-5)
        assert row["error_probability"] == pytest.approx(1 - q[row["given_label"]], abs=1e-5)
        assert row["priority"] == pytest.approx(1 - q[row["suggested_label"]], abs=1e-5)
    assert sum(row["decision"] == "relabel" for row in found) == len(doubted) - len(doubted) // 2
    assert {row["decision"] for row in found} == {"keep", "relabel", "low_confidence"}
    assert len({row["model_version"] for row in found}) == 1


def test_rho_is_the_models_own_unless_another_is_given(trained: Path, noisy: Path) -> None:
    own = load_model(trained).rho
    assert scores_of(trained, noisy) == scores_of(trained, noisy, rho=own)
    assert scores_of(trained, noisy) != scores_of(trained, noisy, rho=0.5)


@pytest.mark.parametrize("cache", [None, Path("kept")], ids=["decoded", "from a cache"])
def test_the_samples_of_a_training_are_known_again_and_not_those_of_another_file_with_their_ids(
    clean: Path,
    noisy: Path,
    cache: Path | None,
    write_samples: WriteSamples,
    make_squares: MakeSquares,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    train_files(clean=clean, noisy=noisy, out=Path("model"), settings=quick(), cache=cache)
    own = scores_of(Path("model"), noisy)
    assert "90 of 90 labels are of those that the model was trained on" in caplog.messages
    others = [image for _, image, _ in make_squares("", 180)][90:]
    rows = make_squares("bulk", 90, wrong_every=5)
    write_samples(noisy, [(name, image, label) for (name, _, label), image in zip(rows, others, strict=True)])
    scores = scores_of(Path("model"), noisy)
    assert "0 of 90 labels are of those that the model was trained on" in caplog.messages
    Path("model/visits.safetensors").unlink()
    assert scores == scores_of(Path("model"), noisy)
    write_samples(noisy, rows)
    assert own != scores_of(Path("model"), noisy), "visits make a difference here"


def test_votes_and_provenance_of_the_files_make_a_difference(
    clean: Path, noisy: Path, make_squares: MakeSquares, caplog: pytest.LogCaptureFixture
) -> None:
    """Two annotators of whom one is right: the label is the other's, and so wrong in every fifth case."""
    for path in (clean, noisy):
        table = pq.read_table(path)
        truth = {sample_id: label for sample_id, _, label in make_squares("bulk", 90)}
        rows = table.select(["sample_id", "label"]).to_pylist()
        right = [(truth.get(row["sample_id"], row["label"]), row["label"]) for row in rows]
        said = [[{"annotator": "ann", "label": ann}, {"annotator": "bob", "label": bob}] for ann, bob in right]
        pq.write_table(table.append_column("votes", pa.array(said, NOISY.field("votes").type)), path)
    train_files(clean=clean, noisy=noisy, out=Path("model"), settings=quick())
    assert load_model(Path("model")).annotators == ("ann", "bob", "others")
    with_votes = scores_of(Path("model"), noisy)
    pq.write_table(pq.read_table(noisy).drop_columns("votes"), noisy)
    assert with_votes != scores_of(Path("model"), noisy)
    assert "column votes" not in caplog.text

    reviews = pa.array(["audit", "review"] * 15)
    pq.write_table(pq.read_table(clean).append_column("provenance", reviews), clean)
    fitted = train_files(clean=clean, noisy=noisy, out=Path("other"), settings=quick(folds=3))
    assert fitted.held_out == 15, "every audit is held out from one model, and no review"


def test_the_model_version_changes_with_the_model(trained: Path, clean: Path, noisy: Path) -> None:
    train_files(clean=clean, noisy=noisy, out=Path("model"), settings=quick())
    first, second = (scores_of(model, noisy)[0]["model_version"] for model in (trained, Path("model")))
    assert first != second
    assert second.startswith("model@")


def test_a_training_that_fails_leaves_the_older_model_as_it_was(
    trained: Path, clean: Path, noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(trained, "model"))
    before = contents(out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            train_files(clean=clean, noisy=noisy, out=out, settings=quick())
    assert contents(out) == before


def test_scores_that_cannot_be_put_in_place_leave_the_older_ones_and_nothing_else(
    trained: Path, noisy: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_of(trained, noisy)
    before = contents(own_folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            score_file(
                model=trained, noisy=noisy, out=Path("scores.parquet"), rho=1.5, target_precision=0.95, device="cpu"
            )
    assert contents(own_folder) == before


def test_a_folder_that_cannot_be_written_to_is_told_before_the_training(
    clean: Path, noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> "Fitted":
        raise AssertionError("trained in vain")

    monkeypatch.setattr("fasten_model.fit_files.fit", never)
    monkeypatch.setattr("fasten_model.whole_file.os.access", lambda *_: False)
    with pytest.raises(DataError, match="nothing can be written to"):
        train_files(clean=clean, noisy=noisy, out=Path("model"), settings=quick())


def test_audited_samples_that_are_in_the_noisy_file_too_are_no_bulk(
    clean: Path,
    noisy: Path,
    write_samples: WriteSamples,
    make_squares: MakeSquares,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_samples(noisy, [*make_squares("bulk", 60), *make_squares("audited", 30, wrong_every=3)])
    seen: list[int] = []

    def spy(noisy_set: Any, clean_set: Any, *args: Any, **kwargs: Any) -> "Fitted":
        seen.extend((len(noisy_set), len(clean_set), int((clean_set.labels != clean_set.given_labels).sum())))
        assert not set(noisy_set.sample_ids) & set(clean_set.sample_ids)
        assert torch.equal(torch.unique(clean_set.labels), torch.arange(3))
        return fitting.fit(noisy_set, clean_set, *args, **kwargs)

    monkeypatch.setattr("fasten_model.fit_files.fit", spy)
    train_files(clean=clean, noisy=noisy, out=Path("model"), settings=quick())
    assert seen == [60, 30, 10]
