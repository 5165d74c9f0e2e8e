"""Training: who is held out, what cannot be trained on, and what a fitted model knows."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasten_model import label_noise
from fasten_model.fitting import check_trainable, fit, holdout_mask, is_held_out, summary
from fasten_model.labelled import LabelledImages
from fasten_model.posterior import soft_count_transition
from fasten_model.relabel import NEVER
from fasten_model.scoring import RELABEL, score
from fasten_model.train import TrainConfig
from pipeline.errors import DataError

CLASSES = ("dark", "bright")


def images(
    labels: list[int], *, name: str = "s", given_labels: list[int] | None = None, estimates: list[bool] | None = None
) -> LabelledImages:
    """Dark and bright squares: class 0 is dark, class 1 is bright."""
    count = len(labels)
    generator = torch.Generator().manual_seed(count)
    noise = torch.randint(0, 60, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return LabelledImages(
        sample_ids=tuple(f"{name}-{i}" for i in range(count)),
        images=noise + 190 * torch.tensor(labels, dtype=torch.uint8).reshape(-1, 1, 1, 1),
        labels=torch.tensor(labels),
        given_labels=torch.tensor(labels if given_labels is None else given_labels),
        estimates=torch.tensor([True] * count if estimates is None else estimates),
    )


def flipped(data: LabelledImages, *, every: int) -> LabelledImages:
    """The same images, every so many-th label wrong."""
    labels = data.labels.clone()
    labels[::every] = 1 - labels[::every]
    return LabelledImages(
        sample_ids=data.sample_ids,
        images=data.images,
        labels=labels,
        given_labels=data.given_labels,
        estimates=data.estimates,
    )


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.floats(0.01, 0.98))
def test_a_sample_held_out_once_is_held_out_at_every_larger_share(names: list[str], share: float) -> None:
    for name in names:
        assert is_held_out(name, share) == is_held_out(name, share)
        assert not is_held_out(name, share) or is_held_out(name, min(1.0, share + 0.01))


def test_about_the_given_share_is_held_out() -> None:
    assert sum(is_held_out(f"sample-{i}", 0.25) for i in range(4000)) == pytest.approx(1000, abs=100)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40),
    st.floats(0.05, 0.95),
)
@settings(deadline=None)
def test_every_class_keeps_an_audited_sample_to_train_on_and_reviews_are_never_held_out(
    rows: list[tuple[int, bool]], share: float
) -> None:
    clean = images([label for label, _ in rows], estimates=[audit for _, audit in rows])
    held = holdout_mask(clean, share, 4)
    assert not (held & ~clean.estimates).any()
    assert set(clean.labels[~held & clean.estimates].tolist()) == set(clean.labels[clean.estimates].tolist())


@pytest.mark.parametrize(
    ("noisy", "clean", "classes", "says"),
    [
        ([0, 1], [0, 1], ("only",), "only one class"),
        ([], [0, 1], CLASSES, "no bulk label"),
        ([0, 1], [], CLASSES, "clean set is empty"),
        ([0, 1], [0, 0], CLASSES, "no audited sample of class “bright”"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(
    noisy: list[int], clean: list[int], classes: tuple[str, ...], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        check_trainable(images(noisy), images(clean), classes)


def test_a_class_that_nobody_uses_does_not_stop_training() -> None:
    check_trainable(images([0, 1]), images([0, 1]), (*CLASSES, "never used"))


def test_a_fitted_model_undoes_the_noise_and_knows_its_rate() -> None:
    truth = [i % 2 for i in range(160)]
    noisy = flipped(images(truth), every=5)
    clean = images(
        truth[:40], name="audited", given_labels=[1 - t if i % 5 == 0 else t for i, t in enumerate(truth[:40])]
    )
    heard: list[int] = []
    fitted = fit(
        noisy,
        clean,
        CLASSES,
        TrainConfig(epochs=4, noisy_batch=32, clean_batch=16, device="cpu"),
        holdout=0.25,
        on_epoch=lambda metrics: heard.append(metrics.epoch),
    )
    assert heard == [1, 2, 3, 4]
    assert fitted.held_out == int(fitted.confusion.sum()) > 0
    assert fitted.accuracy == 1.0
    assert fitted.model.predict_probabilities(noisy.images).argmax(dim=1).tolist() == truth
    assert fitted.model.transition.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert fitted.model.transition.diagonal().tolist() == pytest.approx([0.8, 0.8], abs=0.08)


def audited(count: int, *, wrong_every: int, known: bool = True) -> LabelledImages:
    """Audited squares, every so many-th of which had been mislabelled; `known`: with what was said of them."""
    truth = [i // 2 % 2 for i in range(count)]
    said = [1 - t if i % wrong_every == 0 else t for i, t in enumerate(truth)]
    return images(truth, name="audited", given_labels=said if known else [-1] * count)


QUICK = TrainConfig(epochs=4, noisy_batch=32, clean_batch=16, device="cpu")


def test_rho_is_chosen_for_the_target_and_its_promise_holds_on_the_bulk() -> None:
    truth = [i % 2 for i in range(160)]
    noisy = flipped(images(truth), every=4)
    fitted = fit(noisy, audited(160, wrong_every=4), CLASSES, QUICK, holdout=0.5, target_precision=0.7)
    assert fitted.model.rho == fitted.choice.rho < 1
    assert fitted.choice.pairs_held_out == fitted.held_out
    assert fitted.choice.pairs == fitted.choice.pairs_right >= 7, "0.7^7 < 10 %"
    assert fitted.choice.promised_precision is not None
    assert fitted.choice.promised_precision >= 0.7
    found = score(fitted.model, noisy.images, noisy.labels)
    relabeled = found.decisions == RELABEL
    assert int(relabeled.sum()) == round(160 * fitted.choice.coverage) > 20
    assert (found.suggested[relabeled] == torch.tensor(truth)[relabeled]).all()
    assert fitted.model.metadata["relabels"] == fitted.choice.sentence()
    known = summary(fitted)["relabels"]
    assert (known["rho"], known["pairs"]) == (fitted.model.rho, fitted.choice.pairs)
    assert (known["certainty"], known["per_class"], known["pairs_needed"]) == (0.9, None, 0)
    json.dumps(summary(fitted))


@pytest.mark.parametrize(("known", "held_out"), [(False, 0), (True, None)])
def test_without_evidence_nothing_is_relabeled(known: bool, held_out: int | None) -> None:
    noisy = flipped(images([i % 2 for i in range(96)]), every=4)
    clean = audited(40, wrong_every=4, known=known)
    fitted = fit(noisy, clean, CLASSES, QUICK, holdout=0.25, target_precision=0.99)
    assert fitted.model.rho == NEVER
    assert fitted.choice.pairs_held_out == (fitted.held_out if held_out is None else held_out)
    assert "relabels nothing" in fitted.choice.sentence()
    assert fitted.choice.pairs_needed > 200, "0.99^229 = 10 %"


def test_a_certainty_that_takes_more_pairs_than_there_are_relabels_nothing() -> None:
    noisy = flipped(images([i % 2 for i in range(160)]), every=4)
    clean = audited(160, wrong_every=4)
    fitted = fit(noisy, clean, CLASSES, QUICK, holdout=0.5, target_precision=0.7, certainty=0.99999)
    assert fitted.model.rho == NEVER
    assert fitted.choice.certainty == 0.99999
    with pytest.raises(DataError, match="certainty must lie between 0 and 1, got 1"):
        fit(noisy, clean, CLASSES, QUICK, holdout=0.5, certainty=1)


def test_a_rho_set_by_hand_is_the_models_and_is_judged_all_the_same() -> None:
    noisy = flipped(images([i % 2 for i in range(96)]), every=4)
    fitted = fit(noisy, audited(40, wrong_every=4), CLASSES, QUICK, holdout=0.25, rho=0.7)
    assert fitted.model.rho == fitted.choice.rho == 0.7
    assert fitted.choice.target_precision is None
    assert fitted.choice.expected_precision is not None


@pytest.mark.parametrize("choice", [{"target_precision": 1.0}, {"target_precision": float("nan")}, {"rho": -0.1}])
def test_a_share_that_is_none_is_told_before_the_training(choice: dict[str, float]) -> None:
    with pytest.raises(DataError, match=next(iter(choice))):
        fit(images([0, 1]), images([0, 1]), CLASSES, QUICK, holdout=0.25, **choice)  # type: ignore[arg-type]


def test_held_out_pairs_do_not_vouch_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The T that their suggestions are made with has not counted them; the model's own T has."""
    counted: list[int] = []

    def spy(p: Tensor, given_labels: Tensor, num_classes: int, *, pairs: Tensor) -> Tensor:
        counted.append(len(pairs))
        return soft_count_transition(p, given_labels, num_classes, pairs=pairs)

    monkeypatch.setattr(label_noise, "soft_count_transition", spy)
    noisy = flipped(images([i % 2 for i in range(96)]), every=4)
    fitted = fit(noisy, audited(40, wrong_every=4), CLASSES, QUICK, holdout=0.25)
    assert sorted(counted) == [40 - fitted.held_out, 40]


def test_a_share_or_a_given_label_that_is_none_is_told_before_training() -> None:
    clean, config = images([0, 1] * 6), TrainConfig(epochs=1, device="cpu")
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(DataError, match="holdout must be from 0 to below 1"):
            fit(images([0, 1], name="n"), clean, CLASSES, config, holdout=share)
    for wrong in (2, -2):
        odd = images([0, 1] * 6, given_labels=[0, 1] * 5 + [0, wrong])
        with pytest.raises(DataError, match=f"given labels must be from −1 to 1, found {wrong}"):
            check_trainable(images([0, 1], name="n"), odd, CLASSES)
