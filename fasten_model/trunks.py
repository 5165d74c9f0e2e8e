"""Trunks φ: from a name, or a module of the caller's, to a module that maps images [B,3,S,S] to features [B,D].

* our own, by name: `small`, `resnet18` and `resnet34` with a 3×3 stem, `fast`
* `torchvision:NAME` (or the bare name where it is none of ours): its classifier, the last linear layer, is cut off
* `timm:NAME`, where timm is installed
* any `torch.nn.Module`; a copy of it is trained

Never downloads anything: weights come from a file (`fasten_model.trunk_weights`) or from the random generator.
"""

import copy
import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional

from fasten_model.errors import DataError
from fasten_model.images.augment import normalize
from fasten_model.modes import in_evaluation
from fasten_model.presets import PRESETS

MODULE_PREFIX = "module:"
"""Begins the name of a trunk that is a module of the caller's; its class name follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    """A trunk with what the heads and a model file need to know of it."""

    name: str
    """What builds it again; a caller's module has `module:` and its class name."""
    module: nn.Module
    feature_dim: int
    """D."""


def build_trunk(trunk: str | nn.Module, *, image_size: int = 32) -> Trunk:
    """The trunk of that name with fresh weights, or a copy of the module given.

    trunk: one of ours, a preset's name (its trunk), `torchvision:NAME`, `timm:NAME` or a module. image_size: S; some
    architectures are built for one size, or down to one: every trunk is tried on images of zeros.
    Raises `DataError` where there is no such trunk, or it does not map [B,3,S,S] to [B,D].
    """
    if isinstance(trunk, nn.Module):
        name = MODULE_PREFIX + type(trunk).__name__
        module = copy.deepcopy(trunk)
        return Trunk(name=name, module=module, feature_dim=feature_dim(module, image_size, name))
    if not isinstance(trunk, str):
        kind = f"the class {trunk.__name__}" if isinstance(trunk, type) else type(trunk).__name__
        raise DataError(f"a trunk must be a name or a torch.nn.Module, made and ready to be called, got {kind}")
    if trunk in PRESETS:
        trunk = PRESETS[trunk].trunk
    if trunk in _OWN:
        module = _OWN[trunk]()
        return Trunk(name=trunk, module=module, feature_dim=feature_dim(module, image_size, trunk))
    library, _, model = trunk.rpartition(":")
    if library == "timm":
        return _first_that_fits(trunk, _timm(model), ({}, {"img_size": image_size}), image_size)
    if library in ("", "torchvision") and model in torchvision.models.list_models(module=torchvision.models):
        return _first_that_fits(f"torchvision:{model}", *_torchvision(model, image_size), image_size)
    raise DataError(
        f"no trunk named {trunk!r}; choose one of {', '.join(_OWN)}, torchvision:NAME or timm:NAME, or give a module"
    )


def feature_dim(module: nn.Module, image_size: int, name: str) -> int:
    """D, found with two images of zeros; `DataError` if `module` does not map them to [2, D]. Changes nothing in it.

    They are channels last in memory, as those that it will be given: a module that asks for a view of them flat fails.
    """
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    images = torch.zeros(2, 3, image_size, image_size, device=None if first is None else first.device)
    images = images.contiguous(memory_format=torch.channels_last)
    try:
        with in_evaluation(module), torch.no_grad():
            features = module(images)
    except Exception as error:  # whatever a module of somebody else's raises
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"trunk {name} takes no images [B,3,{image_size},{image_size}]: {reason}") from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2 or features.shape[1] == 0:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise DataError(f"trunk {name} must map images [2,3,S,S] to features [2,D], got {found}; pool and flatten them")
    if features.dtype != images.dtype:  # the heads would refuse them, at the first step
        kind = str(features.dtype).removeprefix("torch.")
        raise DataError(f"trunk {name} must give float32 features as its images are, got {kind}; end it with .float()")
    return features.shape[1]


def _first_that_fits(
    name: str, build: Callable[..., nn.Module], choices: Sequence[Mapping[str, Any]], image_size: int
) -> Trunk:
    """Built with the first of `choices` (keyword arguments) that takes images of this size."""
    failures: list[Exception] = []
    for arguments in choices:
        try:
            module = build(**arguments)
            return Trunk(name=name, module=module, feature_dim=feature_dim(module, image_size, name))
        except DataError as error:
            failures.append(error)
        except (TypeError, ValueError, AssertionError) as error:  # an argument that it does not know, or not that value
            failures.append(DataError(f"trunk {name} cannot be built for {image_size}×{image_size} images: {error}"))
    raise failures[0]


