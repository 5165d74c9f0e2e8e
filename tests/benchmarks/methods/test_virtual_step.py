"""The shared look-ahead: its meta-gradient against autograd through the step, finite differences and a linear model."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from benchmarks.methods.virtual_step import VirtualStep, meta_gradient, virtual_rate
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.presets import find_preset

K, B, C, RATE = 3, 6, 5, 0.3


def _network() -> TwoHeadNetwork:
    """Two convolutions with BatchNorm in float64: smooth, so that finite differences hold."""
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Softplus(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5),
        nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    return TwoHeadNetwork(trunk, 5, K).double().train()


def _data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(B, 3, 8, 8, dtype=torch.float64),
        torch.randint(K, (B,)),
        torch.randn(C, 3, 8, 8, dtype=torch.float64),
        torch.randint(K, (C,)),
    )


def _noisy_loss(logits: Tensor, labels: Tensor, phi: Tensor) -> Tensor:
    """Weights and a temperature: φ enters both linearly and not."""
    each = functional.cross_entropy(logits * phi[-1].exp(), labels, reduction="none")
    return (torch.sigmoid(phi[:-1]) * each).mean()


def _clean_loss_after(network: TwoHeadNetwork, phi: Tensor) -> Tensor:
    """L_c(θ'(φ)) written out, differentiable in φ."""
    noisy, noisy_labels, clean, clean_labels = _data()
    parameters: dict[str, Tensor] = {
        name: value for name, value in network.named_parameters() if "noisy_head" not in name
    }
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    logits, _ = functional_call(network, (parameters, buffers), (noisy,))
    gradient = torch.autograd.grad(
        _noisy_loss(logits, noisy_labels, phi), tuple(parameters.values()), create_graph=True
    )
    moved = {name: value - RATE * slope for (name, value), slope in zip(parameters.items(), gradient, strict=True)}
    logits, _ = functional_call(network, (moved, buffers), (clean,))
    return functional.cross_entropy(logits, clean_labels)


def _meta_gradient(network: TwoHeadNetwork, phi: Tensor) -> Tensor:
    noisy, noisy_labels, clean, clean_labels = _data()
    virtual = VirtualStep(network)
    _, logits = virtual.outputs(noisy)
    ahead = virtual.look_ahead(virtual.gradient(_noisy_loss(logits, noisy_labels, phi.detach())), RATE)
    _, v = virtual.clean_gradient(ahead, clean, clean_labels)
    derivative = virtual.logit_derivative(noisy, v)
    return meta_gradient(lambda z: _noisy_loss(z, noisy_labels, phi), logits, derivative, RATE, [phi])[0]


def _phi() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(B + 1, dtype=torch.float64, requires_grad=True)


def test_meta_gradient_is_that_of_autograd_through_the_step() -> None:
    network, phi = _network(), _phi()
    (expected,) = torch.autograd.grad(_clean_loss_after(network, phi), phi)
    torch.testing.assert_close(_meta_gradient(network, phi), expected, rtol=1e-9, atol=1e-12)


def test_meta_gradient_agrees_with_finite_differences() -> None:
    network, phi = _network(), _phi()
    actual, width = _meta_gradient(network, phi), 1e-5
    for place in range(len(phi)):
        shift = torch.zeros_like(phi)
        shift[place] = width
        rise = _clean_loss_after(network, phi.detach() + shift) - _clean_loss_after(network, phi.detach() - shift)
        assert float(actual[place]) == pytest.approx(float(rise.detach()) / (2 * width), rel=1e-5, abs=1e-9)


def test_meta_gradient_of_a_linear_model_is_the_product_of_two_gradients() -> None:
    """z = Wx: ∂L_c/∂w_i = −η ⟨∇ℓ_i(W), ∇L_c(W')⟩ with ∇ℓ_i = (p_i − y_i) x_iᵀ."""
    torch.manual_seed(0)
    network = TwoHeadNetwork(nn.Flatten(), 12, K).double().train()
    with torch.no_grad():
        network.clean_head.bias.zero_()
    x, y = torch.randn(B, 3, 2, 2, dtype=torch.float64), torch.randint(K, (B,))
    clean, clean_y = torch.randn(C, 3, 2, 2, dtype=torch.float64), torch.randint(K, (C,))
    weights = torch.rand(B, dtype=torch.float64, requires_grad=True)

    def slope(weight: Tensor, bias: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """∇ℓ_i by weight [·,K,12] and by bias [·,K]."""
        flat = images.flatten(1)
        error = torch.softmax(flat @ weight.t() + bias, 1) - functional.one_hot(labels, K)
        return error[:, :, None] * flat[:, None, :], error

    w, b = network.clean_head.weight.detach(), network.clean_head.bias.detach()
    by_w, by_b = slope(w, b, x, y)
    ahead_w = w - RATE * (weights.detach()[:, None, None] * by_w).sum(0)
    ahead_b = b - RATE * (weights.detach()[:, None] * by_b).sum(0)
    clean_by_w, clean_by_b = slope(ahead_w, ahead_b, clean, clean_y)
    expected = -RATE * ((by_w * clean_by_w.mean(0)).sum((1, 2)) + (by_b * clean_by_b.mean(0)).sum(1))

    def loss(z: Tensor) -> Tensor:
        return (weights * functional.cross_entropy(z, y, reduction="none")).sum()

    virtual = VirtualStep(network)
    _, logits = virtual.outputs(x)
    ahead = virtual.look_ahead(virtual.gradient(loss(logits)), RATE)
    torch.testing.assert_close(ahead["clean_head.weight"].detach(), ahead_w)
    _, v = virtual.clean_gradient(ahead, clean, clean_y)
    derivative = virtual.logit_derivative(x, v)
    torch.testing.assert_close(meta_gradient(loss, logits, derivative, RATE, [weights])[0], expected)


def test_only_the_main_forward_moves_the_running_buffers_and_nothing_moves_the_parameters() -> None:
    noisy, noisy_labels, clean, clean_labels = _data()
    network, plain = _network(), _network()
    virtual = VirtualStep(network)
    _, logits = virtual.outputs(noisy)
    plain(noisy)
    gradient = virtual.gradient(functional.cross_entropy(logits, noisy_labels))
    _, v = virtual.clean_gradient(virtual.look_ahead(gradient, RATE), clean, clean_labels)
    virtual.clean_gradient(virtual.parameters, clean, clean_labels)
    virtual.logit_derivative(noisy, v)
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert all(parameter.grad is None for parameter in network.parameters())
    functional.cross_entropy(logits, noisy_labels).backward()  # type: ignore[no-untyped-call]  # the graph is still there


def test_virtual_rate_is_the_optimisers_own_under_sgd_and_follows_the_schedule_under_adamw() -> None:
    assert virtual_rate(find_preset("resnet34"), 0.01) == 0.01
    small = find_preset("small")
    assert virtual_rate(small, small.lr / 2) == pytest.approx(0.05)


def test_the_small_preset_and_a_resnet_have_forward_derivatives_throughout() -> None:
    for preset in ("small", "resnet18"):
        network = build_network(preset, K).train()
        virtual = VirtualStep(network)
        images = torch.randn(3, 3, 8, 8)
        _, v = virtual.clean_gradient(virtual.parameters, images, torch.arange(3))
        assert virtual.logit_derivative(images, v).isfinite().all()


@pytest.mark.parametrize("trunk", ["small", "fast", "resnet18"])
def test_forward_derivatives_hold_in_half_precision_as_on_a_gpu(trunk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        virtual = VirtualStep(build_network(trunk, 3))
        images = torch.randn(4, 3, 12, 12)
    _, v = virtual.clean_gradient(virtual.parameters, images, torch.tensor([0, 1, 2, 0]))
    exact = virtual.logit_derivative(images, v)
    monkeypatch.setattr(VirtualStep, "_autocast", lambda _: torch.autocast("cpu", dtype=torch.bfloat16))
    rounded = virtual.logit_derivative(images, v)
    assert rounded.dtype == torch.float32
    assert functional.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0) > 0.9
