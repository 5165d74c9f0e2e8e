"""Every labels project has a queue of its own, however long its title."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from pipeline import loop
from pipeline.label_studio import LabelStudio
from pipeline.loop import Found
from pipeline.loop.plans import keep_plan
from pipeline.review_screen import REVIEW_CONTROL, review_config
from pipeline.settings import Settings
from pipeline.triage import Plan
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tests.integration.conftest import LabelStudioServer

CLASSES = ("cat", "dog")


def test_labels_projects_with_the_longest_titles_have_queues_of_their_own(
    label_studio: "LabelStudioServer", door: LabelStudio, tmp_path: Path
) -> None:
    queues = []
    for end in "ab":
        labels = door.create_project(f"changes {'ä' * 41}{end}", review_config(CLASSES), control=REVIEW_CONTROL)
        settings = Settings(
            label_studio_url=label_studio.url,
            label_studio_token=SecretStr(label_studio.token),
            data_dir=tmp_path / end,
            labels_project=str(labels.project_id),
        )
        found = Found(labels=labels, audit=None, review=None, states=(), fingerprint="", nothing_new="")
        path = Workspace.of(settings, labels.project_id).run_folder("run-1") / "queue.json"
        keep_plan(Plan.of([]), path)
        title = loop.push_queue(settings, found, path).title
        assert loop.push_queue(settings, found, path).title == title
        queues.append(door.find_project(title, control=REVIEW_CONTROL).project_id)
    assert len(set(queues)) == 2
