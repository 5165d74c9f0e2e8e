"""Two Parquet files as a training takes them: who estimates, who had said what, and one file as a model scores it."""

from pathlib import Path
from typing import Any

import pytest

from fasten_model.before_decoding import check_files
from fasten_model.fit_files import fit_files
from fasten_model.labelled import LabelledImages
from fasten_model.labelled_files import load_files, load_to_score
from fasten_model.model import load_model
from fasten_model.train import TrainConfig
from fasten_model.train.checkpoint import CheckpointConfig
from fasten_model.votes import LEAST_VOTES
from tests.fasten_model.inline_files import said, write

MANY = LEAST_VOTES
"""Votes that give an annotator a column."""
BULK: dict[str, Any] = {"label": ["cat", "dog"] * MANY, "votes": [said("ann=cat", "bob=dog")] * 2 * MANY}


def load(folder: Path, clean: dict[str, Any], noisy: dict[str, Any]) -> tuple[LabelledImages, LabelledImages]:
    noisy_set, clean_set, _ = load_files(write(folder / "clean", clean), write(folder / "noisy", noisy), size=4)
    return noisy_set, clean_set


def votes(samples: LabelledImages) -> list[list[int]]:
    assert samples.votes is not None
    found: list[list[int]] = samples.votes.tolist()
    return found


def test_reviews_train_and_do_not_estimate(tmp_path: Path) -> None:
    columns = {"label": ["cat", "dog", "cat"], "provenance": ["review", "audit", "audit"]}
    noisy_set, clean_set = load(tmp_path, columns, {"label": ["dog", "cat"], "provenance": ["review", "the web"]})
    assert clean_set.estimates.tolist() == [False, True, True]
    assert noisy_set.estimates.all()


def test_votes_of_both_files_have_the_same_columns(tmp_path: Path) -> None:
    clean = {"label": ["dog", "cat", "eel"], "votes": [said("bob=eel", "cyd=cat"), [], None]}
    noisy_set, clean_set = load(tmp_path, clean, BULK)
    assert noisy_set.annotators == clean_set.annotators == ("ann", "bob", "others/1")
    assert votes(noisy_set) == [[0, 1, -1]] * 2 * MANY
    assert votes(clean_set) == [[-1, 2, 0], [-1] * 3, [-1] * 3]


def test_a_sample_in_both_files_was_given_the_votes_of_the_noisy_one_unless_it_has_its_own(tmp_path: Path) -> None:
    ids = ["noisy-0", "noisy-2", "c"]
    clean = {"sample_id": ids, "label": ["dog"] * 3, "votes": [[], said("bob=cat"), []]}
    noisy_set, clean_set = load(tmp_path, clean, BULK)
    assert votes(clean_set) == [[1, 0], [-1, 1], [-1, -1]], "classes are the clean file's first"
    assert len(noisy_set) == 2 * MANY - 2
    assert not {"noisy-0", "noisy-2"} & set(noisy_set.sample_ids)
    without = {"sample_id": ids, "label": ["dog"] * 3}
    assert votes(load(tmp_path, without, BULK)[1]) == [[1, 0], [1, 0], [-1, -1]]


def test_what_most_had_said_is_the_given_label_where_nothing_else_tells_it(tmp_path: Path) -> None:
    cast = [said("ann=dog", "bob=dog", "cyd=cat"), said("ann=dog", "bob=cat"), said("ann=dog"), []]
    clean = {"label": ["cat"] * 4, "given_label": [None, None, "cat", None], "votes": cast}
    assert load(tmp_path, clean, BULK)[1].given_labels.tolist() == [1, -1, 0, -1]
    noisy_set, clean_set = load(tmp_path, clean, {"label": BULK["label"]})
    assert clean_set.given_labels.tolist() == [1, -1, 0, -1]
    assert (noisy_set.votes, clean_set.votes, clean_set.annotators) == (None, None, ())


def test_votes_for_what_no_label_names_are_counted_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noisy = {**BULK, "votes": [*BULK["votes"][2:], said("ann=fox"), said("ann=cat", "bob=fox")]}
    assert votes(load(tmp_path, {"label": ["cat", "dog"]}, noisy)[0])[-2:] == [[-1, -1], [0, -1]]
    assert caplog.messages == [f"{tmp_path / 'noisy'}: 2 votes are for no class that a label names: they do not count"]


