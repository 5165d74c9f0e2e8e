"""FasTEN (Kye et al., ECCV 2022) in plain PyTorch: tensors in, tensors out. `docs/library.md` is its guide.

* `fit` trains on a noisy and a clean `LabelledImages` (`load_files` reads two Parquet files) as a `TrainConfig` says,
  and calibrates; `score` judges labels; `save_model` and `load_model` keep the `Model` in a folder, without pickle.
* `Method` holds the method's switches, `PAPER` the reference's, `OURS` those that measured best; `PRESETS` what goes
  with a trunk.
* `CheckpointConfig` says where a training keeps what it goes on from if it is killed.
* `build_network` puts two heads (`TwoHeadNetwork`) on any trunk.
* The equations: `forward_loss`, `estimate_transition`, `correct_labels`, `label_posterior`, `soft_count_transition`,
  `fit_temperature`.
* `FastenError` is the root of every error that input can cause; `DataError` the one that this package raises.

Each name is imported on first use: importing the package itself takes no time and no torch.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasten_model.calibrate import fit_temperature
    from fasten_model.correction import correct_labels
    from fasten_model.errors import DataError, FastenError
    from fasten_model.fitting import Fitted, fit
    from fasten_model.images.parquet import Samples, read_samples
    from fasten_model.labelled import LabelledImages
    from fasten_model.labelled_files import load_files
    from fasten_model.loss import forward_loss
    from fasten_model.model import Model, load_model, save_model
    from fasten_model.network import TwoHeadNetwork, build_network
    from fasten_model.posterior import posterior as label_posterior
    from fasten_model.posterior import soft_count_transition
    from fasten_model.presets import PRESETS, Preset
    from fasten_model.relabel import RhoChoice
    from fasten_model.scoring import Scores, score
    from fasten_model.train import OURS, PAPER, EpochMetrics, Method, TrainConfig, TrainingSet
    from fasten_model.train.checkpoint import CheckpointConfig, remove_checkpoint
    from fasten_model.transition import estimate_transition

__all__ = [
    "OURS",
    "PAPER",
    "PRESETS",
    "CheckpointConfig",
    "DataError",
    "EpochMetrics",
    "FastenError",
    "Fitted",
    "LabelledImages",
    "Method",
    "Model",
    "Preset",
    "RhoChoice",
    "Samples",
    "Scores",
    "TrainConfig",
    "TrainingSet",
    "TwoHeadNetwork",
    "build_network",
    "correct_labels",
    "estimate_transition",
    "fit",
    "fit_temperature",
    "forward_loss",
    "label_posterior",
    "load_files",
    "load_model",
    "read_samples",
    "remove_checkpoint",
    "save_model",
    "score",
    "soft_count_transition",
]

_HOMES = {
    "calibrate": ("fit_temperature",),
    "correction": ("correct_labels",),
    "errors": ("DataError", "FastenError"),
    "fitting": ("Fitted", "fit"),
    "images.parquet": ("Samples", "read_samples"),
    "labelled": ("LabelledImages",),
    "labelled_files": ("load_files",),
    "loss": ("forward_loss",),
    "model": ("Model", "load_model", "save_model"),
    "network": ("TwoHeadNetwork", "build_network"),
    "posterior": ("soft_count_transition",),
    "presets": ("PRESETS", "Preset"),
    "relabel": ("RhoChoice",),
    "scoring": ("Scores", "score"),
    "train": ("OURS", "PAPER", "EpochMetrics", "Method", "TrainConfig", "TrainingSet"),
    "train.checkpoint": ("CheckpointConfig", "remove_checkpoint"),
    "transition": ("estimate_transition",),
}
"""Module → the names that it lends to this one."""

_PLACES = {name: (module, name) for module, names in _HOMES.items() for name in names}
# The package's own attribute `posterior` is that module, as soon as anything imports it.
_PLACES["label_posterior"] = ("posterior", "posterior")

if not TYPE_CHECKING:  # mypy would take any name for granted

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, attribute = _PLACES[name]
        value = getattr(_import_module(f"{__name__}.{module}"), attribute)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
