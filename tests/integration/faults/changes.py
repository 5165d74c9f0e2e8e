"""What people do in Label Studio between two pulls."""

import random
from typing import Any

from pipeline.label_studio import LabelStudio
from pipeline.records import Project
from tests.integration.faults.api import call
from tests.integration.faults.world import CLASSES, World, answer


class Desk:
    """What people can do to tasks and answers."""

    def __init__(self, door: LabelStudio) -> None:
        self._door = door

    def tasks(self, project: Project) -> list[Any]:
        """Every task with its annotations, by sample."""
        raw = call(
            self._door, "GET", f"/api/projects/{project.project_id}/export", params={"download_all_tasks": "true"}
        )
        return sorted(raw, key=lambda task: str(task["data"].get("sample_id")))

    def answer(self, task: Any, label: str, **changes: Any) -> None:
        call(self._door, "POST", f"/api/tasks/{task['id']}/annotations/", json=answer(label, **changes))

    def skip(self, task: Any) -> None:
        call(self._door, "POST", f"/api/tasks/{task['id']}/annotations/", json={"result": [], "was_cancelled": True})

    def edit(self, annotation: Any, label: str) -> None:
        call(self._door, "PATCH", f"/api/annotations/{annotation['id']}/", json=answer(label))

    def flip(self, annotation: Any, ground_truth: bool) -> None:
        call(self._door, "PATCH", f"/api/annotations/{annotation['id']}/", json={"ground_truth": ground_truth})

    def delete_annotation(self, annotation: Any) -> None:
        call(self._door, "DELETE", f"/api/annotations/{annotation['id']}/")

    def delete_task(self, task: Any) -> None:
        call(self._door, "DELETE", f"/api/tasks/{task['id']}/")


def people_work(world: World, door: LabelStudio, *, seed: int = 0) -> None:
    """Edits, answers, skips, flips of ground truth, deleted annotations and tasks, new tasks; all of them at once.

    Another `seed` chooses other tasks, for a second time.
    """
    desk = Desk(door)
    answered = [task for task in desk.tasks(world.labels) if len(task["annotations"]) == 1]
    plain = [task for task in answered if not task["annotations"][0]["was_cancelled"]]
    chosen = random.Random(seed).sample(plain, 18)
    edited, again, skipped, truth, emptied, gone = (chosen[i : i + 3] for i in range(0, 18, 3))
    for number, task in enumerate(edited):
        desk.edit(task["annotations"][0], CLASSES[number])
    for number, task in enumerate(again):
        desk.answer(task, CLASSES[number])
    for task in skipped:
        desk.skip(task)
    for task in truth:
        desk.flip(task["annotations"][0], True)
    for task in emptied:
        desk.delete_annotation(task["annotations"][0])
    for task in gone:
        desk.delete_task(task)
    flipped = [each for task in desk.tasks(world.labels) for each in task["annotations"] if each["ground_truth"]]
    desk.flip(flipped[-1], False)
    for task in desk.tasks(world.audit)[seed : seed + 1]:
        desk.edit(task["annotations"][0], CLASSES[seed % 3])
    new = [
        {
            "data": {"image": f"/data/local-files/?d=pictures/{number:03d}.png", "sample_id": f"new-{seed}-{number}"},
            "annotations": [answer(CLASSES[number], completed_by=flipped[0]["completed_by"])],
        }
        for number in range(3)
    ]
    door.import_tasks(world.labels.project_id, new)
