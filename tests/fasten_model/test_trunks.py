"""Trunks by name or given: what fits is built, what does not is one line."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fasten_model.errors import DataError
from fasten_model.images.augment import normalize
from fasten_model.trunks import FastTrunk, build_trunk, feature_dim


@pytest.mark.parametrize("side", [8, 16, 28, 32])
def test_the_small_trunk_takes_images_from_8_to_32_pixels(side: int) -> None:
    assert build_trunk("small").module(torch.zeros(2, 3, side, side)).shape == (2, 64)


def test_our_resnet_keeps_its_resolution_in_the_stem() -> None:
    trunk = build_trunk("resnet18").module
    stem = [module for name, module in trunk.named_children() if name in ("conv1", "bn1", "relu", "maxpool")]
    assert nn.Sequential(*stem)(torch.zeros(2, 3, 32, 32)).shape == (2, 64, 32, 32)


@pytest.mark.parametrize("name", ["small", "resnet18", "resnet34", "fast"])
def test_our_own_trunks_tell_their_width(name: str) -> None:
    trunk = build_trunk(name)
    assert feature_dim(trunk.module, 32, name) == trunk.feature_dim


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("torchvision:resnet18", 512),
        ("shufflenet_v2_x0_5", 1024),
        ("torchvision:mnasnet0_5", 1280),
        ("torchvision:googlenet", 1024),
        ("torchvision:mobilenet_v3_small", 1024),
        ("timm:test_resnet", 96),
        ("timm:test_vit.r160_in1k", 64),
    ],
)
def test_a_librarys_classifier_is_cut_off(name: str, width: int) -> None:
    trunk = build_trunk(name)
    assert trunk.name == (name if ":" in name else f"torchvision:{name}")
    assert trunk.feature_dim == width
    assert trunk.module.train()(torch.randn(2, 3, 32, 32)).shape == (2, width)


def test_torchvisions_own_resnet_has_the_stem_for_imagenet() -> None:
    convolution = build_trunk("torchvision:resnet18").module.get_submodule("conv1")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.kernel_size == (7, 7)


def test_an_architecture_for_one_size_is_built_for_the_size_asked_for() -> None:
    trunk = build_trunk("timm:test_vit", image_size=48)
    assert trunk.module(torch.zeros(2, 3, 48, 48)).shape == (2, 64)
    with torch.device("meta"):  # shapes, without the time that it takes to draw a hundred million weights
        large = build_trunk("torchvision:vit_b_16", image_size=48).module
        assert large(torch.zeros(1, 3, 48, 48)).shape == (1, 768)


def test_images_too_small_for_one_of_ours_are_one_line() -> None:
    with pytest.raises(DataError, match=r"trunk fast takes no images \[B,3,8,8\]: "):
        build_trunk("fast", image_size=8)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "tiny",
            r"no trunk named 'tiny'; choose one of small, resnet18, resnet34, fast, torchvision:NAME or timm:NAME",
        ),
        ("torchvision:nothing", "no trunk named 'torchvision:nothing'"),
        ("torchvision:small", "no trunk named 'torchvision:small'"),
        ("torchvision:fcn_resnet50", "no trunk named"),
        ("timm:nothing", "no model named 'nothing'"),
        ("timm:", "no model named ''"),
        ("timm:hf-hub:someone/something", "no trunk named"),
        ("torchvision:squeezenet1_0", "squeezenet1_0 ends in no linear classifier"),
        ("torchvision:inception_v3", r"takes no images \[B,3,32,32\]: "),
    ],
)
def test_a_trunk_that_is_not_there_or_does_not_fit_is_one_line(name: str, says: str) -> None:
    with torch.device("meta"), pytest.raises(DataError, match=says) as caught:
        build_trunk(name)
    assert "\n" not in str(caught.value)


def test_without_timm_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match="'timm:resnet18' needs timm, which is not installed: pip install timm"):
        build_trunk("timm:resnet18")


class Means(nn.Module):
    """Mean colour through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.linear = nn.LazyLinear(5)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.linear(self.frozen(self.norm(images)).mean(dim=(2, 3)))
        return features


def test_a_module_is_copied_and_its_width_found_without_changing_it() -> None:
    module = Means()
    trunk = build_trunk(module, image_size=8)
    assert (trunk.name, trunk.feature_dim) == ("module:Means", 5)
    assert trunk.module is not module
    assert isinstance(trunk.module, Means)
    assert (trunk.module.training, trunk.module.norm.training, trunk.module.frozen.training) == (True, True, False)
    assert trunk.module.norm.num_batches_tracked == 0
    assert isinstance(module.linear.weight, nn.UninitializedParameter)


