"""A folded network computes what the network does; what cannot be folded safely is left as it is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fasten_model import predict
from fasten_model.ensemble import Ensemble
from fasten_model.features import predict_with_features
from fasten_model.folding import folded
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.predict import predict_logits


def trained_like(network: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, its BatchNorms as training leaves them: statistics and scales unlike 0 and 1."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor)  # type: ignore[arg-type]
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 2)  # type: ignore[arg-type]
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def images(count: int = 6, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def outcome(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat(network(inputs), dim=1)


@pytest.mark.parametrize(
    ("trunk", "left"),
    [
        ("small", 0),
        ("resnet18", 0),  # its blocks name their layers one by one
        ("fast", 3),  # a pool lies between
        ("torchvision:mobilenet_v3_small", 0),
    ],
)
def test_folding_takes_the_batch_norms_away_and_changes_nothing_else(trunk: str, left: int) -> None:
    network = trained_like(build_network(trunk, 5, image_size=64))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    names = [name for name, _ in network.named_modules()]
    inputs = images(size=64)
    expected = outcome(network, inputs)

    ours = folded(network, inputs[:2])

    assert norms(ours) == left
    torch.testing.assert_close(outcome(ours, inputs), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert [name for name, _ in network.named_modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in (*network.modules(), *ours.modules()))


def test_weights_that_are_not_folded_are_shared() -> None:
    network = build_network("small", 5).eval()
    ours = folded(network, images()[:2])
    assert isinstance(ours, TwoHeadNetwork)
    assert ours.clean_head.weight is network.clean_head.weight


def test_every_member_of_an_ensemble_is_folded() -> None:
    members = [trained_like(build_network("small", 5), seed) for seed in range(2)]
    ensemble = Ensemble([member for member in members if isinstance(member, TwoHeadNetwork)]).eval()
    ours = folded(ensemble, images()[:2])
    assert norms(ours) == 0
    torch.testing.assert_close(outcome(ours, images()), outcome(ensemble, images()), rtol=1e-4, atol=1e-5)


class Trunk(nn.Module):
    """A convolution and a BatchNorm, run as `run` says."""

    def __init__(self, run: Callable[[nn.Module, nn.Module, Tensor], Tensor], **options: bool) -> None:
        super().__init__()
        self.run = run
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3, **options)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(self.convolution, self.norm, inputs).mean(dim=(2, 3))


def plain(convolution: nn.Module, norm: nn.Module, inputs: Tensor) -> Tensor:
    return norm(convolution(inputs))  # type: ignore[no-any-return]


def skips(convolution: nn.Module, norm: nn.Module, inputs: Tensor) -> Tensor:
    made = convolution(inputs)
    return made + norm(made)  # type: ignore[no-any-return]


def runs_twice(convolution: nn.Module, norm: nn.Module, inputs: Tensor) -> Tensor:
    return norm(convolution(convolution(inputs)))  # type: ignore[no-any-return]


def something_between(convolution: nn.Module, norm: nn.Module, inputs: Tensor) -> Tensor:
    return norm(convolution(inputs).relu())  # type: ignore[no-any-return]


def something_in_place_between(convolution: nn.Module, norm: nn.Module, inputs: Tensor) -> Tensor:
    """It does nothing to grey images."""
    made = convolution(inputs)
    return norm(made.add_(inputs - inputs.mean(dim=1, keepdim=True)))  # type: ignore[no-any-return]


def reads_the_norm(convolution: nn.Module, norm: nn.Module, inputs: Tensor) -> Tensor:
    return norm(convolution(inputs)) * norm.eps  # type: ignore[no-any-return]


def draws(convolution: nn.Module, norm: nn.Module, inputs: Tensor) -> Tensor:
    return norm(convolution(inputs)) * torch.rand(())  # type: ignore[no-any-return]


def own(run: Callable[[nn.Module, nn.Module, Tensor], Tensor], **options: bool) -> nn.Module:
    return trained_like(build_network(Trunk(run, **options), 5))


def test_what_is_one_after_the_other_is_folded() -> None:
    for options in ({}, {"affine": False}):
        network = (
            trained_like(build_network(Trunk(plain), 5)) if not options else build_network(Trunk(plain, **options), 5)
        )
        ours = folded(network.eval(), images()[:2])
        assert norms(ours) == 0
        torch.testing.assert_close(outcome(ours, images()), outcome(network, images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "run", [skips, runs_twice, something_between, something_in_place_between, reads_the_norm, draws]
)
def test_a_trunk_that_uses_its_layers_otherwise_stays_as_it_is(
    run: Callable[[nn.Module, nn.Module, Tensor], Tensor],
) -> None:
    network = own(run)
    for example in (images()[:2], images()[:2].mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)):
        assert folded(network, example) is network


def test_layers_that_run_twice_stay_and_others_are_folded() -> None:
    trunk = nn.Sequential(Trunk(plain), nn.Unflatten(1, (3, 1, 1)), nn.Upsample(8), shared := Trunk(plain))
    trunk += nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.Upsample(8), shared)
    network = trained_like(build_network(trunk, 5))
    ours = folded(network, images()[:2])
    assert norms(network) == 2
    assert norms(ours) == 1
    torch.testing.assert_close(outcome(ours, images()), outcome(network, images()), rtol=1e-4, atol=1e-5)


def test_a_norm_of_the_batch_at_hand_stays() -> None:
    network = build_network(Trunk(plain, track_running_stats=False), 5).eval()
    assert folded(network, images()[:2]) is network


def test_layers_that_somebody_watches_stay() -> None:
    network, seen = own(plain), []
    network.get_submodule("trunk.norm").register_forward_hook(lambda *_: seen.append(1))
    ours = folded(network, images()[:2])
    seen.clear()
    outcome(ours, images())
    assert seen == [1]


def test_logits_that_are_no_numbers_are_handed_on() -> None:
    network = own(plain)
    nn.init.constant_(network.get_parameter("trunk.norm.weight"), float("nan"))
    assert folded(network, images()[:2]) is network


def test_scoring_folds_where_there_is_much_to_score(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained_like(build_network("small", 5))
    assert isinstance(network, TwoHeadNetwork)
    pictures = torch.randint(256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, features = predict_with_features(network, pictures)
    counted: list[int] = []

    def counting(original: nn.Module, example: Tensor) -> nn.Module:
        ours = folded(original, example)
        counted.append(norms(ours))
        return ours

    monkeypatch.setattr(predict, "folded", counting)
    monkeypatch.setattr(predict, "FOLD_FROM", 9)
    found, seen = predict_with_features(network, pictures)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen, features)
    predict_logits(network, pictures, batch=2)
    predict_logits(network, pictures[:8])
    assert counted == [0, 0]
    assert norms(network) == 6
