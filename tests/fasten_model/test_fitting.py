"""Training: what cannot be trained on, and what a fitted model knows."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fasten_model import label_noise
from fasten_model.ensemble import Ensemble
from fasten_model.fitting import check_trainable, fit, summary
from fasten_model.holding_out import folds_of
from fasten_model.images.source import in_memory
from fasten_model.judging import changed_since
from fasten_model.labelled import LabelledImages
from fasten_model.posterior import soft_count_transition
from fasten_model.presets import PRESETS, find_preset
from fasten_model.relabel import NEVER
from fasten_model.scoring import RELABEL, score
from fasten_model.train import EpochMetrics, Method, TrainConfig, TrainingSet
from fasten_model.train.checkpoint import CheckpointConfig, CheckpointFolder, Progress, remove_checkpoint
from fasten_model.train.stopping import StopOn, Stopped
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


@pytest.mark.parametrize(
    ("noisy", "clean", "classes", "says"),
    [
        ([0, 1], [0, 1], ("only",), "only one class"),
        ([0, 1], [0, 1], ("dark", "dark"), "names of the classes must be different"),
        ([0, 1], [0, 1], ("dark", ""), "names of the classes must be different texts, not empty"),
        ([0, 1], [0, 1], (1, 2), "names of the classes must be different texts, not empty, got 1, 2"),
        ([0, 1], [0, 1], ("dark", "\ud800"), r"^the names of the classes: '\\ud800' is no text that UTF-8 can hold"),
        ([0, 1], [0, 1], "db", "^the names of the classes must be a list of texts in the order of .*, got 'db'$"),
        ([0, 1], [0, 1], {"bright": 1, "dark": 0}, "must be a list of texts in the order of their numbers, got {'bri"),
        ([0, 1], [0, 1], 2, "must be a list of texts in the order of their numbers, got 2$"),
        ([], [0, 1], CLASSES, "no bulk label"),
        ([0, 1], [], CLASSES, "clean set is empty"),
        ([0, 1], [0, 0], CLASSES, "no audited sample of class “bright”"),
        ([0, 2], [0, 1], CLASSES, "noisy labels must be from 0 to 1, found 2"),
        ([0, 1], [0, 1, -1], CLASSES, "clean labels must be from 0 to 1, found -1"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(noisy: list[int], clean: list[int], classes: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        check_trainable(images(noisy), images(clean), classes)


def test_nobody_is_called_as_all_who_are_not_known() -> None:
    noisy = replace(images([0, 1]), annotators=("me", "others"), votes=torch.tensor([[0, 1], [1, 1]]))
    with pytest.raises(DataError, match=r"an annotator is called “others”.*take another name"):
        check_trainable(noisy, images([0, 1]), CLASSES)


def test_an_annotator_whose_name_no_file_can_hold_is_told_before_the_training() -> None:
    noisy = replace(images([0, 1]), annotators=("me", "\udcff"), votes=torch.tensor([[0, 1], [1, 1]]))
    with pytest.raises(DataError, match=r"^the names of the annotators: '\\udcff' is no text that UTF-8 can hold"):
        check_trainable(noisy, images([0, 1]), CLASSES)


@pytest.mark.parametrize("choice", [{"rho": "0.8"}, {"target_precision": "0.9"}, {"certainty": None}], ids=str)
def test_a_number_that_is_none_is_one_line(choice: dict[str, Any]) -> None:
    ((name, value),) = choice.items()
    with pytest.raises(DataError, match=f"^{name} must .*, got {value!r}$"):
        fit(images([0, 1]), images([0, 1]), CLASSES, QUICK, **choice)


def test_a_network_that_is_lost_on_a_few_images_alone_judges_nothing() -> None:
    """No step shows them as they are: training does not see it, and whatever is compared with NaN is not above it."""

    class Lost(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            features = images.mean(dim=(2, 3))
            white = (images.amin(dim=(1, 2, 3)) > 1.95) & (not self.training)
            return torch.where(white[:, None], math.nan, features)

    noisy = images([0, 1] * 20)
    assert isinstance(noisy.images, Tensor)
    noisy.images[7] = 255
    with pytest.raises(
        DataError, match=r"^of 1 of 40 noisy images the network says nothing finite \(the first: number 7"
    ):
        fit(noisy, images([0, 1] * 10, name="audited"), CLASSES, QUICK, trunk=Lost())


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


def test_labels_that_reviews_have_changed_make_the_promise_harder() -> None:
    noisy = flipped(images([i % 2 for i in range(160)]), every=4)
    all_audits = audited(220, wrong_every=4)
    reviews = replace(all_audits, estimates=torch.arange(220) < 160)  # of the last 60 a quarter was changed
    before, after = (
        fit(noisy, clean, CLASSES, QUICK, holdout=0.5, target_precision=0.7).choice
        for clean in (all_audits.at(torch.arange(220) < 160), reviews)
    )
    assert (before.reviewed, after.reviewed) == (0, 15)
    assert before.promised_precision is not None
    assert after.promised_precision is not None
    assert 0.7 <= after.promised_precision < before.promised_precision


def test_a_review_counts_for_draws_of_its_own_round_and_of_earlier_ones() -> None:
    rows = [
        (True, 0, 0, 0), (True, 1, 0, 1), (True, 2, 0, 0), (True, 3, 0, 0),
        (False, 1, 0, 1), (False, 2, 1, 0), (False, 2, 0, 1), (False, 2, 1, 1), (False, 2, -1, 1),
    ]  # fmt: skip
    at_random = [drawn for drawn, *_ in rows]
    rounds, given, labels = ([row[at] for row in rows] for at in (1, 2, 3))
    clean = replace(images(labels, given_labels=given, estimates=at_random), asked_in=torch.tensor(rounds))
    assert changed_since(clean, 2)[:4].tolist() == [[1, 2], [1, 2], [1, 1], [0, 0]]
    assert changed_since(replace(clean, asked_in=None), 2)[:4].tolist() == [[1, 2]] * 4


def test_rho_is_chosen_for_the_target_and_its_promise_holds_on_the_bulk() -> None:
    truth = [i % 2 for i in range(160)]
    noisy = flipped(images(truth), every=4)
    fitted = fit(noisy, audited(160, wrong_every=4), CLASSES, QUICK, holdout=0.5, target_precision=0.7)
    assert fitted.model.rho == fitted.choice.rho < 1
    assert fitted.choice.pairs_held_out == fitted.held_out
    assert fitted.choice.pairs == fitted.choice.pairs_right >= 7, "0.7^7 < 10 %"
    assert fitted.choice.promised_precision is not None
    assert fitted.choice.promised_precision >= 0.7
    found = score(fitted.model, noisy.images, noisy.labels, sample_ids=noisy.sample_ids)
    relabeled = found.decisions == RELABEL
    # ρ is one of the confidences, which another number of threads computes another way in the last digit.
    assert int(relabeled.sum()) == pytest.approx(160 * fitted.choice.coverage, abs=1)
    assert int(relabeled.sum()) > 20
    assert (found.suggested[relabeled] == torch.tensor(truth)[relabeled]).all()
    assert fitted.model.metadata["relabels"] == fitted.choice.sentence()
    assert fitted.choice.reviewed == 0, "audits at random leave the bulk as it was"
    known = summary(fitted)["relabels"]
    assert (known["rho"], known["pairs"]) == (fitted.model.rho, fitted.choice.pairs)
    assert (known["certainty"], known["per_class"], known["pairs_needed"]) == (0.9, None, 0)
    json.dumps(summary(fitted))
    others = LabelledImages.from_tensors(255 - in_memory(noisy.images), noisy.labels, sample_ids=noisy.sample_ids)
    assert fitted.model.visited is not None
    for these, known_again in ((noisy, 160), (others, 0)):
        assert int(fitted.model.visited.find(these.sample_ids, these.labels, these.images)[0].sum()) == known_again


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


def test_of_several_models_every_audit_trains_some_and_tells_once_what_they_are_worth() -> None:
    truth = [i % 2 for i in range(160)]
    noisy, clean = flipped(images(truth), every=4), audited(80, wrong_every=4)
    heard: list[tuple[int, int]] = []
    fitted = fit(
        noisy, clean, CLASSES, QUICK, folds=3, target_precision=0.7,
        on_epoch=lambda metrics: heard.append((metrics.epoch, metrics.epochs)),
    )  # fmt: skip
    assert heard == [(epoch, 12) for epoch in range(1, 13)]
    assert [metrics.epoch for metrics in fitted.history] == list(range(1, 13))
    assert fitted.held_out == int(fitted.confusion.sum()) == fitted.choice.pairs_held_out == 80
    assert isinstance(fitted.model.network, Ensemble)
    weights = fitted.model.network.state_dict()
    assert not torch.equal(weights["members.0.clean_head.weight"], weights["members.1.clean_head.weight"])
    assert fitted.choice.pairs == fitted.choice.pairs_right >= 7, "0.7^7 < 10 %"
    assert fitted.model.predict_probabilities(noisy.images).argmax(dim=1).tolist() == truth
    assert fitted.training_transition.sum(dim=1).tolist() == pytest.approx([1, 1])


def test_trainings_of_unequal_length_have_no_epoch_number_in_common() -> None:
    """Of the first part nobody had labelled a sample: its model trains on fewer, in fewer steps and more epochs."""
    noisy, clean = flipped(images([i % 2 for i in range(32)]), every=4), audited(24, wrong_every=4)
    given = clean.given_labels.clone()
    given[folds_of(clean, 2, folds=2) == 0] = -1
    heard: list[tuple[int, int]] = []
    few_steps = replace(find_preset("small"), epochs=1, least_steps=4, noisy_batch=32, clean_batch=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", few_steps)
        fitted = fit(
            noisy, replace(clean, given_labels=given), CLASSES, TrainConfig(device="cpu"), folds=2,
            on_epoch=lambda metrics: heard.append((metrics.epoch, metrics.epochs)),
        )  # fmt: skip
    assert heard == [(epoch, 4 + 2) for epoch in range(1, 7)]
    assert [(metrics.epoch, metrics.epochs) for metrics in fitted.history] == heard


def test_a_single_noisy_sample_is_refused_unless_another_trains_along() -> None:
    noisy, clean = images([0], name="n"), audited(24, wrong_every=4)
    with pytest.raises(DataError, match="only one noisy sample to train on"):
        fit(noisy, clean, CLASSES, QUICK, holdout=0.0)
    along = fit(noisy, clean, CLASSES, replace(QUICK, epochs=1))
    assert along.model.visited is not None
    unlabelled = replace(clean, given_labels=torch.full((24,), -1))
    with pytest.raises(DataError, match="only one noisy sample to train on"):
        fit(noisy, unlabelled, CLASSES, QUICK, folds=2)


def test_no_model_is_told_its_worth_by_a_sample_that_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from fasten_model import fitting, judging

    noisy, clean = images([i % 2 for i in range(64)]), audited(40, wrong_every=4)
    fold = folds_of(clean, 2, folds=3)
    taught: list[Tensor] = []
    counted: list[int] = []

    def train(training_set: TrainingSet, *args: Any, **choices: Any) -> Any:
        taught.append(training_set.clean_labels)
        assert training_set.held_out_labels is not None
        assert len(training_set.clean_labels) + len(training_set.held_out_labels) == 40
        return original(training_set, *args, **choices)

    def estimate(p: Tensor, bulk: LabelledImages, sets: list[LabelledImages]) -> label_noise.LabelNoise:
        counted.append(len(sets[0]))
        found = label_noise.estimate_label_noise(p, bulk, sets)
        transitions.append(found.transition)
        return found

    original = vars(fitting)["train"]
    transitions: list[Tensor] = []
    monkeypatch.setattr(fitting, "train", train)
    monkeypatch.setattr(fitting, "fit_temperature", lambda *_: 1.0)
    monkeypatch.setattr(judging, "estimate_label_noise", estimate)
    # Of what is held out training is told a few numbers, a temperature, an accuracy, weights: here, none.
    untold = Method(calibrated=False, discounted=False, fresh_passes=None, noisy_loss_weight=0.0, visits=False)
    config = replace(QUICK, method=untold)
    fit(noisy, clean, CLASSES, config, folds=3)
    for number, labels in enumerate(taught):
        assert labels.tolist() == clean.labels[fold != number].tolist()
    assert sorted(counted) == [26, 27, 27, 40]
    every, *without = transitions
    # Another label of one held-out sample: whatever judges its fold is as it was, whatever knows it is not.
    of_fold = int((fold == 0).nonzero()[0])
    said = clean.given_labels.clone()
    said[of_fold] = 1 - said[of_fold]
    transitions.clear()
    labels = clean.labels.clone()
    labels[of_fold] = 1 - labels[of_fold]
    assert (folds_of(clean, 2, folds=3) == fold).all()
    monkeypatch.setattr(fitting, "folds_of", lambda *_, **__: fold)
    fit(noisy, replace(clean, labels=labels, given_labels=said), CLASSES, config, folds=3)
    assert torch.equal(transitions[1], without[0])
    for known, before in ((transitions[0], every), (transitions[2], without[1]), (transitions[3], without[2])):
        assert not torch.equal(known, before)


class _Interrupted(Exception):
    pass


def test_several_trainings_that_were_cut_off_go_on_in_the_one_that_was_running(tmp_path: Path) -> None:
    noisy, clean = flipped(images([i % 2 for i in range(64)]), every=4), audited(24, wrong_every=4)
    config = TrainConfig(epochs=2, noisy_batch=32, clean_batch=16, device="cpu")
    whole = fit(noisy, clean, CLASSES, config, folds=2)
    checkpoint = CheckpointConfig(folder=tmp_path / "checkpoint", every_seconds=0)
    heard: list[int] = []

    def cut_off(metrics: EpochMetrics) -> None:
        heard.append(metrics.epoch)
        if metrics.epoch == 3:
            raise _Interrupted

    with pytest.raises(_Interrupted):
        fit(noisy, clean, CLASSES, config, folds=2, on_epoch=cut_off, checkpoint=checkpoint)
    again = fit(noisy, clean, CLASSES, config, folds=2, on_epoch=lambda m: heard.append(m.epoch), checkpoint=checkpoint)
    assert heard == [1, 2, 3, 3, 4]
    expected, found = whole.model.network.state_dict(), again.model.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    remove_checkpoint(checkpoint.path)
    assert not checkpoint.path.exists()


def test_one_stop_does_for_several_trainings_and_leaves_in_good_order(tmp_path: Path) -> None:
    noisy, clean = images([i % 2 for i in range(64)]), audited(24, wrong_every=4)
    config = TrainConfig(epochs=2, noisy_batch=32, clean_batch=16, device="cpu")
    checkpoint = CheckpointConfig(folder=tmp_path / "checkpoint", every_seconds=0)
    stop = StopOn(signal.SIGUSR1)

    def ask(metrics: EpochMetrics) -> None:
        if metrics.epoch == 3:
            signal.raise_signal(signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Stopped):
        fit(noisy, clean, CLASSES, config, folds=2, on_epoch=ask, checkpoint=checkpoint, stop=stop)
    assert signal.getsignal(signal.SIGUSR1) is before
    fitted = fit(noisy, clean, CLASSES, config, folds=2, checkpoint=checkpoint, stop=stop)
    assert [metrics.epoch for metrics in fitted.history] == [1, 2, 3, 4]


def test_a_stop_that_comes_while_the_last_checkpoint_is_written_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy, clean = images([i % 2 for i in range(64)]), audited(24, wrong_every=4)
    config = TrainConfig(epochs=1, noisy_batch=32, clean_batch=16, device="cpu")
    checkpoint = CheckpointConfig(folder=tmp_path / "checkpoint", every_seconds=60)
    write = CheckpointFolder.write

    def interrupted(self: CheckpointFolder, progress: Progress) -> bool:
        signal.raise_signal(signal.SIGUSR1)
        return write(self, progress)

    monkeypatch.setattr(CheckpointFolder, "write", interrupted)
    with pytest.raises(Stopped):
        fit(noisy, clean, CLASSES, config, folds=2, checkpoint=checkpoint, stop=StopOn(signal.SIGUSR1))
    assert [path.name for path in checkpoint.path.iterdir()] == ["fold-1-of-2"]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_the_checkpoint_of_a_training_with_other_folds_is_refused_or_replaced_and_never_removed_in_passing(
    tmp_path: Path, before: int, after: int
) -> None:
    noisy, clean = images([i % 2 for i in range(64)]), audited(24, wrong_every=4)
    config = TrainConfig(epochs=1, noisy_batch=32, clean_batch=16, device="cpu")
    checkpoint = CheckpointConfig(folder=tmp_path / "checkpoint", every_seconds=0)
    fit(noisy, clean, CLASSES, config, folds=before, checkpoint=checkpoint)
    foreign = checkpoint.path / "fold-notes"
    foreign.mkdir()
    (foreign / "checkpoint.json").write_text("mine")
    there = sorted(checkpoint.path.rglob("*"))
    with pytest.raises(DataError, match=rf"checkpoint of another training .*here folds {after}"):
        fit(noisy, clean, CLASSES, config, folds=after, checkpoint=checkpoint)
    assert sorted(checkpoint.path.rglob("*")) == there
    fit(noisy, clean, CLASSES, config, folds=after, checkpoint=replace(checkpoint, refuse_other=False))
    remove_checkpoint(checkpoint.path)
    assert sorted(checkpoint.path.rglob("*")) == [foreign, foreign / "checkpoint.json"]
