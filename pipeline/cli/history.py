"""`fasten history SAMPLE_ID`: one sample's story."""

from typing import Annotated

import typer

from pipeline.cli.console import say
from pipeline.cli.rounds import Labels
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

    settings = load_settings(labels_project=labels)
    workspace, snapshot = open_latest(settings)
    events = story.story(workspace, sample_id)
    if not events and not story.known(snapshot, sample_id):
        raise story.unknown_sample(snapshot, sample_id)
    for event in events:
        say(f"{event.at:%Y-%m-%d %H:%M:%S}  {event.who}  {event.what}")
    now = story.today(workspace, snapshot, sample_id, mode=settings.mode)
    label = "no label" if now.label is None else f"“{now.label}” ({now.source})"
    say(f"today: {label}: {now.why}")
