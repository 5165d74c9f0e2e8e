"""One place to try faults at: homes for commands, the commands themselves, and what they are told."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.faults.commands import Commands, Ended
from tests.integration.faults.world import Pulled, World, complete_round, pulled

CHUNK = 9
"""Questions per import: several imports for what is asked here."""
QUEUE = 25
PAGE_SIZE = 40
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "pipeline.queue:push": {"chunk": CHUNK},
    "pipeline.loop.pushing:bring_up_to_date": {"pause": 20},
    "pipeline.label_studio.connection:LabelStudioConfig.__init__": {"page_size": PAGE_SIZE},
}
"""Small, so that a small project is read and written in several steps; and pauses after lost answers are short."""
IMPATIENT = 1.5
"""Seconds that a command waits for an answer, so that a test can wait for it, too; a sound answer is there by then."""
OUT_OF_PATIENCE = 0.3
"""A limit that a sound answer may miss: for commands that are to fail."""


class Bench:
    """Runs `fasten pull` and `fasten push` for one test."""

    def __init__(self, world: World, fasten: Commands, folder: Path) -> None:
        self.world = world
        self._fasten, self._folder, self._count = fasten, folder, 0

    def home(self, base: Path | None = None) -> Path:
        """A new folder to run in: empty, or as `base` was left."""
        self._count += 1
        home = self._folder / f"home-{self._count}"
        if base is None:
            home.mkdir(parents=True)
        else:
            shutil.copytree(base, home)
        return home

    def run(
        self,
        command: str,
        home: Path,
        *,
        url: str | None = None,
        from_disk: bool = True,
        title: str = "a queue",
        settings: Mapping[str, str] | None = None,
        defaults: Mapping[str, Mapping[str, Any]] = DEFAULTS,
        patience_s: float | None = None,
        **how: Any,
    ) -> Ended:
        """One command, however it ends; `title` is the queue's, `how` as `Commands.run` has it.

        patience_s: how long it waits for Label Studio and for an image; as long as it does by itself where None.
        """
        queue = {"queue_size": str(QUEUE), "review_project": title, **(settings or {})}
        if patience_s is not None:
            queue["label_studio_timeout"] = str(patience_s)
            limits = {"timeout_s": patience_s, "retry_wait_s": 0.05}
            defaults = {**defaults, "pipeline.images.check:ImageConfig.__init__": limits}
        environment = self.world.environment(url=url, from_disk=from_disk, **queue)
        return self._fasten.run(command, home=home, environment=environment, defaults=defaults, **how)

    def complete(self, command: str, home: Path, **options: Any) -> Ended:
        """The same, which must end well."""
        ended = self.run(command, home, **options)
        assert ended.code == 0, ended.err
        return ended

    def pulled(self, home: Path) -> Pulled:
        return pulled(self.world, home)

    def ready_to_push(self) -> Path:
        """A home with a snapshot and a completed round."""
        home = self.home()
        self.complete("pull", home)
        complete_round(self.world, home)
        return home
