"""Which audited samples are kept from training: a share, or each of them once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasten_model.errors import DataError
from fasten_model.holding_out import MOST_FOLDS, NOWHERE, folds_of, holdout_mask, is_held_out
from fasten_model.labelled import LabelledImages
from pipeline.settings import Settings

ROWS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40)


def audited(rows: list[tuple[int, bool]]) -> LabelledImages:
    """One pixel each, of a class, drawn at random or not."""
    return LabelledImages.from_tensors(
        torch.zeros(len(rows), 3, 1, 1, dtype=torch.uint8),
        torch.tensor([label for label, _ in rows]),
        estimates=torch.tensor([at_random for _, at_random in rows]),
    )


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.floats(0.01, 0.98))
def test_a_sample_held_out_once_is_held_out_at_every_larger_share(names: list[str], share: float) -> None:
    for name in names:
        assert is_held_out(name, share) == is_held_out(name, share)
        assert not is_held_out(name, share) or is_held_out(name, min(1.0, share + 0.01))


def test_about_the_given_share_is_held_out() -> None:
    assert sum(is_held_out(f"sample-{i}", 0.25) for i in range(4000)) == pytest.approx(1000, abs=100)


@given(ROWS, st.floats(0.05, 0.95))
@settings(deadline=None)
def test_every_class_keeps_an_audited_sample_to_train_on_and_reviews_are_never_held_out(
    rows: list[tuple[int, bool]], share: float
) -> None:
    clean = audited(rows)
    held = holdout_mask(clean, share, 4)
    assert not (held & ~clean.estimates).any()
    assert set(clean.labels[~held & clean.estimates].tolist()) == set(clean.labels[clean.estimates].tolist())
    assert (folds_of(clean, 4, holdout=share) == torch.where(held, 0, NOWHERE)).all()


@given(ROWS, st.floats(0.05, 0.95))
@settings(deadline=None)
def test_of_each_class_only_the_last_that_a_share_comes_to_is_kept_from_it(
    rows: list[tuple[int, bool]], share: float
) -> None:
    clean = audited(rows)
    drawn = torch.tensor([is_held_out(name, share) for name in clean.sample_ids]) & clean.estimates
    held = holdout_mask(clean, share, 4)
    for label in range(4):
        of_class = clean.estimates & (clean.labels == label)
        whole = bool(of_class.any()) and bool(drawn[of_class].all())
        assert int((drawn & ~held)[of_class].sum()) == whole, "one, where all would be held out; else none"
    assert not (held & holdout_mask(clean, 0.999, 4).logical_not()).any(), "the same one at every share"


def test_nearly_all_is_held_out_where_that_is_asked_for() -> None:
    clean = audited([(at % 10, True) for at in range(120)])
    held = [int(holdout_mask(clean, share, 10).sum()) for share in (0.5, 0.9, 0.95, 0.99, 0.9999)]
    assert held == sorted(held)
    assert held[-1] == 110, "all but one of each class"


def test_ids_of_broken_bytes_have_a_place_too() -> None:
    assert not is_held_out("a\udcff", 0.0)
    assert is_held_out("a\udcff", 1.0)


@given(ROWS, st.integers(2, 5), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_with_folds_each_random_audit_is_held_out_once_and_every_model_knows_every_class(
    rows: list[tuple[int, bool]], folds: int, chance: st.DataObject
) -> None:
    clean = audited(rows)
    fold = folds_of(clean, 4, folds=folds)
    assert (fold[~clean.estimates] == NOWHERE).all()
    for label in range(4):
        of_class = clean.estimates & (clean.labels == label)
        alone = int(of_class.sum()) == 1
        assert (fold[of_class] == NOWHERE).all() if alone else (fold[of_class] >= 0).all()
        for number in range(folds):
            assert not of_class.any() or (of_class & (fold != number)).any()
    sizes = torch.bincount(fold[fold >= 0], minlength=folds)
    assert len(sizes) == folds
    assert int(sizes.max() - sizes.min()) <= 1
    order = list(range(len(rows)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    shuffled = LabelledImages(
        sample_ids=tuple(clean.sample_ids[at] for at in order),
        images=clean.images,
        labels=clean.labels[order],
        given_labels=clean.given_labels,
        estimates=clean.estimates[order],
    )
    assert (folds_of(shuffled, 4, folds=folds) == fold[order]).all(), "the order of the samples has no say"


def test_a_share_and_folds_exclude_each_other() -> None:
    clean = audited([(0, True)] * 4)
    with pytest.raises(DataError, match="with 3 folds every audited sample is held out once: leave holdout out"):
        folds_of(clean, 1, holdout=0.25, folds=3)
    for folds in (0, MOST_FOLDS + 1, 2.5, "3"):
        with pytest.raises(DataError, match=f"folds must be from 1 to {MOST_FOLDS}, got {folds!r}"):
            folds_of(clean, 1, folds=folds)  # type: ignore[arg-type]
    for share in (1, -0.1, float("nan"), "0.25"):
        with pytest.raises(DataError, match=f"holdout must be from 0 to below 1, got {share!r}"):
            folds_of(clean, 1, holdout=share)  # type: ignore[arg-type]


def test_the_settings_know_the_same_bound() -> None:
    bounds = [getattr(each, "le", None) for each in Settings.model_fields["folds"].metadata]
    assert MOST_FOLDS in bounds
