"""Settings: where each value comes from, what wins, and one line for what is wrong."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.label_config import ControlChoice
from pipeline.setting_sources import DEMO_ENV, STACK_ENV
from pipeline.settings import load_settings, user_chosen_services


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import os

    for name in list(os.environ):
        if name.startswith("FASTEN_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".fasten").mkdir()
    return tmp_path


def test_arguments_beat_the_environment_beats_the_file_beats_the_stack_beats_the_default(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().review_project is None
    (empty_folder / ".fasten" / STACK_ENV).write_text("FASTEN_REVIEW_PROJECT=stack\n")
    assert load_settings().review_project == "stack"
    (empty_folder / ".fasten" / DEMO_ENV).write_text("FASTEN_REVIEW_PROJECT='the demo'\n")
    assert load_settings().review_project == "the demo"
    (empty_folder / "fasten.toml").write_text('review_project = "file"\n')
    assert load_settings().review_project == "file"
    monkeypatch.setenv("FASTEN_REVIEW_PROJECT", "environment")
    assert load_settings().review_project == "environment"
    assert load_settings(review_project="argument").review_project == "argument"
    assert load_settings(review_project=None).review_project == "environment"


def test_a_service_that_the_user_points_at_is_not_ours_to_start(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_folder / ".fasten" / STACK_ENV).write_text(
        "FASTEN_LABEL_STUDIO_URL=http://127.0.0.1:1\nFASTEN_PREFECT_API_URL=http://127.0.0.1:2/api\n"
    )
    assert user_chosen_services() == frozenset()
    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    (empty_folder / "fasten.toml").write_text('prefect_api_url = "http://prefect.example/api"\n')
    assert user_chosen_services() == {"mlflow", "prefect"}


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('rho = "high"', "rho (FASTEN_RHO"),
        ("rho = -1", "rho (FASTEN_RHO"),
        ("target_precision = 1.0", "target_precision (FASTEN_TARGET_PRECISION"),
        ("target_precision = 0.5", "target_precision (FASTEN_TARGET_PRECISION"),
        ('labl_project = "7"', "labl_project"),
        (
            'leave_out_annotators = [7, "ann"]',
            "'ann' is no user of Label Studio: give an id as 7, or an e-mail address",
        ),
        ("leave_out_annotators = [0]", "leave_out_annotators (FASTEN_LEAVE_OUT_ANNOTATORS"),
        ('skipped = "maybe"', "skipped (FASTEN_SKIPPED"),
        ('drafts = "all"', "drafts (FASTEN_DRAFTS"),
        ('multiple_choices = "first"', "multiple_choices (FASTEN_MULTIPLE_CHOICES"),
        ('label_studio_url = "localhost"', "http://host:port"),
        ('label_studio_url = "http://me:secret@host"', "no user name or password"),
        ("folds = 0", "folds (FASTEN_FOLDS"),
        ("folds = 3\nholdout = 0.5", "holdout is of one model, and folds 3 hold every audit out once"),
        ("rho = ", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(empty_folder: Path, toml: str, says: str) -> None:
    (empty_folder / "fasten.toml").write_text(toml + "\n")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["images.example.com", '["images.example.com"', "7"])
def test_a_list_in_the_environment_that_is_none_says_what_one_looks_like(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("FASTEN_ALLOWED_IMAGE_HOSTS", text)
    with pytest.raises(ConfigError, match=r"setting allowed_image_hosts \(FASTEN_ALLOWED_IMAGE_HOSTS, or"):
        load_settings()
    if text != "7":
        with pytest.raises(ConfigError, match='list in JSON, such as \'\\["one", "another"\\]\''):
            load_settings()


def test_a_token_shows_neither_in_the_settings_nor_in_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TOKEN", "abcdef0123456789")
    settings = load_settings()
    assert "abcdef" not in repr(settings) + repr(settings.label_studio) + settings.model_dump_json()
    assert settings.label_studio.url == "http://127.0.0.1:1"


def test_a_slow_label_studio_may_be_given_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TOKEN", "abcdef0123456789")
    assert load_settings().label_studio.timeout_s == 300
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TIMEOUT", "900")
    assert load_settings().label_studio.timeout_s == 900
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TIMEOUT", "0")
    with pytest.raises(ConfigError, match="FASTEN_LABEL_STUDIO_TIMEOUT"):
        load_settings()


@pytest.mark.parametrize("concern", ["label_studio", "tracking"])
def test_a_missing_service_says_how_to_get_one(concern: str) -> None:
    with pytest.raises(ConfigError, match="fasten up"):
        getattr(load_settings(), concern)


def test_an_empty_token_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_TOKEN", " ")
    with pytest.raises(ConfigError, match="FASTEN_LABEL_STUDIO_TOKEN"):
        _ = load_settings().label_studio


def test_a_project_may_be_given_as_a_number_and_an_empty_one_is_none(empty_folder: Path) -> None:
    (empty_folder / "fasten.toml").write_text('labels_project = 7\naudit_project = ""\n')
    settings = load_settings()
    assert (settings.labels_project, settings.audit_project) == ("7", None)


def test_a_shared_mlflow_takes_our_runs_under_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert (load_settings().tracking.experiment, load_settings().tracking.model_name) == ("fasten", "fasten")
    monkeypatch.setenv("FASTEN_MLFLOW_EXPERIMENT", "team a")
    monkeypatch.setenv("FASTEN_MLFLOW_MODEL_NAME", "digits")
    assert (load_settings().tracking.experiment, load_settings().tracking.model_name) == ("team a", "digits")


def test_the_demonstrations_queue_is_no_queue_for_another_labels_project(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_folder / ".fasten" / DEMO_ENV).write_text(
        "FASTEN_LABELS_PROJECT=1\nFASTEN_REVIEW_PROJECT='the demo, review'\nFASTEN_HORIZONTAL_FLIP=true\n"
    )
    assert load_settings().review_project == "the demo, review"
    monkeypatch.setenv("FASTEN_LABELS_PROJECT", "7")
    settings = load_settings()
    assert (settings.labels_project, settings.review_project, settings.horizontal_flip) == ("7", None, None)


def test_the_demonstrations_own_rounds_train_as_later_rounds_on_its_project_do(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_folder / ".fasten" / DEMO_ENV).write_text(
        "FASTEN_LABELS_PROJECT=1\nFASTEN_AUDIT_PROJECT=2\nFASTEN_REVIEW_PROJECT='demo, review'\n"
        "FASTEN_HORIZONTAL_FLIP=true\n"
    )
    named = load_settings(labels_project="1", audit_project="2", review_project="demo, review")
    assert named == load_settings(), "or the next round trains the same labels again"
    assert named.horizontal_flip
    monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", "https://labels.example.com")
    assert load_settings(labels_project="1").review_project is None, "project 1 of another server is not the demo's"


@pytest.mark.parametrize("where", ["file", "environment", "argument"])
def test_the_embedded_login_is_offered_to_no_other_label_studio(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (empty_folder / ".fasten" / STACK_ENV).write_text(
        "FASTEN_LABEL_STUDIO_URL=http://127.0.0.1:1\nFASTEN_LABEL_STUDIO_TOKEN=embedded\n"
        "FASTEN_LABEL_STUDIO_USERNAME=admin\nFASTEN_LABEL_STUDIO_PASSWORD=embedded\n"
        "FASTEN_PREFECT_API_URL=http://127.0.0.1:2/api\n"
    )
    assert load_settings(label_studio_url="http://127.0.0.1:1/").label_studio.token.get_secret_value() == "embedded"
    theirs = "https://labels.example.com"
    if where == "file":
        (empty_folder / "fasten.toml").write_text(f'label_studio_url = "{theirs}"\n')
    elif where == "environment":
        monkeypatch.setenv("FASTEN_LABEL_STUDIO_URL", theirs)
    settings = load_settings(label_studio_url=theirs if where == "argument" else None)
    assert settings.label_studio_url == theirs
    with pytest.raises(ConfigError, match=f"no token for Label Studio at {theirs}"):
        _ = settings.label_studio
    assert (settings.label_studio_username, settings.label_studio_password) == (None, None)
    assert settings.prefect_api_url == "http://127.0.0.1:2/api"


def test_the_home_can_only_be_moved_by_the_environment(empty_folder: Path) -> None:
    (empty_folder / "fasten.toml").write_text('home = "/elsewhere"\n')
    with pytest.raises(ConfigError, match="FASTEN_HOME"):
        load_settings()


def test_how_labels_are_found_and_which_answers_count_is_set_in_the_file(empty_folder: Path) -> None:
    assert load_settings().control == ControlChoice()
    (empty_folder / "fasten.toml").write_text(
        'label_control = "kind"\nimage_field = "$photo"\nmultiple_choices = "single"\n'
        'leave_out_annotators = [7, "user:8", "ann@example.org"]\nskipped = "ignore"\ndrafts = "count"\n'
    )
    settings = load_settings()
    assert settings.control == ControlChoice(name="kind", image_field="photo", multiple="single")
    assert settings.leave_out_annotators == ("7", "user:8", "ann@example.org")
    assert (settings.skipped, settings.drafts) == ("ignore", "count")


def test_an_empty_name_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEN_LABEL_CONTROL", "")
    monkeypatch.setenv("FASTEN_IMAGE_FIELD", "")
    assert load_settings().control == ControlChoice()


@pytest.mark.parametrize(
    ("toml", "folds"),
    [
        ("", 1),
        ('mode = "auto"', 3),
        ('mode = "auto"\nfolds = 1', 1),
        ('mode = "auto"\nholdout = 0.5', 1),
        ("folds = 5", 5),
        ("folds = 1\nholdout = 0.5", 1),
    ],
)
def test_a_promise_takes_several_models_unless_told(empty_folder: Path, toml: str, folds: int) -> None:
    (empty_folder / "fasten.toml").write_text(toml + "\n")
    assert load_settings().audit_folds == folds
