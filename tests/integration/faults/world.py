"""A small labelling team's two projects in a real Label Studio, and what is compared after a fault: the end states."""

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import scoring
from pipeline.images import ImageStore
from pipeline.label_studio import LabelStudio
from pipeline.review_screen import REVIEW_CONTROL
from pipeline.schema import SCORES
from pipeline.snapshot import Snapshot, latest_snapshot
from pipeline.trail import asked_rows
from pipeline.workspace import Completed, Workspace, write_whole
from tests.integration.faults.api import call

CLASSES = ("dark", "grey", "bright")
_LEVELS = (40, 128, 215)
TASKS = 90
AUDITS = 15
RUN = "the-run"
"""Key of the round that `complete_round` pretends to have made."""
CONFIG = """<View><Image name="image" value="$image"/><Choices name="label" toName="image">
<Choice value="dark"/><Choice value="grey"/><Choice value="bright"/></Choices></View>"""


class Server(Protocol):
    """What a world needs of its server."""

    @property
    def url(self) -> str: ...
    @property
    def files(self) -> Path: ...
    @property
    def token(self) -> str: ...


def picture(number: int) -> bytes:
    """A noisy 8×8 PNG like no other."""
    noise = np.random.default_rng(number).integers(-35, 36, size=(8, 8))
    buffer = io.BytesIO()
    Image.fromarray((_LEVELS[number % 3] + noise).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def answer(label: str, **changes: Any) -> dict[str, Any]:
    """An annotation as it is imported, or submitted."""
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"result": [region], "ground_truth": False, **changes}


def _task(number: int, people: tuple[int, int]) -> dict[str, Any]:
    """One of the labels project: most labels are right, some tasks have two answers, ground truth, a skip, none."""
    right = CLASSES[number % 3]
    given = CLASSES[(number + (number % 7 == 0)) % 3]
    answers = [answer(given, completed_by=people[0], lead_time=2.5)]
    if number % 10 == 1:
        answers.append(answer(right, completed_by=people[1]))
    if number % 25 == 2:
        answers.append(answer(right, completed_by=people[1], ground_truth=True))
    if number % 50 == 3:
        answers = [answer(right, completed_by=people[0], was_cancelled=True)]
    url = f"/data/local-files/?d=pictures/{number:03d}.png"
    if number % 100 == 4:
        url = f"http://images.invalid/{number}.png"
    return {
        "data": {"image": url, "sample_id": f"s{number:03d}"},
        "annotations": [] if number % 100 == 5 else answers,
    }


class World:
    """The projects, and how a command is told of them."""

    def __init__(self, server: Server, door: LabelStudio, *, name: str = "faults", tasks: int = TASKS) -> None:
        self.server = server
        me = call(door, "GET", "/api/current-user/whoami")["id"]
        other = door.add_user(f"{name}@fasten.local", "a-password-of-tests").user_id
        self.people = (me, other)
        """Ids of the two who answer: the administrator, and a colleague."""
        pictures = server.files / "pictures"
        pictures.mkdir(exist_ok=True)
        for number in range(tasks):
            (pictures / f"{number:03d}.png").write_bytes(picture(number))
        self.labels = door.create_project(name, CONFIG)
        self.audit = door.create_project(f"{name}, audit", CONFIG)
        for project in (self.labels, self.audit):
            storage = {"project": project.project_id, "path": str(pictures), "use_blob_urls": True}
            call(door, "POST", "/api/storages/localfiles/", json=storage)
        door.import_tasks(self.labels.project_id, [_task(number, (me, other)) for number in range(tasks)])
        audits = [
            {**_task(number, (me, other)), "annotations": [answer(CLASSES[number % 3], completed_by=me)]}
            for number in range(AUDITS)
        ]
        door.import_tasks(self.audit.project_id, audits)

    def environment(self, *, url: str | None = None, from_disk: bool = True, **settings: str) -> dict[str, str]:
        """What a command is told; `url` where it goes through a proxy, `settings` by their names in small letters."""
        told = {
            "label_studio_url": url or self.server.url,
            "label_studio_token": self.server.token,
            "labels_project": str(self.labels.project_id),
            "audit_project": str(self.audit.project_id),
            "device": "cpu",
            **({"local_files_root": str(self.server.files)} if from_disk else {}),
            **settings,
        }
        return {f"FASTEN_{name.upper()}": value for name, value in told.items()}

    def workspace(self, home: Path) -> Workspace:
        """Where a command that ran in `home` keeps this labels project."""
        return Workspace(folder=home / ".fasten" / "data" / f"project-{self.labels.project_id}")

    def snapshot(self, home: Path) -> Snapshot:
        """The one that the last pull in `home` gave, verified."""
        found = latest_snapshot(self.workspace(home).folder)
        assert found is not None
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """The end state of a pull: equal where nothing was lost, and nothing came twice."""

    snapshot_id: str
    rows: Mapping[str, int]
    rejected: Mapping[str, int]
    images: frozenset[str]
    """Hashes of the images in the store that the snapshot refers to and that are there."""