def test_a_file_is_scored_by_the_annotators_that_the_model_knows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "noisy", {"label": ["cat", "dog"], "votes": [said("ann=cat", "new=dog"), said("bob=dog")]})
    known = ("ann", "bob", "cyd", "others/1", "others")
    found = load_to_score(path, size=4, classes=("dog", "cat"), annotators=known)
    assert found.annotators == ("ann", "bob", "cyd", "others/1")
    assert votes(found) == [[1, -1, -1, 0], [-1, 0, -1, -1]]
    assert found.labels.tolist() == [1, 0]
    assert caplog.messages == []
    assert load_to_score(path, size=4, classes=("dog", "cat"), annotators=()).votes is None
    assert caplog.messages == [f"{path}: column votes is not used: the model was trained on one label a sample"]


def test_a_model_of_two_files_tells_annotators_apart(tmp_path: Path) -> None:
    """Ann is right and bob is wrong, and the label is bob's."""
    truth = ["cat", "dog"] * MANY
    other = {"cat": "dog", "dog": "cat"}
    cast = [said(f"ann={label}", f"bob={other[label]}") for label in truth]
    columns: dict[str, Any] = {"label": [other[label] for label in truth], "votes": cast}
    audited = {"label": truth, "given_label": columns["label"], "votes": cast}
    fitted = fit_files(
        clean=write(tmp_path / "clean", audited),
        noisy=write(tmp_path / "noisy", columns),
        out=tmp_path / "model",
        config=TrainConfig(epochs=1, image_size=8, device="cpu"),
    )
    model = fitted.model
    assert model.annotators == ("ann", "bob", "others")
    assert model.annotator_transitions is not None
    ann, bob, _ = (matrix.diagonal().mean() for matrix in model.annotator_transitions)
    assert ann > 0.6 > 0.4 > bob


def test_a_number_is_scored_as_the_class_that_the_file_lists_there_whatever_the_models_order(tmp_path: Path) -> None:
    """As training reads it."""
    path = write(tmp_path / "noisy", {"label": [0, 1, 2, 1]}, metadata={"classes": "dog,cat,eel"})
    found = load_to_score(path, size=4, classes=("cat", "dog"), annotators=())
    assert [("cat", "dog")[label] for label in found.labels] == ["dog", "cat", "cat"]
    _, _, classes = load_files(write(tmp_path / "clean", {"label": ["cat", "dog"]}), path, size=4)
    assert classes == ("cat", "dog", "eel")
    unlisted = write(tmp_path / "unlisted", {"label": [0, 1]})
    assert load_to_score(unlisted, size=4, classes=("cat", "dog"), annotators=()).labels.tolist() == [0, 1]


def test_an_empty_text_is_no_label(tmp_path: Path) -> None:
    clean = {"label": ["cat", "dog", ""], "given_label": ["", "cat", "cat"]}
    paths = write(tmp_path / "clean", clean), write(tmp_path / "noisy", {"label": ["dog", "", "cat"]})
    noisy_set, clean_set, classes = load_files(*paths, size=4)
    assert classes == ("cat", "dog")
    assert (clean_set.labels.tolist(), clean_set.given_labels.tolist()) == ([0, 1], [-1, 0])
    assert noisy_set.labels.tolist() == [1, 0]
    check_files(*paths, size=4)


def test_nobody_is_told_apart_where_no_noisy_sample_has_a_vote(tmp_path: Path) -> None:
    clean = {"label": ["cat", "dog"], "votes": [said("ann=dog", "bob=dog"), None]}
    noisy_set, clean_set = load(tmp_path, clean, {"label": BULK["label"], "votes": [None, []] * MANY})
    assert (noisy_set.annotators, noisy_set.votes, clean_set.votes) == ((), None, None)
    assert clean_set.given_labels.tolist() == [1, -1]


def test_paths_may_be_texts(tmp_path: Path) -> None:
    columns = {"label": ["cat", "dog"] * 6}
    clean, noisy = (str(write(tmp_path / name, columns)) for name in ("clean", "noisy"))
    out = str(tmp_path / "model")
    fit_files(
        clean=clean,
        noisy=noisy,
        out=out,
        cache=str(tmp_path / "cache"),
        checkpoint=CheckpointConfig(folder=str(tmp_path / "checkpoint")),
        config=TrainConfig(epochs=1, image_size=8, device="cpu"),
    )
    model = load_model(out)
    assert len(load_to_score(noisy, size=8, classes=model.classes, annotators=model.annotators)) == 12