class Viewing(nn.Module):
    """Wants its images to lie flat in memory, which in training they do not."""

    def forward(self, images: Tensor) -> Tensor:
        return images.view(len(images), -1)


class Cast(nn.Module):
    """Gives features of some type, of which there may be too few."""

    def __init__(self, dtype: torch.dtype, width: int = 4) -> None:
        super().__init__()
        self._dtype, self._width = dtype, width

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self._width].to(self._dtype)


class Broken(nn.Module):
    """Raises as somebody's module might."""

    def forward(self, images: Tensor) -> Tensor:
        raise KeyError("first\nsecond" if len(images) else "")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Identity(), r"trunk module:Identity must map images \[2,3,S,S\] to features \[2,D\], got \[2, 3, 32, 32\]"),
        (nn.Flatten(0), r"got \[6144\]"),
        (nn.Linear(7, 2), r"trunk module:Linear takes no images \[B,3,32,32\]: mat1 and mat2"),
        (nn.MultiheadAttention(32, 1), "takes no images"),
        (Viewing(), r"takes no images .* Use \.reshape"),
        (Broken(), "takes no images"),
        (Cast(torch.float32, width=0), r"got \[2, 0\]"),
        (Cast(torch.float64), r"trunk module:Cast must give float32 features .* got float64; end it with \.float\(\)"),
        (Cast(torch.float16), "got float16"),
        (Cast(torch.int64), "got int64"),
    ],
)
def test_a_module_that_is_no_trunk_is_one_line(module: nn.Module, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        build_trunk(module)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trunk", "kind"), [(Viewing, "the class Viewing"), (lambda images: images, "function"), (None, "NoneType")]
)
def test_what_is_neither_a_name_nor_a_module_is_one_line(trunk: Any, kind: str) -> None:
    with pytest.raises(DataError, match=f"^a trunk must be a name or a torch.nn.Module, .* got {kind}$"):
        build_trunk(trunk)


def photographs(count: int = 64, side: int = 16) -> Tensor:
    """uint8 images whose neighbouring pixels are alike, as a photograph's are."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(256, (count, 3, side // 4, side // 4), generator=generator).float()
    smooth = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    grain = torch.randn(smooth.shape, generator=generator) * 6
    return (smooth + grain).clamp(0, 255).to(torch.uint8)


def test_the_fast_trunks_first_layer_whitens_the_images_it_was_shown() -> None:
    trunk, images = FastTrunk(), photographs()
    trunk.initialise_from(images)
    answers = trunk.whiten(normalize(images)).detach()  # [N, 24, 15, 15]
    answers = answers.transpose(0, 1).flatten(1)
    covariance = torch.cov(answers)[:12, :12]
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.05, rtol=0)
    torch.testing.assert_close(answers[:12], -answers[12:], atol=1e-4, rtol=0)


def test_images_of_one_colour_leave_the_first_layer_finite() -> None:
    trunk = FastTrunk()
    trunk.initialise_from(torch.zeros(1, 3, 9, 9, dtype=torch.uint8))
    assert torch.isfinite(trunk.eval()(torch.zeros(1, 3, 9, 9))).all()


def test_a_first_layer_that_came_with_weights_is_kept() -> None:
    trunk, other = FastTrunk(), FastTrunk()
    trunk.initialise_from(photographs())
    other.load_state_dict(trunk.state_dict())
    other.initialise_from(255 - photographs(8))
    assert torch.equal(other.whiten.weight, trunk.whiten.weight)


def test_the_fast_trunks_first_layer_and_scales_are_not_trained() -> None:
    frozen = {name for name, parameter in FastTrunk().named_parameters() if not parameter.requires_grad}
    scales = {f"groups.{group}.{layer}.weight" for group in range(3) for layer in (2, 5)}
    assert frozen == {"whiten.weight"} | scales


def test_the_fast_trunks_convolutions_begin_as_the_identity() -> None:
    convolution = FastTrunk().get_submodule("groups.1.0")
    images = torch.randn(2, 64, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(convolution(images)[:, :64], images)


def test_the_fast_trunk_learns() -> None:
    torch.manual_seed(0)
    images = photographs(64, 12)
    labels = (images.float().mean(dim=(1, 2, 3)) > 127).long()
    trunk = FastTrunk((16, 16, 16))
    trunk.initialise_from(images)
    head = nn.Linear(16, 2)
    parameters = [parameter for parameter in (*trunk.parameters(), *head.parameters()) if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.85, nesterov=True)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(head(trunk(normalize(images))), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
