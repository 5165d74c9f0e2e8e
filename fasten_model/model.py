"""A trained model in a folder: `model.safetensors` (weights, T), `model.json` (everything else), `visits.safetensors`
(what training made of its own samples, where that was kept). No pickle.

Format 3 says how many networks there are (`fasten_model.ensemble`). Format 2 had one; it names the trunk beside the
preset, so that any trunk can be built again. One that is a module of the caller's must be given back at load. Format 1
had the preset's trunk only. All still load; visits are kept by some of format 3, and older readers do without.
Those that were keyed by sample and label alone are not read any more: another set may use the same ids.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fasten_model.device import resolve_device
from fasten_model.ensemble import Network, members_of, together
from fasten_model.errors import DataError
from fasten_model.holding_out import MOST_FOLDS
from fasten_model.images.decode import decode_image
from fasten_model.images.source import Images, check_images
from fasten_model.network import TwoHeadNetwork, build_network
from fasten_model.predict import predict_logits
from fasten_model.presets import find_preset
from fasten_model.stacking import Weights
from fasten_model.tensors_file import read_tensors
from fasten_model.trunks import MODULE_PREFIX
from fasten_model.visited import KEYED_BY, Visited, read_visited

WEIGHTS_FILE = "model.safetensors"
JSON_FILE = "model.json"
VISITS_FILE = "visits.safetensors"
_FORMAT = 3
_FORMATS = (1, 2, 3)
_TRANSITION_KEY = "transition"
_ANNOTATORS_KEY = "annotator_transitions"
_MAX_JSON_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A network with all that is needed to use it on new images and to judge labels."""

    network: Network
    """One, or an ensemble of several."""
    classes: tuple[str, ...]
    """K class names; class index = position."""
    preset: str
    """Name of the settings it was trained with. The trunk's name is the network's own, `network.trunk_name`."""
    image_size: int
    """Side S of the square images the network was trained on."""
    temperature: float
    """Divides the clean head's logits (`fasten_model.calibrate`)."""
    transition: Tensor
    """T [K,K] of the *original* labels, T[i,j] = p(given=j | true=i); rows sum to 1 (`soft_count_transition`)."""
    evidence: float = 1.0
    """γ: how much a given label counts in the posterior q ∝ T[:,given]^γ·p (`fasten_model.calibrate`)."""
    rho: float
    """The ρ from which a label is changed (`fasten_model.scoring`), chosen or set by hand; above 1: never."""
    rho_per_class: tuple[float, ...] | None = None
    """ρ by the class that is suggested, [K], where classes have ρ of their own (`fasten_model.relabel.choose_rho`)."""
    annotators: tuple[str, ...] = ()
    """R names of annotators whose own T is known."""
    annotator_transitions: Tensor | None = None
    """[R,K,K] in the order of `annotators`; None where there are none. Rows sum to 1."""
    visited: Visited | None = None
    """What training made of the very samples that it was trained on; None: their labels are judged as any other's."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Free text that travels with the model (version, snapshot, …)."""

    def __post_init__(self) -> None:
        shape = (len(self.annotators), len(self.classes), len(self.classes))
        found = (0, *shape[1:]) if self.annotator_transitions is None else tuple(self.annotator_transitions.shape)
        if found != shape:
            raise DataError(f"annotator_transitions must be {list(shape)}, a T for each annotator, got {list(found)}")
        if self.rho_per_class is not None and len(self.rho_per_class) != len(self.classes):
            raise DataError(
                f"rho_per_class must be one of each class: {len(self.classes)}, not {len(self.rho_per_class)}"
            )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """ρ of each class, [K]."""
        return self.rho_per_class or (self.rho,) * len(self.classes)

    def decode(self, images: Sequence[bytes]) -> Tensor:
        """Image bytes → uint8 [N,3,S,S] as the network expects them; `DataError` names the position of a bad one."""
        decoded = []
        for position, data in enumerate(images):
            if not isinstance(data, bytes | bytearray):
                raise DataError(
                    f"image {position} must be the bytes of an image file, got {type(data).__name__}: "
                    "give Path(…).read_bytes() of each, in a list"
                )
            try:
                decoded.append(decode_image(data, self.image_size))
            except DataError as error:
                raise DataError(f"image {position}: {error}") from error
        return (
            torch.stack(decoded) if decoded else torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        )

    def predict_logits(self, images: Tensor | Images) -> Tensor:
        """uint8 [N,3,S,S] → the clean head's logits, fp32 [N,K] on the CPU, before the temperature.

        Raises `DataError` where the images are of another type, shape or side.
        """
        check_images(images, self.image_size)
        # A copy: of what is made in inference mode torch lets nobody compute a gradient, or change it in place.
        return predict_logits(self.network, images)[0].clone()

    def predict_probabilities(self, images: Tensor | Images) -> Tensor:
        """uint8 [N,3,S,S] → calibrated p = softmax(logits / temperature), fp32 [N,K] on the CPU; rows sum to 1."""
        return torch.softmax(self.predict_logits(images) / self.temperature, dim=1)

    def predict_bytes(self, images: Sequence[bytes]) -> Tensor:
        """Image bytes → calibrated p, fp32 [N,K] on the CPU."""
        return self.predict_probabilities(self.decode(images))


