"""Push keys: what makes the same question the same one, in Label Studio, for ever."""

import hashlib

from pipeline.records import AskedAs

_ONCE: frozenset[AskedAs] = frozenset({"audit", "check", "targeted"})
_AGAIN: frozenset[AskedAs] = frozenset({"tie_break", "audit"})
"""After answers that decide nothing. A sample that was drawn at random is asked about as before: nothing is shown."""
_RECHECKS: frozenset[AskedAs] = frozenset({"recheck"})
MOST_TIE_BREAKS = 20
"""A sample is not asked about more often than that."""


def push_key(labels_project_id: int, sample_id: str, asked: str = "") -> str:
    """24 hexadecimal digits, the same for the same question about the same sample of the same project for ever.

    `asked` is empty for the one time that a sample is asked about (audit, check or targeted), `tie_break/3` after three
    answers that decide nothing, `recheck` where the model contradicts a decision.
    """
    parts = (str(labels_project_id), sample_id, *([asked] if asked else []))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def kinds_of_key(key: str, labels_project_id: int, sample_id: str) -> frozenset[AskedAs]:
    """The kinds of question about that sample that have this push key; none, where it is not one of ours."""
    if key == push_key(labels_project_id, sample_id):
        return _ONCE
    if key == push_key(labels_project_id, sample_id, "recheck"):
        return _RECHECKS
    if any(key == push_key(labels_project_id, sample_id, f"tie_break/{n}") for n in range(1, MOST_TIE_BREAKS + 1)):
        return _AGAIN
    return frozenset()
