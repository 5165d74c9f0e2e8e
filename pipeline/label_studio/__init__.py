"""The one door to Label Studio: plain records in, plain records out.

`connection` authenticates and turns answers into errors, `parsing` reads untrusted JSON, `accounts` signs people up,
`pages` reads tasks, `door` is what the rest of the project calls.
"""

from pipeline.label_studio.connection import LabelStudioConfig
from pipeline.label_studio.door import LabelStudio, MissingProjectError, ServerInfo, User
from pipeline.label_studio.parsing import OnBad

__all__ = ["LabelStudio", "LabelStudioConfig", "MissingProjectError", "OnBad", "ServerInfo", "User"]
