"""The Parquet schemas of a snapshot, its image parts and its scores: the one place that knows their columns.

`labels`, `noisy` and `clean` make up a snapshot (`pipeline.snapshot`), `images` is the append-only store that all
snapshots share (`pipeline.images.store`), `scores` is what the model says of one snapshot's noisy samples.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError

SCHEMA_VERSION = 2
"""Raised whenever a column changes its name, type or meaning; part of every snapshot's id."""


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_TIME = pa.timestamp("us", tz="UTC")
_VOTES = pa.list_(pa.struct([_required("annotator", pa.string()), _required("label", pa.string())]))
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

LABELS = pa.schema(
    [
        _required("sample_id", pa.string()),
        _required("project_id", pa.int64()),
        _required("task_id", pa.int64()),
        _required("annotation_id", pa.int64()),
        _required("annotator", pa.string()),
        _required("answer", pa.string()),
        pa.field("label", pa.string()),
        _required("ground_truth", pa.bool_()),
        _required("was_cancelled", pa.bool_()),
        pa.field("lead_time_s", pa.float64()),
        _required("created_at", _TIME),
        _required("updated_at", _TIME),
        _required("origin", pa.string()),
        pa.field("asked_as", pa.string()),
        pa.field("suggestion", pa.string()),
        pa.field("asked_by_run", pa.string()),
    ]
)
"""One row per annotation, nothing dropped but what `answer_filter.AnswerFilter` leaves out. `annotation_id` is Label
Studio's; of a draft (an answer that was begun and not submitted, where those count) it is minus the draft's id, so that
the two never meet. `answer` is a `records.AnswerKind`, `origin` a `records.Origin`; `label` is null unless `answer` is
`class` or `unknown_class`. Of answers to questions of the review project: `asked_as` is a
`records.AskedAs`, `suggestion` the class that was pre-selected (null where none was), `asked_by_run` the run key."""

NOISY = pa.schema(
    [
        _required("sample_id", pa.string()),
        _required("image_sha256", pa.string()),
        _required("image_url", pa.string()),
        _required("label", pa.string()),
        _required("votes", _VOTES),
    ]
)
"""One row per sample that annotators labelled and nobody has decided; `label` is the consensus of `votes`.
`image_url` is the image as the labels project names it: what a reviewer's screen can show."""

CLEAN = pa.schema(
    [
        _required("sample_id", pa.string()),
        _required("image_sha256", pa.string()),
        pa.field("image_url", pa.string()),
        _required("label", pa.string()),
        pa.field("given_label", pa.string()),
        _required("votes", _VOTES),
        _required("provenance", pa.string()),
        _required("auditor", pa.string()),
        _required("audited_at", _TIME),
    ]
)
"""One row per sample a person has decided. `provenance` is `audit` (drawn at random: may estimate) or `review` (shown
because the model was unsure: may only train). `given_label` is what the annotators had said, where they had;
`image_url` the image as the labels project names it, null where it has no such image."""

UNDECIDED = pa.schema(
    [
        _required("sample_id", pa.string()),
        pa.field("image_sha256", pa.string()),
        _required("image_url", pa.string()),
        pa.field("label", pa.string()),
        _required("votes", _VOTES),
        _required("state", pa.string()),
        _required(
            "answers",
            pa.list_(
                pa.struct(
                    [
                        _required("annotator", pa.string()),
                        _required("answer", pa.string()),
                        pa.field("label", pa.string()),
                    ]
                )
            ),
        ),
    ]
)
"""One row per sample that people have looked at without a decision: neither noisy nor clean. `state` is `disputed` (as
many say one thing as another), `not_sure` or `unusable`; `label` the consensus of the annotators' `votes`; `answers`
each reviewer's or auditor's latest, by annotator."""

IMAGES = pa.schema(
    [
        _required("image_sha256", pa.string()),
        _required("image", _IMAGE),
        _required("width", pa.int32()),
        _required("height", pa.int32()),
    ]
)
"""One row per distinct image, in the Hugging Face `Image` layout; `path` is a file name made from the hash."""

IMAGE_URLS = pa.schema([_required("url_digest", pa.binary(32)), _required("image_sha256", pa.string())])
"""One row per image address that was fetched: its SHA-256 (an address may be a whole image, or carry a signature), and
the image it gave. Of an address that comes twice, the later file's row counts."""

SCORES = pa.schema(
    [
        _required("sample_id", pa.string()),
        _required("given_label", pa.string()),
        _required("suggested_label", pa.string()),
        _required("model_label", pa.string()),
        _required("model_label_probability", pa.float64()),
        _required("confidence", pa.float64()),
        _required("given_label_probability", pa.float64()),
        _required("error_probability", pa.float64()),
        _required("posterior", pa.list_(pa.float32())),
        _required("decision", pa.string()),
        _required("priority", pa.float64()),
        _required("model_version", pa.string()),
    ]
)
"""One row per noisy sample. `confidence` is the calibrated max p of the clean head; `suggested_label` the decision's
label (the original one below ρ); `model_label` what a reviewer is offered, the class with the largest posterior, which
is its probability; `posterior` q over the classes, in class order."""


def check_columns(path: Path, schema: pa.Schema) -> None:
    """Raise `DataError` unless the Parquet file at `path` has exactly the columns of `schema`, types included."""
    try:
        found = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a readable Parquet file ({_first_line(error)}); pull it again") from error
    if found.remove_metadata().equals(schema):
        return
    for field in schema:
        if field.name not in found.names:
            raise DataError(f"{path} has no column {field.name!r} (found: {', '.join(found.names)})")
        if not found.field(field.name).equals(field):
            raise DataError(f"{path}: column {field.name!r} is {found.field(field.name).type}, expected {field.type}")
    raise DataError(f"{path} has columns {', '.join(found.names)}; expected {', '.join(schema.names)}")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip() or type(error).__name__
