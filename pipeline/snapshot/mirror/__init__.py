"""The mirror: what Label Studio holds, as far as pulls have read it, in one SQLite file of the workspace.

    mirror.sqlite
        project      one per project that is pulled: its role, how its labels are read, how far reading has come
        task         every task that somebody has answered or skipped, with the question that it asks
        annotation   every annotation of those tasks, whoever made it
        problem      what could not be read of them
        url          every image address, and what came of fetching it (`passing`: `images.again.passing_since`)

A pull brings it up to date (`catch_up`) and writes a snapshot from it alone, so that nothing has to be read twice. Each
chunk is one transaction: a process that is killed loses the chunk under way, and the next one goes on from there. A
hundred thousand tasks cost disk, not memory. The file holds nothing that cannot be read again: it may be removed.

`file` opens it and notes texts, `standing` says how far reading has come, `tasks` keeps what was read, `images` what
came of fetching, `said` gives all of it back by sample.
"""

from pipeline.snapshot.mirror.standing import Standing, reading_of, started
from pipeline.snapshot.mirror.tasks import Row
from pipeline.snapshot.mirror.whole import Mirror, mirror_path

__all__ = ["Mirror", "Row", "Standing", "mirror_path", "reading_of", "started"]
