"""The model as MLflow serves it. MLflow stores this file beside the weights and runs it to load the model.

It may import only what the model brings along: `fasten_model` (its code path) and its pip requirements.
"""

from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from fasten_model.model import load_model

IMAGES_AT_ONCE = 256
"""Images decoded and classified together: bounds the memory of a long request."""


class ImageClassifier(PythonModel):
    """Image bytes in, label and calibrated probabilities out."""

    def load_context(self, context: PythonModelContext) -> None:
        self._model = load_model(Path(context.artifacts["weights"]).parent, visits=False)

    def predict(  # the arguments that MLflow passes
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Label images.

        Args:
            context: unused; MLflow passes the artifacts.
            model_input: DataFrame with a column `image` of encoded images (bytes). Over HTTP (`mlflow models serve`)
                the bytes are base64: `{"dataframe_records": [{"image": "…"}]}`.
            params: unused.

        Returns:
            DataFrame with the input's index: `label` (class name) and `probabilities` (dict class name → probability).
        """
        images = [bytes(image) for image in model_input["image"]]
        classes = list(self._model.classes)
        rows: list[dict[str, float]] = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            probabilities = self._model.predict_bytes(images[start : start + IMAGES_AT_ONCE])
            rows.extend(dict(zip(classes, map(float, row), strict=True)) for row in probabilities)
        labels = [max(row, key=row.__getitem__) for row in rows]
        return pd.DataFrame({"label": labels, "probabilities": rows}, index=model_input.index)


set_model(ImageClassifier())
