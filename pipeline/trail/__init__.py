"""The trail: every decision of machines and people, kept for good.

    <workspace>/trail/
        machine/<run key>.<mode>.parquet     what a run said and did of every noisy sample
        asked/<run key>-<n>.parquet          the questions that it put before people
        people/<n>-<snapshot>.parquet        answers that are new, changed or withdrawn since the state before
        reverted/<run key>.parquet           runs that somebody undid
        withdrawn/<run key>-<n>.parquet      questions that were taken back, with them or by a later run

Files are added and never changed, each written whole or not at all. What is said again is not written again, so a round
that died may be run again from any point.
"""

from pipeline.trail.asked import append_asked, asked_rows
from pipeline.trail.machine import MachineRun, append_machine, machine_rows, machine_runs, promise_of
from pipeline.trail.people import append_people, keep_people, people_rows, unread_snapshots
from pipeline.trail.reverted import mark_reverted, mark_withdrawn, reverted, reverted_rows, withdrawn_rows

__all__ = [
    "MachineRun",
    "append_asked",
    "append_machine",
    "append_people",
    "asked_rows",
    "keep_people",
    "machine_rows",
    "machine_runs",
    "mark_reverted",
    "mark_withdrawn",
    "people_rows",
    "promise_of",
    "reverted",
    "reverted_rows",
    "unread_snapshots",
    "withdrawn_rows",
]