def _torchvision(name: str, image_size: int) -> tuple[Callable[..., nn.Module], Sequence[Mapping[str, Any]]]:
    if name in ("googlenet", "inception_v3"):  # their training would answer with three classifiers
        choices: tuple[dict[str, Any], ...] = ({"aux_logits": False, "init_weights": True},)
    else:
        choices = ({}, {"image_size": image_size}, {"input_size": (image_size, image_size)})

    def build(**arguments: Any) -> nn.Module:
        model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
        linear = [path for path, part in model.named_modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise DataError(f"torchvision's {name} ends in no linear classifier to cut off; give the module itself")
        parent, _, child = linear[-1].rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
        return model

    return build, choices


def _timm(name: str) -> Callable[..., nn.Module]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
    except ImportError as error:
        raise DataError(f"trunk 'timm:{name}' needs timm, which is not installed: pip install timm") from error
    if not re.fullmatch(r"[\w.]+", name) or not timm.is_model(name):  # never a name that timm would download
        raise DataError(f"timm {timm.__version__} has no model named {name!r}; timm.list_models() has their names")

    def build(**arguments: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
        return model

    return build


def _small() -> nn.Module:
    """Three strided convolution stages and a global average: [B,3,S,S] → [B,64]."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64):
        layers += [_convolution(channels, width, stride=2), _convolution(width, width, stride=1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _convolution(channels: int, width: int, *, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _resnet(name: str) -> nn.Module:
    """A torchvision ResNet as the reference has it: 3×3 stem, no max-pool, no classifier; [B,3,S,S] → [B,512]."""
    trunk: nn.Module = torchvision.models.get_model(name, weights=None)
    trunk.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    trunk.maxpool = nn.Identity()
    trunk.fc = nn.Identity()
    return trunk


class FastTrunk(nn.Module):
    """A whitening convolution and three groups of two convolutions: [B,3,S,S] → [B,256], S ≥ 9.

    Follows the network of airbench94 (Jordan, 2024, arXiv 2404.00498, section 3): a frozen 2×2 first layer that whitens
    the data's own patches, convolutions that begin as the identity, GELU, BatchNorm without a learnt scale, outputs
    made small. Differs: the features are scaled and not the logits (the two heads are plain linear layers), the first
    layer's bias stays trainable, biases share one learning rate, BatchNorm keeps torch's ε, the last pool takes any S.
    """

    whitened: Tensor
    """bool []: whether the first layer whitens; it travels with the weights, so that loaded ones are kept."""

    def __init__(self, widths: tuple[int, int, int] = (64, 256, 256), feature_scale: float = 1 / 9) -> None:
        super().__init__()
        patch = 3 * _PATCH**2
        self.whiten = nn.Conv2d(3, 2 * patch, _PATCH)
        self.whiten.weight.requires_grad = False
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        self.groups = nn.Sequential(*itertools.starmap(_group, itertools.pairwise((2 * patch, *widths))))
        self.feature_scale = feature_scale
        self.register_buffer("whitened", torch.tensor(False))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [B,3,S,S] → [B,256]."""
        features: Tensor = self.groups(functional.gelu(self.whiten(images)))
        return features.amax(dim=(2, 3)) * self.feature_scale

    @torch.no_grad()
    def initialise_from(self, images: Tensor) -> None:
        """Make the first layer whiten the patches of `images`, uint8 [N,3,S,S]; N ≥ 1, a few thousand are enough.

        Filters are the patches' principal directions, each scaled to unit variance, and their negatives. Does nothing
        where the first layer whitens already: the weights came from a file.
        """
        if self.whitened:
            return
        patches = functional.unfold(normalize(images[:_WHITENING_IMAGES].cpu()), _PATCH)  # [N, 12, places]
        vectors = patches.transpose(1, 2).flatten(0, 1).double()
        vectors -= vectors.mean(dim=0)
        variances, directions = torch.linalg.eigh(vectors.t() @ vectors / len(vectors))
        filters = (directions / (variances.clamp(min=0) + _WHITENING_EPSILON).sqrt()).t().reshape(-1, 3, _PATCH, _PATCH)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        self.whitened.fill_(True)


_PATCH = 2
_WHITENING_IMAGES = 5000
_WHITENING_EPSILON = 5e-4
"""Added to variances of pixels in units of `normalize`: a direction in which nothing varies is not blown up."""


def _group(channels: int, width: int) -> nn.Module:
    """Convolve, halve the side, convolve again."""
    return nn.Sequential(
        _identity_convolution(channels, width),
        nn.MaxPool2d(2),
        _norm(width),
        nn.GELU(),
        _identity_convolution(width, width),
        _norm(width),
        nn.GELU(),
    )


def _identity_convolution(channels: int, width: int) -> nn.Conv2d:
    """3×3; its first `channels` filters pass their channel through, the rest begin at random."""
    convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:channels])
    return convolution


def _norm(width: int) -> nn.BatchNorm2d:
    """Without a learnt scale; statistics of the last few batches, for trainings of few steps."""
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad = False
    return norm


_OWN: dict[str, Callable[[], nn.Module]] = {
    "small": _small,
    "resnet18": lambda: _resnet("resnet18"),
    "resnet34": lambda: _resnet("resnet34"),
    "fast": lambda: FastTrunk(),
}
"""Our own trunks by name. A model file names its trunk: do not change the layers of one in use."""
