"""`fasten history SAMPLE_ID`: one sample's story."""

from typing import Annotated

import typer

from pipeline.cli.console import say
from pipeline.cli.rounds import Labels
from pipeline.errors import DataError
from pipeline.settings import load_settings


def history(
    sample_id: Annotated[str, typer.Argument(metavar="SAMPLE_ID", help="As `sample_id` of its task.")],
    labels: Labels = None,
) -> None:
    """Tell one sample's story: who said what of it, and when.

    It ends with the label that is handed out now, and why.
    """
    from pipeline.cli.opened import open_latest
    from pipeline.trail import story

    try:
        sample_id.encode()
    except UnicodeEncodeError:
        raise DataError(f"{sample_id!a} is no sample's name: names are UTF-8") from None
    settings = load_settings(labels_project=labels)
    workspace, snapshot = open_latest(settings)
    events = story.story(workspace, sample_id)
    if not events and not story.known(snapshot, sample_id):
        raise story.unknown_sample(snapshot, sample_id)
    for event in events:
        _say_line(f"{event.at:%Y-%m-%d %H:%M:%S}  {event.who}  {event.what}")
    now = story.today(workspace, snapshot, sample_id, mode=settings.mode)
    label = "no label" if now.label is None else f"“{now.label}” ({now.source})"
    _say_line(f"today: {label}: {now.why}")


def _say_line(line: str) -> None:
    """One event is one line: a class name with a line end in it tells no event of its own."""
    say(line.replace("\n", " "))
