"""Decisions by the posterior: what is changed, what is kept, and that the label is the original one otherwise."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.model import Model
from fasten_model.network import build_network
from fasten_model.posterior import posterior
from fasten_model.relabel import NEVER
from fasten_model.scoring import DECISIONS, KEEP, LOW_CONFIDENCE, RELABEL, decide, score


@st.composite
def judged(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """(p, q, given labels) of a few samples of three classes."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    p, q = (torch.softmax(2 * torch.randn(8, 3, generator=generator).double(), dim=1) for _ in range(2))
    return p, q, torch.randint(3, (8,), generator=generator)


@given(judged(), st.floats(0, 1.2), st.floats(0.5, 1))
def test_each_decision_is_that_of_the_rule(case: tuple[Tensor, Tensor, Tensor], rho: float, target: float) -> None:
    p, q, given_labels = case
    found = decide(p, q, given_labels, rho=rho, target_precision=target)
    for i in range(8):
        label, best = int(given_labels[i]), int(q[i].argmax())
        if best != label and q[i, best] >= rho:
            expected, suggested = "relabel", best
        else:
            expected, suggested = ("keep" if q[i, label] >= target else "low_confidence"), label
        assert DECISIONS[found.decisions[i]] == expected
        assert found.suggested[i] == suggested
        assert found.guess[i] == best
        assert found.guess_probability[i] == q[i, best]
        assert found.confidence[i] == p[i].max()
        assert found.given_label_probability[i] == p[i, label]
        assert float(found.error_probability[i]) == pytest.approx(1 - float(q[i, label]))
        for applied, label_out in ((True, suggested), (False, label)):
            assert found.handed_out(applied)[i] == label_out
            assert float(found.priority(applied)[i]) == pytest.approx(1 - float(q[i, label_out]))


def test_each_class_that_is_suggested_has_its_own_rho() -> None:
    q = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.1, 0.9]])
    found = decide(q, q, torch.tensor([2, 2, 1]), rho=torch.tensor([0.95, 0.9, NEVER]), target_precision=0.95)
    assert found.decisions.tolist() == [LOW_CONFIDENCE, RELABEL, LOW_CONFIDENCE]


def test_rho_and_target_themselves_suffice() -> None:
    q = torch.tensor([[0.25, 0.75]])
    assert decide(q, q, torch.tensor([0]), rho=0.75, target_precision=0.9).decisions.tolist() == [RELABEL]
    assert decide(q, q, torch.tensor([1]), rho=0.75, target_precision=0.75).decisions.tolist() == [KEEP]


@given(judged())
def test_without_a_rho_nothing_is_relabeled_and_what_is_sure_is_still_kept(case: tuple[Tensor, Tensor, Tensor]) -> None:
    p, q, given_labels = case
    found = decide(p, q, given_labels, rho=NEVER, target_precision=0.6)
    assert torch.equal(found.suggested, given_labels)
    assert torch.equal(found.decisions == KEEP, q.gather(1, given_labels[:, None]).squeeze(1) >= 0.6)


def test_a_confident_model_whose_annotators_are_right_does_not_overrule_them() -> None:
    """max p of 0.9 was enough for the paper's rule."""
    p = torch.tensor([[0.1, 0.9]])
    reliable = torch.tensor([[0.99, 0.01], [0.01, 0.99]])
    q = posterior(p, reliable, torch.tensor([0]))
    assert decide(p, q, torch.tensor([0]), rho=0.8, target_precision=0.95).suggested.tolist() == [0]


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(
        network=build_network("small", 3).eval(),
        classes=("a", "b", "c"),
        preset="small",
        image_size=16,
        temperature=2.0,
        transition=0.7 * torch.eye(3) + 0.1,
        evidence=0.6,
        rho=0.5,
    )


