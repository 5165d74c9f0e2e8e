"""The columns of an exported data set, and how Hugging Face's `datasets` reads them.

`datasets` finds in the schema's metadata that `image` is an image and `label` a class. Its own description of the
format: https://huggingface.co/docs/datasets/package_reference/main_classes#datasets.Features
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

_VALUES = {"sample_id": "string", "source": "string", "decided_by": "string", "run_key": "string"}


def dataset_schema(classes: Sequence[str]) -> pa.Schema:
    """One row per sample. `label` and `given_label` (null where nobody had labelled it) are places in `classes`,
    `soft_label` is a probability for each; the other columns are those of `pipeline.corrected.CORRECTED`."""
    named = {"names": list(classes), "_type": "ClassLabel"}
    features: dict[str, Any] = {
        **{name: {"dtype": dtype, "_type": "Value"} for name, dtype in _VALUES.items()},
        "image": {"_type": "Image"},
        "label": named,
        "soft_label": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
        "given_label": named,
        "decided_at": {"dtype": "timestamp[us, tz=UTC]", "_type": "Value"},
    }
    fields = [
        pa.field("sample_id", pa.string()),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("label", pa.int64()),
        pa.field("soft_label", pa.list_(pa.float32())),
        pa.field("source", pa.string()),
        pa.field("given_label", pa.int64()),
        pa.field("decided_by", pa.string()),
        pa.field("decided_at", pa.timestamp("us", tz="UTC")),
        pa.field("run_key", pa.string()),
    ]
    ordered = {field.name: features[field.name] for field in fields}
    return pa.schema(fields, metadata={b"huggingface": json.dumps({"info": {"features": ordered}}).encode()})


def file_name(sha256: str, data: bytes) -> str:
    """The name of an image's file, made from its hash; the format shows in the first bytes."""
    if data.startswith(b"\x89PNG"):
        return f"{sha256}.png"
    return f"{sha256}.jpg" if data.startswith(b"\xff\xd8") else f"{sha256}.webp"
