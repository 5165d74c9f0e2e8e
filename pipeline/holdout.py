"""Which share of the audits is kept from training.

Held-out audits calibrate the model and tell its accuracy; a quarter does. In mode `auto` they have to carry a promise
besides, and that takes a number of held-out relabels that depends on the promise alone (`fasten_model.relabel`). Wrong
labels among the audited pairs are what suggestions can be tried on, so of few of them most are held out, of many a
quarter is enough. The model learns from fewer audits then, but from every review. Which sample is held out depends on
its id and the share: where the share shrinks, more samples train, and no other sample is held out.
"""

import pyarrow.compute as pc
import pyarrow.parquet as pq

from fasten_model.binomial import tries_needed
from pipeline.records import Mode
from pipeline.settings import Settings
from pipeline.snapshot import Snapshot

LEAST, MOST = 0.25, 0.75


def holdout_share(settings: Settings, snapshot: Snapshot) -> float:
    """The share for this snapshot: the setting where it is given."""
    if settings.holdout is not None:
        return settings.holdout
    pairs = pq.read_table(
        snapshot.clean_path, columns=["label", "given_label"], filters=pc.field("provenance") == "audit"
    )
    wrong = pc.sum(pc.not_equal(pairs["label"], pairs["given_label"])).as_py() or 0
    return share_of(settings.mode, wrong, precision=settings.target_precision, certainty=settings.certainty)


def share_of(mode: Mode, wrong_pairs: int, *, precision: float, certainty: float) -> float:
    """A quarter; in mode `auto` as much as a promise with one slip is expected to take, up to three quarters."""
    if mode == "suggest" or wrong_pairs == 0:
        return LEAST
    wanted = tries_needed(precision, 1 - certainty, failures=1)
    return min(MOST, max(LEAST, wanted / wrong_pairs))