def test_images_are_judged_with_the_models_own_temperature_transition_and_rho(model: Model) -> None:
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    given_labels = torch.tensor([0, 1, 2, 0, 1, 2])
    found = score(model, images, given_labels)
    p = torch.softmax(model.predict_logits(images) / 2, dim=1).double()
    torch.testing.assert_close(found.probabilities, p)
    torch.testing.assert_close(found.posterior, posterior(p, model.transition.double(), given_labels, 0.6))
    assert found.rho.tolist() == [0.5] * 3
    own = score(replace(model, rho_per_class=(0.5, NEVER, 0.3)), images, given_labels)
    assert own.rho.tolist() == [0.5, NEVER, 0.3]
    assert 1 not in own.guess[own.decisions == RELABEL]
    assert score(model, images, given_labels, rho=NEVER).suggested.tolist() == given_labels.tolist()
    surest = score(model, images, given_labels, rho=NEVER, target_precision=0.0)
    assert set(surest.decisions.tolist()) == {KEEP}
    assert LOW_CONFIDENCE in score(model, images, given_labels, rho=NEVER, target_precision=1.0).decisions.tolist()


@pytest.mark.parametrize(
    ("labels", "rho", "says"),
    [
        ([0, 1], None, "2 labels for 3 images"),
        ([0, 1, 3], None, "outside the model's 3 classes"),
        ([0, 1, -1], None, "outside the model's 3 classes"),
        ([0, 1, 2], -0.1, "rho must be 0 or above"),
        ([0, 1, 2], float("nan"), "rho must be 0 or above"),
    ],
)
def test_what_cannot_be_scored_is_one_line(model: Model, labels: list[int], rho: float | None, says: str) -> None:
    with pytest.raises(DataError, match=says):
        score(model, torch.zeros(3, 3, 16, 16, dtype=torch.uint8), torch.tensor(labels), rho=rho)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"given_labels": [0, 1, 2]}, "^given_labels must be a tensor, got list: "),
        (
            {"given_labels": np.zeros(3, np.int64)},
            r"^given_labels must be a tensor, got ndarray int64 \[3\]: torch\.from_num",
        ),
        ({"images": np.zeros((3, 3, 16, 16), np.uint8)}, "^images must be a tensor, got ndarray uint8"),
        ({"rho": "0.5"}, "^rho must be 0 or above, got '0.5'$"),
        ({"rho": [0.5] * 3}, r"^rho must be 0 or above, got \[0.5, 0.5, 0.5\]$"),
        ({"target_precision": None}, "^target_precision must be from 0 to 1, got None$"),
        ({"annotators": ["ann"]}, r"^votes must be int64 \[3, 1\], what each annotator said; got none$"),
        ({"annotators": ["ann"], "votes": [[0]] * 3}, "^votes must be a tensor, got list: "),
        ({"sample_ids": ["a"]}, "^sample_ids must be 3 texts, got 1$"),
    ],
)
def test_arguments_that_are_something_else_are_one_line(model: Model, changes: dict[str, Any], says: str) -> None:
    sound: dict[str, Any] = {
        "images": torch.zeros(3, 3, 16, 16, dtype=torch.uint8),
        "given_labels": torch.tensor([0, 1, 2]),
    }
    with pytest.raises(DataError, match=says):
        score(model, **(sound | changes))


def test_labels_of_images_that_the_network_says_nothing_of_are_not_judged(model: Model) -> None:
    class Lost(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            bright = images.mean(dim=(1, 2, 3))[:, None]
            return torch.where(bright > 0, math.nan, bright).expand(-1, 4)

    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    images[1:] = 255
    lost = replace(model, network=build_network(Lost(), 3, image_size=16))
    with pytest.raises(DataError, match=r"^of 2 of 3 images the network says nothing finite \(the first: number 1\)"):
        score(lost, images, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("target", [-0.1, 1.1, float("nan")])
def test_a_target_that_is_no_share_is_refused(model: Model, target: float) -> None:
    with pytest.raises(DataError, match="target_precision must be from 0 to 1, got"):
        score(model, torch.zeros(3, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 1, 2]), target_precision=target)