def save_model(model: Model, folder: str | Path) -> None:
    """Write `model` into `folder` (made if missing; other files in it are left alone).

    The JSON names the hash of the weights and is moved into place last, so that a reader finds the old model, the new
    one, or a clear error, but never one half of each.
    Raises `DataError` where `folder` is a file or cannot be made, or the model holds what cannot be saved.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: a model is a folder, give another name")
    tensors = {**model.network.state_dict(), _TRANSITION_KEY: model.transition.float()}
    if model.annotator_transitions is not None:
        tensors[_ANNOTATORS_KEY] = model.annotator_transitions.float()
    strange = [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if strange:
        raise DataError(f"trunk {model.network.trunk_name} keeps state that is no tensor ({strange[0]}): not saved")
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    weights = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
    contents = {WEIGHTS_FILE: weights}
    if model.visited is not None:
        contents[VISITS_FILE] = save({"keys": model.visited.keys, "means": model.visited.means})
    description = {
        "format": _FORMAT,
        "classes": list(model.classes),
        "preset": model.preset,
        "trunk": model.network.trunk_name,
        "members": members_of(model.network),
        "image_size": model.image_size,
        "temperature": model.temperature,
        "evidence": model.evidence,
        "rho": model.rho,
        "rho_per_class": None if model.rho_per_class is None else list(model.rho_per_class),
        "annotators": list(model.annotators),
        "metadata": model.metadata,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "visits": None
        if model.visited is None
        else {
            "sha256": hashlib.sha256(contents[VISITS_FILE]).hexdigest(),
            "weights": list(astuple(model.visited.weights)),
            "keyed_by": KEYED_BY,
        },
    }
    try:
        text = json.dumps(description, ensure_ascii=False, indent=2)
        contents[JSON_FILE] = text.encode()  # the last one
    except (TypeError, UnicodeEncodeError) as error:  # no JSON value, or text of broken bytes
        raise DataError(f"the model is not saved: {error}") from error
    _described(json.loads(text), folder / JSON_FILE)  # or it could never be loaded
    staged = {name: folder / f".{name}.{os.getpid()}" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            staged[name].write_bytes(content)
        for name, path in staged.items():
            path.replace(folder / name)
        if model.visited is None:  # an older model's
            (folder / VISITS_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"the model cannot be written to {folder} ({error.strerror or error})") from error
    finally:
        for path in staged.values():
            with suppress(OSError):
                path.unlink()


def read_trunk_name(folder: str | Path) -> str:
    """The name of the trunk of the model in `folder` (`fasten_model.trunks`); `DataError` as for `load_model`."""
    return _read_description(Path(folder) / JSON_FILE).trunk


def load_model(
    folder: str | Path, *, device: str = "cpu", trunk: nn.Module | None = None, visits: bool = True
) -> Model:
    """The model in `folder`, in evaluation mode on `device` (`auto`: a GPU where there is one).

    trunk: the module that was trained, where it was one of the caller's; a copy of it takes the weights. visits: read
    what training made of its samples, where that is there, which only judging their labels takes.
    Raises DataError if a file is missing, malformed, of another format, or does not fit the other one.
    """
    folder = Path(folder)
    description = _read_description(folder / JSON_FILE)
    count, annotators = len(description.classes), description.annotators
    expected = _trunk_and_head_shapes(description, trunk, folder / JSON_FILE)
    expected[_TRANSITION_KEY] = torch.Size([count, count])
    if annotators:
        expected[_ANNOTATORS_KEY] = torch.Size([len(annotators), count, count])
    tensors = read_tensors(folder / WEIGHTS_FILE, description.weights_sha256, JSON_FILE, expected)
    transition, annotator_transitions = tensors.pop(_TRANSITION_KEY), tensors.pop(_ANNOTATORS_KEY, None)
    for matrix in (transition, *(() if annotator_transitions is None else annotator_transitions)):
        if (matrix < 0).any() or not torch.allclose(matrix.sum(dim=1), torch.ones(count), atol=1e-3):
            raise DataError(f"{folder / WEIGHTS_FILE}: the rows of the transition matrix do not sum to 1; train again")
    network = _build(description, trunk)
    network.load_state_dict(tensors)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as images are
    return Model(
        network=network.to(resolve_device(device)).eval(),
        classes=description.classes,
        preset=description.preset,
        image_size=description.image_size,
        temperature=description.temperature,
        transition=transition,
        evidence=description.evidence,
        rho=description.rho,
        rho_per_class=description.rho_per_class,
        annotators=annotators,
        annotator_transitions=annotator_transitions,
        visited=read_visited(
            folder / VISITS_FILE,
            description.visits_sha256,
            JSON_FILE,
            description.visits_weights,
            count,
            keyed_by=description.visits_keyed_by,
        )
        if visits and description.visits_weights is not None
        else None,
        metadata=description.metadata,
    )


def _trunk_and_head_shapes(description: "_Description", trunk: nn.Module | None, path: Path) -> dict[str, torch.Size]:
    """The shape of every tensor of the network that `description` tells of, found without weights where possible."""
    name, own = description.trunk, description.trunk.startswith(MODULE_PREFIX)
    if own and trunk is None:
        raise DataError(f"{path}: its trunk is your own {name!r}; give that module: load_model(folder, trunk=…)")
    if trunk is not None and MODULE_PREFIX + type(trunk).__name__ != name:
        raise DataError(
            f"{path}: its trunk is {name!r}, not your {type(trunk).__name__}; load it without, or with that"
        )

    try:
        if own:
            network = _build_one(description, trunk)
        else:
            try:
                with torch.device("meta"):  # a hostile class list allocates nothing
                    network = _build_one(description, trunk)
            except NotImplementedError:  # an architecture that computes with numbers as it is built
                network = _build_one(description, trunk)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    if description.members == 1:
        return shapes
    return {f"members.{number}.{key}": shape for number in range(description.members) for key, shape in shapes.items()}


def _build(description: "_Description", trunk: nn.Module | None) -> Network:
    """The network or networks, with weights that are still to come."""
    return together([_build_one(description, trunk) for _ in range(description.members)])


def _build_one(description: "_Description", trunk: nn.Module | None) -> TwoHeadNetwork:
    name, count = trunk or description.trunk, len(description.classes)
    return build_network(name, count, image_size=description.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Description:
    """`model.json`, checked."""

    classes: tuple[str, ...]
    preset: str
    trunk: str
    members: int
    image_size: int
    temperature: float
    evidence: float
    rho: float
    rho_per_class: tuple[float, ...] | None
    annotators: tuple[str, ...]
    metadata: dict[str, str]
    weights_sha256: str
    visits_sha256: str
    visits_weights: Weights | None
    """None: it keeps no visits."""
    visits_keyed_by: object
    """`fasten_model.visited.KEYED_BY`, or what another version said there."""


def _read_description(path: Path) -> _Description:
    """What the model file `path` says, checked (`_described`)."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise DataError(f"no model at {path.parent}: {path.name} cannot be read ({error.strerror})") from error
    if len(text) > _MAX_JSON_BYTES:
        raise DataError(f"{path} is larger than {_MAX_JSON_BYTES} bytes: not a FasTEN model")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: not a FasTEN model") from error
    return _described(raw, path)


