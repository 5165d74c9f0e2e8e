"""Two hundred tasks of strangers in a real server: a pull takes them all, uses the sound ones, counts the rest."""

import hashlib
import json
from collections.abc import Iterable

import httpx
import pyarrow.parquet as pq

from pipeline.images import ImageStore
from pipeline.label_studio import LabelStudio
from pipeline.snapshot import latest_snapshot
from tests.integration.faults import hostile
from tests.integration.faults.bench import Bench
from tests.integration.faults.world import CONFIG, picture

GOOD = 30
RANDOM = 60


def enter(door: LabelStudio, project_id: int, entries: Iterable[hostile.Entry]) -> list[str]:
    """Import what Label Studio takes; the names of it."""
    headers = {**door.authorization(), "content-type": "application/json"}
    path = f"{door.url}/api/projects/{project_id}/import"
    taken: list[str] = []
    with httpx.Client(timeout=60) as client:

        def fits(group: list[hostile.Entry]) -> bool:
            body = json.dumps([entry for _, entry in group])
            answer = client.post(path, headers=headers, content=body)
            return answer.is_success and answer.json()["task_count"] == len(group)

        def halves(group: list[hostile.Entry]) -> None:
            # A refused import leaves nothing behind, so whom it was refused for is found by halves.
            if fits(group):
                taken.extend(name for name, _ in group)
            elif len(group) > 1:
                halves(group[: len(group) // 2])
                halves(group[len(group) // 2 :])

        halves(list(entries))
    return taken


def test_hostile_tasks_are_counted_and_the_sound_ones_arrive(bench: Bench, door: LabelStudio) -> None:
    files = bench.world.server.files / "hostile"
    files.mkdir()
    project = door.create_project("hostile", CONFIG)
    groups = {
        "sound": [*hostile.good(GOOD), *hostile.odd_but_sound()],
        "bad": [*hostile.bad_images(files), *hostile.odd_answers(), *hostile.odd_ids()],
        "random": list(hostile.random_tasks(RANDOM)),
    }
    entered = {name: enter(door, project.project_id, entries) for name, entries in groups.items()}
    assert len(entered["sound"]) == len(groups["sound"])
    assert len(entered["bad"]) > 100
    assert len(entered["random"]) > RANDOM / 2

    home = bench.home()
    settings = {
        "labels_project": str(project.project_id),
        "audit_project": "",
        "max_image_bytes": str(hostile.MOST_BYTES),
    }
    bench.complete("pull", home, settings=settings)
    folder = home / ".fasten" / "data" / f"project-{project.project_id}"
    snapshot = latest_snapshot(folder)
    assert snapshot is not None
    used = {row["sample_id"] for row in pq.read_table(snapshot.noisy_path).to_pylist()}
    sound = {str(entry["data"]["sample_id"]) for _, entry in groups["sound"]}
    bad = {str(entry["data"]["sample_id"]) for _, entry in groups["bad"]}
    assert sound <= used
    assert not bad & used
    counted = sum(snapshot.manifest.rejected.values())
    assert len(entered["bad"]) <= counted <= len(entered["bad"]) + 3 * len(entered["random"])
    assert len(snapshot.manifest.rejected) > 15, "each for its reason"

    given = {hashlib.sha256(data).hexdigest() for data in (*map(picture, range(GOOD)), hostile.POLYGLOT)}
    with ImageStore(folder) as store:
        kept = {sha for part in store.parts() for sha in pq.read_table(part)["image_sha256"].to_pylist()}
    assert kept <= given, "no file of this machine, and nothing but whole pictures"
    again = bench.complete("pull", home, settings=settings)
    assert snapshot.snapshot_id in again.out
