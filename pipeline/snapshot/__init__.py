"""Snapshots: `pull` brings the `mirror` of the projects up to date (`catch_up` reads what changed, `comparing` finds
what no change shows, `question` reads why it was asked), `settle` decides each sample's fate (`consensus` counts the
votes), `tally` counts, `writer` writes the tables, `folder` names, opens and verifies what was written.
"""

from pipeline.snapshot.folder import (
    Latest,
    Manifest,
    ProjectSource,
    Snapshot,
    latest_snapshot,
    open_snapshot,
    read_latest,
    write_latest,
)

__all__ = [
    "Latest",
    "Manifest",
    "ProjectSource",
    "Snapshot",
    "latest_snapshot",
    "open_snapshot",
    "read_latest",
    "write_latest",
]
