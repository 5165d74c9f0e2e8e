"""Where settings come from besides the environment and `fasten.toml`: what `fasten up` and `fasten demo` write."""

import os
from pathlib import Path
from typing import Any

from pydantic_settings import DotEnvSettingsSource

DEMO_ENV = "demo.env"
STACK_ENV = "stack.env"
"""Written by `fasten up` (addresses, token) and `fasten demo` (its projects): anything else overrides them."""


def default_home() -> Path:
    """The folder of the embedded stack and, by default, of all data: `FASTEN_HOME`, else `.fasten` here."""
    return Path(os.environ.get("FASTEN_HOME", ".fasten"))


class DemoSettings(DotEnvSettingsSource):
    """What `fasten demo` wrote, as a whole or not at all: its queue is no queue for anybody's own labels project.

    Its own rounds name its project outright, and are to train as any other round on it does.
    """

    def __call__(self) -> dict[str, Any]:
        written, named = super().__call__(), self.current_state.get("labels_project")
        if named is None or (
            str(named) == written.get("labels_project") and "label_studio_url" not in self.current_state
        ):
            return written
        return {}


class StackSettings(DotEnvSettingsSource):
    """What `fasten up` wrote. The login is that of the embedded Label Studio: it is offered to no other server."""

    def __call__(self) -> dict[str, Any]:
        written = super().__call__()
        here = written.get("label_studio_url")
        if str(self.current_state.get("label_studio_url", here)).rstrip("/") == here:
            return written
        return {name: value for name, value in written.items() if not name.startswith("label_studio_")}
