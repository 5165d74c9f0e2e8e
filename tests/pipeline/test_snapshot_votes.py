"""Votes of a snapshot; as a table of numbers they are tested in `tests/fasten_model`."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import NOISY
from pipeline.snapshot import Snapshot
from pipeline.votes import count_votes


def test_votes_are_counted_over_noisy_and_clean_samples(tmp_path: Path) -> None:
    for name, samples in (("noisy", [[("a", "cat"), ("b", "dog")]]), ("clean", [[("a", "dog")], []])):
        rows = [[{"annotator": who, "label": label} for who, label in said] for said in samples]
        pq.write_table(pa.table({"votes": pa.array(rows, NOISY.field("votes").type)}), tmp_path / f"{name}.parquet")
    paths = SimpleNamespace(noisy_path=tmp_path / "noisy.parquet", clean_path=tmp_path / "clean.parquet")
    assert count_votes(cast(Snapshot, paths)) == {"a": 2, "b": 1}