def pulled(world: World, home: Path) -> Pulled:
    """What a pull in `home` has come to, everything checked against the manifest's hashes."""
    snapshot, folder = world.snapshot(home), world.workspace(home).folder
    assert not (folder / ".staging").exists()
    wanted = {
        sha
        for path in (snapshot.noisy_path, snapshot.clean_path, snapshot.undecided_path)
        for sha in pq.read_table(path, columns=["image_sha256"])["image_sha256"].to_pylist()
        if sha is not None
    }
    with ImageStore(folder) as store:
        there = frozenset(sha for sha, _ in store.iter_images(wanted))
        kept = Counter(
            sha for part in store.parts() for sha in pq.read_table(part, columns=["image_sha256"])[0].to_pylist()
        )
    assert set(kept.values()) == {1}, "an image is kept twice"
    return Pulled(
        snapshot_id=snapshot.snapshot_id,
        rows=snapshot.manifest.rows,
        rejected=snapshot.manifest.rejected,
        images=there,
    )


def complete_round(world: World, home: Path) -> Path:
    """Scores for the last snapshot, as if a round had been completed: what `fasten push` goes by; → the run's folder.

    The doubts are drawn by seed. No model was trained: these tests are about what happens around it.
    """
    snapshot, workspace = world.snapshot(home), world.workspace(home)
    rows = []
    random = np.random.default_rng(0)
    for row in pq.read_table(snapshot.noisy_path).to_pylist():
        doubt = float(random.uniform(0.05, 0.95))
        other = next(name for name in CLASSES if name != row["label"])
        wrong = doubt > 0.5
        q = [doubt if name == other else (1 - doubt) if name == row["label"] else 0.0 for name in CLASSES]
        rows.append(
            {
                "sample_id": row["sample_id"],
                "given_label": row["label"],
                "suggested_label": row["label"],
                "model_label": other if wrong else row["label"],
                "model_label_probability": max(q),
                "confidence": max(q),
                "given_label_probability": 1 - doubt,
                "error_probability": doubt,
                "posterior": q,
                "decision": "low_confidence" if wrong else "keep",
                "priority": doubt,
                "model_version": "faults/1",
            }
        )
    folder = workspace.run_folder(RUN)
    scoring.write_scores(pa.Table.from_pylist(rows, schema=SCORES), folder / "scores.parquet")
    never = {"rho": 2.0, "per_class": None, "target_precision": 0.95, "sentence": "relabels nothing"}
    write_whole(folder / "fitted.json", json.dumps({"relabels": never}).encode())
    workspace.remember(
        Completed(fingerprint="", snapshot_id=snapshot.snapshot_id, config="", run_key=RUN),
    )
    return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """The end state of a push: the questions with everything that is theirs, each once, and what people said."""

    tasks: tuple[str, ...]
    """Of each: data, predictions and answers as JSON, sorted."""
    asked: tuple[str, ...]
    """Push keys in the trail."""

    def unlike(self, other: "Queued") -> str:
        """What differs, in words."""
        ours, theirs = set(self.tasks) - set(other.tasks), set(other.tasks) - set(self.tasks)
        return f"only here: {len(ours)}, {min(ours, default='')}; only there: {len(theirs)}, {min(theirs, default='')}"


def queued(world: World, home: Path, door: LabelStudio, title: str) -> Queued:
    """What the queue of that title holds, by the server's own export."""
    number = door.find_project(title, control=REVIEW_CONTROL).project_id
    raw = call(door, "GET", f"/api/projects/{number}/export", params={"download_all_tasks": "true"})
    predictions: dict[int, list[Any]] = {}
    for each in call(door, "GET", "/api/predictions/", params={"project": number}):
        predictions.setdefault(each["task"], []).append([each["score"], each["model_version"], each["result"]])
    tasks = [
        {
            "data": task["data"],
            "predictions": predictions.get(task["id"], []),
            "answers": [each["result"] for each in task["annotations"]],
        }
        for task in raw
    ]
    keys = [task["data"]["push_key"] for task in tasks]
    assert len(set(keys)) == len(keys), "a question is there twice"
    asked = [row["push_key"] for row in asked_rows(world.workspace(home))]
    assert len(set(asked)) == len(asked)
    return Queued(tasks=tuple(sorted(json.dumps(task, sort_keys=True) for task in tasks)), asked=tuple(sorted(asked)))
