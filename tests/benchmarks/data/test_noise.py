"""What noise does to labels."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.data import Source, apply_noise, parse_noise
from benchmarks.data.noise import counted_transition, truncated_normal
from fasten_model.errors import DataError

ALL = torch.arange(6000)
SYNTHETIC = ["sym:0.4", "asym:0.4", "instance:0.4", "annotators:3"]


def given(text: str, source: Source, index: Tensor = ALL, seed: int = 1) -> Tensor:
    return apply_noise(parse_noise(text), source, index, seed).labels


def wrong(text: str, source: Source, seed: int = 1) -> float:
    return float((given(text, source, seed=seed) != source.train_labels).double().mean())


@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_symmetric_noise_may_draw_the_true_class(source: Source, rate: float) -> None:
    assert wrong(f"sym:{rate}", source) == pytest.approx(rate * 0.9, abs=0.02)


def test_symmetric_noise_leaves_no_label_alone_at_rate_one(source: Source) -> None:
    counted = counted_transition(source.train_labels, given("sym:1", source), 10)
    torch.testing.assert_close(counted, torch.full((10, 10), 0.1), atol=0.05, rtol=0)


def test_asymmetric_noise_goes_only_where_the_map_points(source: Source) -> None:
    labels = given("asym:0.4", source)
    targets = torch.tensor(source.mistaken_for)[source.train_labels]
    assert ((labels == source.train_labels) | (labels == targets)).all()
    for true, said in ((0, 1), (2, 3), (3, 2)):
        mine = labels[source.train_labels == true]
        assert float((mine == said).double().mean()) == pytest.approx(0.4, abs=0.07)
    assert (labels[source.train_labels == 1] == 1).all()


def test_transition_is_true_by_given(source: Source) -> None:
    noisy = apply_noise(parse_noise("asym:0.4"), source, ALL, 1)
    assert noisy.expected is not None
    counted = counted_transition(source.train_labels, noisy.labels, 10)
    assert counted[0, 1] > 0.3
    assert counted[1, 0] == 0
    torch.testing.assert_close(counted, noisy.expected, atol=0.06, rtol=0)


@pytest.mark.parametrize("text", ["sym:0.4", "asym:0.4"])
def test_expected_rows_sum_to_one(source: Source, text: str) -> None:
    expected = apply_noise(parse_noise(text), source, ALL, 1).expected
    assert expected is not None
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(10))


def test_counted_transition_skips_unknown_labels_and_fills_classes_without_a_pair() -> None:
    truth, said = torch.tensor([0, 0, -1, 1]), torch.tensor([0, 1, 0, -1])
    counted = counted_transition(truth, said, 3, torch.full((3, 3), 1 / 3))
    torch.testing.assert_close(counted, torch.tensor([[0.5, 0.5, 0], [1 / 3] * 3, [1 / 3] * 3]))
    torch.testing.assert_close(counted_transition(truth, said, 3)[2], torch.tensor([0.0, 0, 1]))


def test_instance_noise_errs_at_its_rate(source: Source) -> None:
    assert wrong("instance:0.4", source) == pytest.approx(0.4, abs=0.02)
    assert wrong("instance:0.2", source) == pytest.approx(0.2, abs=0.02)


def test_the_wrong_labels_of_instance_noise_follow_the_image(source: Source) -> None:
    """Every sample of class 0 gets one of two images."""
    zeros = (source.train_labels == 0).nonzero().flatten()
    images = source.train_images.clone()
    images[zeros] = images[zeros[torch.arange(len(zeros)) % 2]]
    labels = given("instance:0.5", replace(source, train_images=images))[zeros]
    shares = []
    for part in (labels[0::4], labels[2::4], labels[1::4], labels[3::4]):  # one image, one image, the other, the other
        counts = torch.bincount(part[part != 0], minlength=10).double()
        shares.append(counts / counts.sum())
    distances = [float((shares[i] - shares[j]).abs().sum()) / 2 for i, j in ((0, 1), (2, 3), (0, 2))]
    assert max(distances[:2]) < 0.2
    assert distances[2] > 0.4


def test_instance_noise_differs_within_a_class(source: Source) -> None:
    labels = given("instance:0.5", source)[source.train_labels == 0]
    assert len(set(labels[labels != 0].tolist())) > 4


def test_truncated_normal_stays_between_0_and_1() -> None:
    quantiles = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for mean in (0.0, 0.2, 0.5, 1.0):
        rates = truncated_normal(quantiles, mean, 0.1)
        assert ((rates >= 0) & (rates <= 1)).all()
        assert (rates.diff() >= 0).all()
    assert float(truncated_normal(quantiles, 0.5, 0.1).mean()) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("text", SYNTHETIC)
def test_the_seed_decides_everything(source: Source, text: str) -> None:
    assert torch.equal(given(text, source, seed=3), given(text, source, seed=3))
    assert not torch.equal(given(text, source, seed=3), given(text, source, seed=4))


@pytest.mark.parametrize("text", SYNTHETIC)
def test_a_label_does_not_depend_on_what_else_is_drawn(source: Source, text: str) -> None:
    some = torch.tensor([5, 17, 2000, 9, 41, 5999])
    assert torch.equal(given(text, source, some), given(text, source)[some])


@pytest.mark.parametrize("kind", ["sym", "asym", "instance"])
def test_more_noise_keeps_the_labels_that_were_wrong_before(source: Source, kind: str) -> None:
    little, much = given(f"{kind}:0.2", source), given(f"{kind}:0.6", source)
    changed = little != source.train_labels
    assert torch.equal(little[changed], much[changed])


def test_human_labels_are_those_of_the_column(source: Source) -> None:
    assert torch.equal(given("human:worst", source), source.human["worst"])


def test_all_raters_vote_and_the_first_speaks_where_all_differ(source: Source) -> None:
    noisy = apply_noise(parse_noise("human:raters"), source, ALL, 1)
    assert noisy.votes is not None
    assert noisy.votes.shape == (6000, 3)
    # Raters 2 and 3 agree where `worst` is wrong; where it is right raters 1 and 2 do.
    assert torch.equal(noisy.labels, source.human["worst"])


def test_own_labels_are_the_datas(source: Source) -> None:
    given_labels = source.train_labels.roll(1)
    assert torch.equal(given("own", replace(source, given=given_labels)), given_labels)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("own", "toy has no wrong labels of its own"),
        ("human:rater_9", "toy has no labels 'rater_9'; there are rater_1, rater_2, rater_3, worst and raters"),
    ],
)
def test_noise_that_the_data_cannot_have_is_refused(source: Source, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        given(text, source)


def test_human_noise_needs_labels_by_people(source: Source) -> None:
    with pytest.raises(DataError, match="toy has no labels by people; human:worst needs cifar10n"):
        given("human:worst", replace(source, human={}))


def test_simulated_noise_needs_the_truth(source: Source) -> None:
    unknown = source.train_labels.clone()
    unknown[3] = -1
    with pytest.raises(DataError, match=r"sym:0\.4 needs the true label of every sample"):
        given("sym:0.4", replace(source, train_labels=unknown))
