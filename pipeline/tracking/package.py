"""Packs a model folder the way MLflow loads it: a Python file, safetensors and JSON, and no pickle.

https://mlflow.org/docs/latest/ml/model/models-from-code/
"""

import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types.schema import ColSpec, DataType, Map, Schema

import fasten_model
from fasten_model.model import read_trunk_name
from pipeline.errors import DataError

with warnings.catch_warnings():
    # MLflow warns of type hints in its own classes as it is imported.
    warnings.simplefilter("ignore", UserWarning)
    from mlflow import pyfunc

    _ = pyfunc.PythonModel  # `pyfunc` is a stand-in that imports on first use

ARTIFACTS = {"weights": "model.safetensors", "description": "model.json"}
"""Artifacts of the package: name there → file name in a model folder."""

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema([ColSpec(DataType.string, "label"), ColSpec(Map(DataType.double), "probabilities")]),
)

# An environment made by uv has no pip, which MLflow would warn of at each model.
logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)

_SERVED_MODEL = Path(__file__).with_name("served_model.py")
_REQUIREMENTS = ("mlflow", "torch", "torchvision", "pyarrow", "numpy", "pandas", "safetensors")


def package(model_dir: Path, target: Path, *, example_image: bytes) -> Path:
    """Pack `model_dir` into `target` and label the example with the result, so that nothing broken is uploaded.

    Raises:
        DataError: the folder lacks a file, or the packed model cannot label `example_image`.
    """
    files = {name: model_dir / file for name, file in ARTIFACTS.items()}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"no model to register in {model_dir}: {path.name} is missing; train first")
    example = pd.DataFrame({"image": [example_image]})
    with _import_path_kept():
        try:
            pyfunc.save_model(
                path=str(target),
                python_model=str(_SERVED_MODEL),
                artifacts={name: str(path) for name, path in files.items()},
                code_paths=[str(Path(fasten_model.__file__).parent)],
                signature=SIGNATURE,
                input_example=example,
                pip_requirements=pip_requirements(read_trunk_name(model_dir)),
            )
            answer = pyfunc.load_model(str(target), suppress_warnings=True).predict(example)
        except Exception as error:  # whatever a broken model raises, it must not be registered
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"the model in {model_dir} does not label the example image: {reason}") from error
    if len(answer) != 1 or set(answer.columns) != {"label", "probabilities"}:
        raise DataError(f"the model in {model_dir} answers with {list(answer.columns)}, not label and probabilities")
    for compiled in list(target.rglob("__pycache__")):  # made by importing or loading; it holds this machine's paths
        shutil.rmtree(compiled)
    return target


def complete_package(target: Path, *, run_id: str, model_id: str, location: str) -> None:
    """Write into the package which run and logged model it belongs to, once the server has named them."""
    description = target / MLMODEL_FILE_NAME
    model = Model.load(str(description))
    model.run_id = run_id
    model.model_id = model.model_uuid = model_id
    model.artifact_path = location
    # MLflow notes where the files came from; it never reads that again, and this machine's paths are nobody's business.
    flavor = model.flavors[pyfunc.FLAVOR_NAME]
    flavor[pyfunc.MODEL_CODE_PATH] = _SERVED_MODEL.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(description))


def pip_requirements(trunk: str = "") -> list[str]:
    """What a process must have installed to load a model with that trunk, pinned to what runs here."""
    names = (*_REQUIREMENTS, "timm") if trunk.startswith("timm:") else _REQUIREMENTS
    # A local build tag ("2.11.0+cpu") names a wheel that a package index does not have.
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


@contextmanager
def _import_path_kept() -> Iterator[None]:
    """Loading a model puts its code folder in front of `sys.path` for good, here a folder that is about to go."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
