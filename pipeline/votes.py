"""The votes of a snapshot (`fasten_model.votes`)."""

from collections.abc import Mapping

import pyarrow.parquet as pq

from fasten_model import votes
from pipeline.snapshot import Snapshot


def count_votes(snapshot: Snapshot) -> Mapping[str, int]:
    """Annotator → votes, of noisy and clean samples."""
    paths = (snapshot.noisy_path, snapshot.clean_path)
    return votes.count_votes(pq.read_table(path, columns=["votes"])["votes"] for path in paths)
