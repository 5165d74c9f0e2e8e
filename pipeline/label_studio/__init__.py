"""The one door to Label Studio: plain records in, plain records out.

`connection` authenticates and turns answers into errors, `parsing` reads untrusted JSON, `accounts` signs people up,
`pages` reads tasks, `drafts` those that somebody has begun to answer, `interface` checks what is sent; `projects`,
`reading`, `tasks`, `changing` and `people` hold the calls that `door` makes one class of, which is what the rest of the
project uses.
"""

from pipeline.label_studio.changing import TaskChange
from pipeline.label_studio.connection import LabelStudioConfig
from pipeline.label_studio.door import LabelStudio, ServerInfo
from pipeline.label_studio.parsing import Asked, OnBad
from pipeline.label_studio.people import User
from pipeline.label_studio.projects import MissingProjectError

__all__ = [
    "Asked",
    "LabelStudio",
    "LabelStudioConfig",
    "MissingProjectError",
    "OnBad",
    "ServerInfo",
    "TaskChange",
    "User",
]
