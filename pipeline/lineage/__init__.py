"""The snapshots of a workspace, here and in the store: which there are, what refers to them, how two of them differ.

`catalogue` lists them and finds one by name, `usage` knows what must stay, `changes` compares two, `garbage` removes
what nothing refers to, `parts` the image files that no snapshot needs any more, `page` tells all of it to people.
"""

from pipeline.lineage.catalogue import Catalogue, Entry, catalogue_of
from pipeline.lineage.changes import Change, Difference, compare
from pipeline.lineage.garbage import Plan, Removal, collect, plan_removal
from pipeline.lineage.parts import remove_parts, unused_parts
from pipeline.lineage.usage import Usage, usage_of

__all__ = [
    "Catalogue",
    "Change",
    "Difference",
    "Entry",
    "Plan",
    "Removal",
    "Usage",
    "catalogue_of",
    "collect",
    "compare",
    "plan_removal",
    "remove_parts",
    "unused_parts",
    "usage_of",
]
