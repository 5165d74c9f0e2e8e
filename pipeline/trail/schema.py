"""The columns of the trail's files: the one place that knows them."""

import pyarrow as pa

from pipeline.schema import LABELS, NOISY

_TIME = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MACHINE = pa.schema(
    [
        _required("sample_id", pa.string()),
        _required("image_sha256", pa.string()),
        _required("snapshot_id", pa.string()),
        _required("given_label", pa.string()),
        NOISY.field("votes"),
        _required("suggestion", pa.string()),
        _required("suggestion_probability", pa.float64()),
        _required("confidence", pa.float64()),
        _required("given_label_probability", pa.float64()),
        _required("error_probability", pa.float64()),
        _required("posterior", pa.list_(pa.float32())),
        _required("rho", pa.float64()),
        _required("transition_row", pa.list_(pa.float32())),
        _required("given_share", pa.float64()),
        _required("decision", pa.string()),
        _required("applied", pa.bool_()),
        _required("label", pa.string()),
        _required("model_version", pa.string()),
        _required("run_key", pa.string()),
        _required("mlflow_run_id", pa.string()),
        _required("at", _TIME),
    ]
)
"""One row per noisy sample of a run, by sample id. `suggestion` is argmax q with `suggestion_probability` q;
`confidence` and `given_label_probability` are p; `posterior` q over the classes; `rho` that of the suggested class;
`transition_row` T of the suggested class, what annotators call it, and `given_share` its entry at the given label;
`applied`: mode auto changed the label by itself;
`label` the one handed out."""

ASKED = pa.schema(
    [
        _required("push_key", pa.string()),
        _required("sample_id", pa.string()),
        _required("asked_as", pa.string()),
        _required("current_label", pa.string()),
        pa.field("suggestion", pa.string()),
        _required("confidence", pa.float64()),
        _required("reason", pa.string()),
        _required("rank", pa.float64()),
        _required("priority", pa.float64()),
        _required("model_version", pa.string()),
        _required("run_key", pa.string()),
        _required("at", _TIME),
        pa.field("event", pa.string()),
    ]
)
"""One row per question that a run asked. `suggestion` is what was shown and pre-selected, null where nothing was.
`event`: `add`, `update` (an earlier run's question, asked otherwise) or `revive` (one that had been withdrawn); null in
the files of earlier releases, which only added."""

PEOPLE = pa.schema(
    [
        *LABELS,
        pa.field("given_label", pa.string()),
        _required("outcome", pa.string()),
        _required("seen_in", pa.string()),
        _required("seen_at", _TIME),
        pa.field("withdrawn_at", _TIME),
    ]
)
"""One row per state of an annotation: it came, it was changed, or it was gone (`withdrawn_at`; the other columns then
say what it had been). `given_label` is the annotators' consensus, `outcome` what the answer made of it (`people`),
`seen_in` the snapshot."""

REVERTED = pa.schema([_required("run_key", pa.string()), _required("by", pa.string()), _required("at", _TIME)])
"""One row: somebody undid a run."""

WITHDRAWN = pa.schema(
    [
        _required("push_key", pa.string()),
        _required("sample_id", pa.string()),
        _required("run_key", pa.string()),
        _required("at", _TIME),
        pa.field("why", pa.string()),
    ]
)
"""One row per question that was taken back unanswered, with why: by somebody who reverted its run, or by a later run.
Who has it open may still answer it for a day. `why` is null in what an earlier release took back with a run: it was
removed at once."""
