"""The demonstration's own arithmetic and order; its rounds are played for real elsewhere."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import loop, orchestrator
from pipeline.demo import play
from pipeline.demo.enter import Entered
from pipeline.demo.records import DemoDataset, DemoSample, HeldOut
from pipeline.demo.review import Reviewed
from pipeline.demo.scoreboard import RoundRow, load_rows
from pipeline.errors import ConfigError, ServiceError
from pipeline.orchestrator import RunOutcome
from pipeline.records import LabelControl, Project
from pipeline.schema import CLEAN, NOISY, SCORES, UNDECIDED
from pipeline.settings import load_settings
from pipeline.workspace import Completed, Workspace

CONTROL = LabelControl(name="label", to_name="image", image_field="image", classes=("cat", "dog"))
LABELS, AUDIT = (Project(project_id=n, title=f"project {n}", control=CONTROL) for n in (7, 8))
ENTERED = Entered(labels=LABELS, audit=AUDIT, tasks=3, added=0)
OUTCOME = RunOutcome(
    flow_run_id="1",
    name="brave-otter",
    state_type="COMPLETED",
    state_name="Completed",
    message="done",
    url="http://run",
)


def dataset(truths: Mapping[str, str], *, name: str = "digits", held_out: Sequence[str] = ()) -> DemoDataset:
    return DemoDataset(
        name=name,
        classes=("cat", "dog"),
        samples=tuple(DemoSample(sample_id=s, image=b"", truth=t, votes=()) for s, t in truths.items()),
        held_out=tuple(HeldOut(image=b"image", truth=truth) for truth in held_out),
        native_size=8,
    )


@pytest.fixture
def running_stack(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings as `fasten up` leaves them."""
    for name, value in (
        ("LABEL_STUDIO_URL", "http://127.0.0.1:1"),
        ("LABEL_STUDIO_TOKEN", "f" * 40),
        ("LABEL_STUDIO_PASSWORD", "hush"),
        ("PREFECT_API_URL", "http://127.0.0.1:2/api"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:3"),
    ):
        monkeypatch.setenv(f"FASTEN_{name}", value)
    return own_folder


def test_every_phase_says_how_long_it_took_and_an_error_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with play.phase("reading"):
        pass
    with pytest.raises(ServiceError), play.phase("asking"):
        raise ServiceError("no")
    first, second, third = (record.getMessage() for record in caplog.records)
    assert (first, third) == ("▸ reading", "▸ asking")
    assert second.startswith("✓ reading: 0.")


def test_the_baseline_trains_in_silence_and_the_loop_is_heard_again() -> None:
    training = logging.getLogger("fasten_model")
    before = training.level
    with play._quiet_training():
        assert not training.isEnabledFor(logging.INFO)
    assert training.level == before
    with pytest.raises(ServiceError), play._quiet_training():
        raise ServiceError("no")
    assert training.level == before


@pytest.mark.parametrize(("name", "flips"), [("digits", False), ("parquet", False), ("cifar10n", True)])
def test_the_demonstrations_projects_become_everybodys_defaults(own_folder: Path, name: str, flips: bool) -> None:
    play._point_settings_at(load_settings(), ENTERED, f"FasTEN demo: {name}, review # 1", dataset({}, name=name))
    settings = load_settings()
    assert (settings.labels_project, settings.audit_project) == ("7", "8")
    assert settings.review_project == f"FasTEN demo: {name}, review # 1"
    assert settings.horizontal_flip is flips
    assert [path.name for path in (own_folder / ".fasten").iterdir()] == ["demo.env"]


@pytest.mark.usefixtures("own_folder")
def test_without_a_label_studio_of_its_own_nothing_is_entered() -> None:
    with pytest.raises(ConfigError, match="FASTEN_LABEL_STUDIO_PASSWORD"):
        play.play(load_settings(), dataset({}), reviews=1)


def test_a_round_that_does_not_complete_ends_the_demonstration_with_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_run(_: str, *, parameters: Mapping[str, Any]) -> str:
        assert parameters == {"labels_project": "7", "audit_project": "8", "review_project": "r"}
        return "1"

    ended = RunOutcome(
        flow_run_id="1",
        name="brave-otter",
        state_type="FAILED",
        state_name="Failed",
        message="no token",
        url="http://run",
    )
    monkeypatch.setattr(orchestrator, "start_run", start_run)
    monkeypatch.setattr(orchestrator, "follow_run", lambda *_, **__: ended)
    with pytest.raises(ServiceError, match=r"brave-otter ended Failed: no token \(http://run\)"):
        play._retrain("http://127.0.0.1:2/api", ENTERED, "r")
    monkeypatch.setattr(orchestrator, "follow_run", lambda *_, **__: OUTCOME)
    assert play._retrain("http://127.0.0.1:2/api", ENTERED, "r") is OUTCOME


def row(number: int) -> RoundRow:
    return RoundRow(
        round_number=number, labels=4, wrong_before=2, wrong_after=1, wrong_if_taken=1, accuracy=None,
        plain_accuracy=None, waiting=1,
    )  # fmt: skip


def test_two_rounds_the_first_time_and_one_more_with_each_further_call(
    running_stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def review(_settings: Any, _data: Any, _entered: Any, _title: str, count: int, *, seed: int) -> Reviewed:
        done.append(f"review {count} with seed {seed}")
        return cast(Reviewed, None)

    def retrain(*_: object) -> RunOutcome:
        done.append("retrain")
        return OUTCOME

    def judge(*_: object, number: int, reviewed: object) -> tuple[RoundRow, str]:
        del reviewed
        done.append(f"judge {number}")
        return row(number), "http://mlflow"

    monkeypatch.setattr(play, "LabelStudio", lambda _: nullcontext())
    monkeypatch.setattr(play, "enter_dataset", lambda *_, **__: ENTERED)
    monkeypatch.setattr(play, "_let_people_review", review)
    monkeypatch.setattr(play, "_retrain", retrain)
    monkeypatch.setattr(play, "_judge", judge)
    monkeypatch.setattr(play, "_links", lambda *_: {"MLflow run": "http://mlflow"})
    played = play.play(load_settings(), dataset({}), reviews=150)
    assert done == ["retrain", "judge 1", "review 150 with seed 1", "retrain", "judge 2"]
    assert played.links == {"MLflow run": "http://mlflow"}
    done.clear()
    played = play.play(load_settings(), dataset({}), reviews=20)
    assert done == ["review 20 with seed 2", "retrain", "judge 3"]
    assert [r.round_number for r in played.rows] == [1, 2, 3]
    assert [r.round_number for r in load_rows(running_stack / ".fasten" / "demo" / "digits.json")] == [1, 2, 3]
    done.clear()
    monkeypatch.setattr(play, "enter_dataset", lambda *_, **__: Entered(labels=LABELS, audit=AUDIT, tasks=3, added=1))
    played = play.play(load_settings(), dataset({}), reviews=20)
    assert [r.round_number for r in played.rows] == [1, 2], "other labels than those of the board: it begins anew"


def score(sample_id: str, given: str, suggested: str, decision: str) -> dict[str, Any]:
    plain: dict[str, Any] = dict.fromkeys(SCORES.names, 0.5)
    plain |= {"model_label": suggested, "model_version": "1", "posterior": [0.5, 0.5]}
    return plain | {"sample_id": sample_id, "given_label": given, "suggested_label": suggested, "decision": decision}


def decided(sample_id: str, label: str, given: str | None, provenance: str) -> dict[str, Any]:
    plain = dict.fromkeys(CLEAN.names) | {"votes": [], "image_sha256": "0", "auditor": "1", "audited_at": 0}
    return plain | {"sample_id": sample_id, "label": label, "given_label": given, "provenance": provenance}


def test_the_row_counts_wrong_labels_over_corrected_reviewed_and_audited_ones_alike(
    running_stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings()
    workspace = Workspace.of(settings, LABELS.project_id)
    run = workspace.run_folder("key")
    run.mkdir(parents=True)
    workspace.remember(Completed(fingerprint="f", snapshot_id="s", config="c", run_key="key"))
    scores = [
        score("right", "cat", "cat", "keep"),
        score("corrected", "dog", "cat", "relabel"),
        score("corrected too", "dog", "cat", "relabel"),
        score("spoilt", "cat", "dog", "relabel"),
        score("left wrong", "dog", "dog", "low_confidence"),
        score("of unknown truth", "dog", "dog", "low_confidence"),
    ]
    pq.write_table(pa.Table.from_pylist(scores, schema=SCORES), run / "scores.parquet")
    clean = [
        decided("audited", "cat", "dog", "audit"),
        decided("reviewed wrongly", "dog", "cat", "review"),
        decided("audited only", "cat", None, "audit"),
    ]
    given = {each["sample_id"]: each["given_label"] for each in scores}
    plain = {"image_sha256": "0", "image_url": "", "votes": []}
    noisy = [plain | {"sample_id": name, "label": label} for name, label in sorted(given.items())]
    disputed = plain | {"sample_id": "disputed", "label": "dog", "state": "disputed", "answers": []}
    unusable = plain | {"sample_id": "unusable", "label": "dog", "state": "unusable", "answers": []}
    tables = {"clean": (clean, CLEAN), "noisy": (noisy, NOISY), "undecided": ([disputed, unusable], UNDECIDED)}
    for name, (rows, schema) in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), running_stack / f"{name}.parquet")
    snapshot = SimpleNamespace(
        **{f"{name}_path": running_stack / f"{name}.parquet" for name in tables}, classes=("cat", "dog")
    )
    models = {"fasten": 0.9, "plain": 0.6}

    monkeypatch.setattr(play, "latest_snapshot", lambda folder: snapshot if folder == workspace.folder else None)
    monkeypatch.setattr(play, "load_model", lambda path, **_: "fasten" if path == run / "model" else None)
    monkeypatch.setattr(play, "_plain", lambda *_: "plain")
    monkeypatch.setattr(play, "_accuracy", lambda model, _: models[model])
    queue = [
        SimpleNamespace(waiting=waiting, answers=answers) for waiting, answers in ((True, 0), (True, 1), (False, 0))
    ]
    monkeypatch.setattr(play, "LabelStudio", lambda _: nullcontext(SimpleNamespace(asked=lambda _: queue)))
    monkeypatch.setattr(
        play, "Tracking", lambda _: SimpleNamespace(find_finished=lambda _: SimpleNamespace(url="page"))
    )
    monkeypatch.setattr(loop, "find_review_project", lambda *_: AUDIT)
    truths = {each["sample_id"]: "cat" for each in [*scores, *clean, disputed, unusable]}
    del truths["of unknown truth"]
    reviewed = cast(Reviewed, SimpleNamespace(asked=5, really_wrong=3))
    found, page = play._judge(settings, dataset(truths), ENTERED, number=2, reviewed=reviewed)
    assert page == "page"
    assert found.labels == 9, "what nobody had labelled before is no label that could have been wrong"
    assert found.wrong_before == 6, "corrected, corrected too, left wrong, audited, disputed, unusable"
    assert found.wrong_after == 5, "as given: corrected, corrected too, left wrong, disputed; reviewed wrongly"
    assert found.wrong_if_taken == 4, "spoilt, left wrong, disputed, reviewed wrongly"
    assert (found.accuracy, found.plain_accuracy) == (0.9, 0.6)
    assert found.waiting == 1, "one is answered, one is served no longer"
    assert (found.shown, found.shown_wrong) == (5, 3)


def test_accuracy_is_told_on_the_held_out_images_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sure:
        classes = ("cat", "dog")
        network = None

        def decode(self, images: Sequence[bytes]) -> torch.Tensor:
            assert images == [b"image"] * 4
            return torch.zeros(4, 3, 8, 8)

    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])
    monkeypatch.setattr(play, "predict_logits", lambda *_: (logits, logits))
    model = cast(Any, Sure())
    assert play._accuracy(model, dataset({}, held_out=["cat", "dog", "cat", "cat"])) == 0.75
    assert play._accuracy(model, dataset({})) is None


