"""What a round needs before it makes a run in MLflow, which would keep its snapshot."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import DataError
from pipeline.loop import Pulled, model
from pipeline.records import LabelControl, Project
from pipeline.settings import Settings
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.snapshot import Snapshot


class Tracking:
    """An MLflow in which no run may be made."""

    def __init__(self, _: Any) -> None: ...

    def find_finished(self, _: str) -> None:
        return None

    def start(self, *_: Any, **__: Any) -> None:
        pytest.fail("a run was made")


@pytest.mark.parametrize(
    ("noisy", "clean", "classes", "says"),
    [
        ({"a": "dark", "b": "grey"}, {}, ("dark", "grey"), "the clean set is empty: audit some"),
        ({}, {"c": ("dark", None, "audit")}, ("dark", "grey"), "there is no bulk label to learn from"),
        ({"a": "dark"}, {"c": ("dark", None, "audit")}, ("dark",), "there is only one class"),
    ],
)
def test_what_cannot_be_trained_on_makes_no_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_snapshot: Callable[..., "Snapshot"],
    noisy: dict[str, str],
    clean: dict[str, Any],
    classes: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setattr(model, "Tracking", Tracking)
    settings = Settings(data_dir=tmp_path, mlflow_tracking_uri="http://127.0.0.1:1")
    workspace = Workspace.of(settings, 7)
    snapshot = make_snapshot(workspace.folder, noisy=noisy, clean=clean, classes=classes)
    control = LabelControl(name="label", to_name="image", image_field="image", classes=classes)
    pulled = Pulled(
        labels=Project(project_id=7, title="cats", control=control),
        snapshot=snapshot.path,
        snapshot_id=snapshot.snapshot_id,
        fingerprint="now",
        nothing_new="",
    )
    with pytest.raises(DataError, match=says):
        model.train_model(settings, pulled)
    assert not (workspace.folder / "runs").exists()