def _described(raw: Any, path: Path) -> _Description:
    """What the JSON of the model file `path` says; `DataError` where it is not of the form that this version reads."""
    if not isinstance(raw, dict) or raw.get("format") not in _FORMATS:
        raise DataError(
            f"{path} is not a FasTEN model of format {_FORMATS[0]} to {_FORMAT}; train it with this version"
        )
    if raw["format"] == 1:
        raw = {**raw, "trunk": raw.get("preset"), "annotators": []}
    raw.setdefault("members", 1)
    raw.setdefault("evidence", 1.0)  # not yet in the first models of format 2
    own_rho = raw.get("rho_per_class")  # nor this
    visits = raw.get("visits")  # nor in the first of format 3

    def value(key: str, fits: bool, wanted: str) -> Any:
        if not fits:
            raise DataError(f"{path}: {key!r} must be {wanted}; train the model again")
        return raw[key]

    classes, metadata, preset, trunk = (raw.get(key) for key in ("classes", "metadata", "preset", "trunk"))
    size, digest, annotators = raw.get("image_size"), raw.get("weights_sha256"), raw.get("annotators")
    members = raw["members"]
    some = type(members) is int and 1 <= members <= MOST_FOLDS
    names = isinstance(classes, list) and len(classes) >= 2 and _are_names(classes)
    texts = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    return _Description(
        classes=tuple(value("classes", names, "two or more different names")),
        preset=find_preset(value("preset", isinstance(preset, str), "a preset's name")).name,
        trunk=value("trunk", isinstance(trunk, str), "a trunk's name"),
        members=value("members", some, f"a whole number from 1 to {MOST_FOLDS}"),
        image_size=value("image_size", type(size) is int and 1 <= size <= 4096, "a whole number from 1 to 4096"),
        temperature=float(
            value("temperature", _is_number(raw.get("temperature")) and raw["temperature"] > 0, "a number above 0")
        ),
        evidence=float(value("evidence", _is_number(raw.get("evidence")), "a number from 0")),
        rho=float(value("rho", _is_number(raw.get("rho")), "a number from 0")),
        rho_per_class=None
        if own_rho is None
        else tuple(map(float, value("rho_per_class", _are_rho(own_rho, classes), "a number from 0 for each class"))),
        annotators=tuple(value("annotators", _are_names(annotators), "different names")),
        metadata=value("metadata", texts, "texts by name"),
        weights_sha256=value("weights_sha256", isinstance(digest, str), "a hash"),
        visits_sha256=""
        if visits is None
        else value("visits", _are_visits(visits), "a hash and three weights")["sha256"],
        visits_weights=None if visits is None else Weights.of(torch.tensor(visits["weights"], dtype=torch.float64)),
        visits_keyed_by=None if visits is None else visits.get("keyed_by"),
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _are_rho(value: Any, classes: Any) -> bool:
    of_each = isinstance(value, list) and isinstance(classes, list) and len(value) == len(classes)
    return of_each and all(_is_number(rho) for rho in value)


def _are_visits(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str):
        return False
    weights = value.get("weights")
    return isinstance(weights, list) and len(weights) == 3 and all(_is_number(weight) for weight in weights)


def _is_number(value: object) -> bool:
    """From 0, and of a size that makes sense."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6