def test_plain_cross_entropy_learns_what_fasten_learnt_from_and_nothing_held_out(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fasten_model.holding_out import is_held_out
    from fasten_model.labelled import LabelledImages
    from fasten_model.model import load_model

    def loaded(names: list[str], labels: list[int], estimates: bool) -> LabelledImages:
        return LabelledImages(
            sample_ids=tuple(names),
            images=torch.zeros(len(names), 3, 32, 32, dtype=torch.uint8),
            labels=torch.tensor(labels),
            given_labels=torch.full((len(names),), -1),
            estimates=torch.full((len(names),), estimates),
        )

    audited = [f"audited-{i}" for i in range(40)]
    kept = [name for name in audited if not is_held_out(name, 0.25)]
    assert 0 < len(kept) < 40
    seen: list[int] = []

    def train(images: torch.Tensor, labels: torch.Tensor, num_classes: int, _: object) -> Any:
        assert len(images) == len(labels)
        assert num_classes == 3
        seen.extend(labels.tolist())
        return SimpleNamespace(network="plain")

    monkeypatch.setattr(play, "ImageStore", lambda _: nullcontext())
    monkeypatch.setattr(play, "load_noisy", lambda *_, **__: loaded(["a", "b"], [0, 1], False))
    monkeypatch.setattr(play, "load_clean", lambda *_, **__: loaded(audited, [2] * 40, True))
    monkeypatch.setattr(play, "train_cross_entropy", train)
    snapshot = cast(Any, SimpleNamespace(classes=("bright", "dark", "grey")))
    plain = play._plain(load_settings(), snapshot, Workspace(folder=trained), load_model(trained))
    assert seen == [0, 1, *[2] * len(kept)]
    assert cast(Any, plain.network) == "plain"
