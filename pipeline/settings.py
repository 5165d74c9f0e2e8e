"""Every setting of the project: `FASTEN_…` in the environment, then `fasten.toml`, then what the embedded stack wrote.

This is the outer edge: here text becomes the frozen configuration of each concern, and nothing inside the pipeline
reads the environment again. Precedence, highest first: arguments (flow parameters, command-line options), environment,
`fasten.toml` in the working directory, `.fasten/stack.env` (written by `fasten up`), defaults.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from pipeline.answer_filter import Drafts, Skipped, is_annotator
from pipeline.errors import ConfigError
from pipeline.label_config import ControlChoice, MultipleChoices
from pipeline.records import Mode
from pipeline.setting_sources import DEMO_ENV, STACK_ENV, DemoSettings, StackSettings, default_home

if TYPE_CHECKING:  # each owner is imported where it is asked for: `fasten status` need not wait for torch
    from fasten_model.train import TrainConfig
    from pipeline.images import ImageConfig
    from pipeline.label_studio import LabelStudioConfig
    from pipeline.s3 import S3Config
    from pipeline.snapshot_store import StoreConfig
    from pipeline.tracking import TrackingConfig

PROMISING_FOLDS = 3
"""Models that are trained where a promise is to be made (`Settings.audit_folds`)."""
Service = Literal["label-studio", "prefect", "mlflow"]


class Settings(BaseSettings):
    """The whole configuration; one line under each field says what it is."""

    model_config = SettingsConfigDict(
        env_prefix="FASTEN_", toml_file="fasten.toml", frozen=True, extra="forbid", validate_default=True
    )

    home: Path = Field(default_factory=default_home)
    """Folder of the embedded stack."""
    data_dir: Path | None = None
    """Folder of snapshots, images and runs; `<home>/data` unless given."""
    snapshot_store: str | None = None
    """Store that snapshots and images are published to, as `s3://bucket/prefix` or the path of a mounted folder."""

    label_studio_url: str | None = None
    """Base URL of Label Studio."""
    label_studio_token: SecretStr | None = None
    """Legacy token or personal access token."""
    label_studio_username: str | None = None
    """Login of the embedded Label Studio, shown by `fasten status` (no other use)."""
    label_studio_password: SecretStr | None = None
    """Its password (no other use)."""
    label_studio_timeout: float = Field(default=300, gt=0)
    """Seconds that one request to Label Studio may take: imports and exports are answered when they are done, which for
    five thousand tasks are some seconds of an idle server."""
    prefect_api_url: str | None = None
    """Prefect API, as `http://host:port/api`."""
    mlflow_tracking_uri: str | None = None
    """MLflow tracking server, or `sqlite:///…`."""
    mlflow_experiment: str = "fasten"
    """Experiment that the runs are logged under; made if missing."""
    mlflow_model_name: str = "fasten"
    """Registered model that the versions belong to; made if missing."""

    labels_project: str | None = None
    """Id or exact title of the project with the bulk labels."""
    audit_project: str | None = None
    """Id or title of the project with audited labels; none: only `ground_truth` annotations count as audited."""
    review_project: str | None = None
    """Id or title of the reviewers' queue, created if missing; `<title of the labels project>, review` unless given,
    shortened where Label Studio would refuse it."""
    label_control: str | None = None
    """Name of the Choices control, where the labels project has several."""
    image_field: str | None = None
    """Key of task data that holds the image's URL, where it is not that of the Image which the control points at."""
    multiple_choices: MultipleChoices = "refuse"
    """Of a control with `choice="multiple"`: `refuse` it, or take it as if it were `single`: an annotation with one
    class is that class, one with several is counted and decides nothing."""
    leave_out_annotators: tuple[str, ...] = ()
    """Users of Label Studio, as `7`, `user:7` or an e-mail address, whose annotations are not pulled."""
    skipped: Skipped = "takes_back"
    """What a skipped task says: `takes_back` what the same person said of it before, or nothing (`ignore`)."""
    drafts: Drafts = "leave_out"
    """Answers of the labels project that were begun and not submitted: `leave_out`, or `count` each as its author's,
    unless they have submitted one. Label Studio moves no task's `updated_at` for a draft: with `count`, each round asks
    for all of them, one request for each task that has any."""

    local_files_root: Path | None = None
    """Label Studio's LOCAL_FILES_DOCUMENT_ROOT, where this machine can read it."""
    allowed_image_hosts: tuple[str, ...] = ()
    """Further hosts that images may be fetched from."""
    allowed_image_buckets: tuple[str, ...] = ()
    """Buckets, as `bucket` or `bucket/prefix`, whose `s3://` images this machine reads by itself."""
    max_image_bytes: int = Field(default=20_000_000, gt=0)
    """Larger images are left out and counted."""
    max_image_pixels: int = Field(default=40_000_000, gt=0)
    """Images of more pixels are left out and counted, before they are decoded."""

    s3_endpoint: str | None = None
    """Object store other than AWS, as `http://host:port`; credentials come from the AWS environment."""
    s3_region: str | None = None
    """Region of the buckets; the AWS environment's unless given."""

    preset: Literal["small", "resnet18", "resnet34", "paper", "fast"] = "small"
    """Trunk and everything that goes with it: `small` for 8×8–32×32 images on two CPU cores."""
    epochs: int | None = Field(default=None, gt=0)
    """Training epochs; the preset's unless given."""
    target_precision: float = Field(default=0.95, gt=0.5, lt=1)
    """Share of the changed labels that are to be right: ρ is chosen for it. Where the model is less sure than that of a
    label it leaves alone, a person is asked."""
    rho: float | None = Field(default=None, ge=0)
    """Probability from which a label counts as relabeled (ρ), fixed by hand; `auto` or nothing: chosen by training."""
    noisy_loss_weight: float | None = Field(default=None, ge=0)
    """Weight λ of the noisy head's loss; the method's unless given (0.5 for `paper`; ours: the more, the fewer held-out
    samples are predicted rightly)."""
    horizontal_flip: bool | None = None
    """Flip images at random in training (wrong for digits and text); the preset's unless given."""
    holdout: float | None = Field(default=None, gt=0, lt=1)
    """Share of the randomly audited samples held out, for calibration, ρ and the confusion matrix; a quarter
    unless given, where there is one model."""
    folds: int | None = Field(default=None, ge=1, le=20)
    """Models that are trained, each without another part of the randomly audited samples, so that all of these teach
    and all are held out once; 1 unless given, and in mode `auto`, which has a promise to make, 3."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of training."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, …"""

    mode: Mode = "suggest"
    """`suggest`: only people change labels. `auto`: what reaches ρ is changed without asking, too."""
    certainty: float = Field(default=0.9, gt=0.5, lt=1)
    """Probability that the target precision is kept, wherever ρ is chosen."""
    queue_size: int = Field(default=500, ge=0)
    """The most answers that may wait to be given at once."""
    review_minutes: float | None = Field(default=None, ge=0)
    """The most minutes of reviewers' work that may wait at once, by their own lead times; unbounded unless given."""
    overlap: int = Field(default=1, ge=1, le=5)
    """How many people answer each question."""
    audit_share: float = Field(default=0.1, ge=0, le=1)
    """Share of `queue_size` that is drawn at random, however few labels are doubted, for estimates."""
    check_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the questions drawn at random among the labels changed without asking (mode `auto`)."""
    class_floor: float = Field(default=0.02, ge=0, le=1)
    """Share of the questions that each class gets at least, where it has as many doubtful labels."""

    @field_validator("label_studio_url", "prefect_api_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must look like http://host:port")
        if parts.username or parts.password:
            raise ValueError("must hold no user name or password")
        return value.rstrip("/")

    @field_validator("rho", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return None if value == "auto" else value

    @field_validator("labels_project", "audit_project", "review_project", mode="before")
    @classmethod
    def _project_reference(cls, value: Any) -> Any:
        """`7` in fasten.toml is as good as `"7"`; empty means unset."""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator("label_control", "image_field", mode="before")
    @classmethod
    def _name_in_config(cls, value: Any) -> Any:
        """Empty means unset; `$photo` is how a label config spells the field `photo`."""
        return (value.strip().removeprefix("$") or None) if isinstance(value, str) else value

    @field_validator("leave_out_annotators", mode="before")
    @classmethod
    def _annotators(cls, value: Any) -> Any:
        """`[7]` in fasten.toml is as good as `["7"]`."""
        if not isinstance(value, list | tuple):
            return value
        listed = tuple(each.strip() if isinstance(each, str) else str(each) for each in value)
        odd = [each for each in listed if not is_annotator(each)]
        if odd:
            raise ValueError(f"{odd[0][:80]!r} is no user of Label Studio: give an id as 7, or an e-mail address")
        return listed

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        toml = TomlConfigSettingsSource(settings_cls)
        home = default_home()
        demo = DemoSettings(settings_cls, env_file=home / DEMO_ENV, env_file_encoding="utf-8")
        stack = StackSettings(settings_cls, env_file=home / STACK_ENV, env_file_encoding="utf-8")
        return init_settings, env_settings, toml, demo, stack

    @model_validator(mode="after")
    def _one_home(self) -> "Settings":
        """The stack's files are looked for before fasten.toml is read, so only the environment can say where."""
        if self.home != default_home():
            raise ValueError("home can only be set in the environment, as FASTEN_HOME")
        return self

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> "Settings":
        if self.holdout is not None and self.folds not in (None, 1):
            raise ValueError(
                f"holdout is of one model, and folds {self.folds} hold every audit out once: "
                "unset FASTEN_HOLDOUT, or leave folds at 1"
            )
        return self

    # One frozen configuration per concern -----------------------------------------------------------------------

    @property
    def audit_folds(self) -> int:
        """How many models are trained (`fasten_model.fitting.fit`)."""
        if self.folds is not None:
            return self.folds
        return PROMISING_FOLDS if self.mode == "auto" and self.holdout is None else 1

    @property
    def data_folder(self) -> Path:
        """Folder of snapshots, images and runs."""
        return self.data_dir or self.home / "data"

    @property
    def label_studio(self) -> "LabelStudioConfig":
        """How to reach Label Studio; raises `ConfigError` where URL or token is missing."""
        if self.label_studio_url is None:
            raise ConfigError("no Label Studio is set: run `fasten up`, or set FASTEN_LABEL_STUDIO_URL")
        if self.label_studio_token is None or not self.label_studio_token.get_secret_value().strip():
            raise ConfigError(
                f"no token for Label Studio at {self.label_studio_url}: set FASTEN_LABEL_STUDIO_TOKEN "
                "(Account & Settings, Access Token)"
            )
        from pipeline.label_studio import LabelStudioConfig

        return LabelStudioConfig(
            url=self.label_studio_url, token=self.label_studio_token, timeout_s=self.label_studio_timeout
        )

    @property
    def control(self) -> ControlChoice:
        """Which control and image of the labels and audit projects hold the class."""
        return ControlChoice(name=self.label_control, image_field=self.image_field, multiple=self.multiple_choices)

    @property
    def s3(self) -> "S3Config":
        """How to reach whatever has an `s3://` address."""
        from pipeline.s3 import S3Config

        return S3Config(endpoint=self.s3_endpoint, region=self.s3_region)

    @property
    def shared_store(self) -> "StoreConfig | None":
        """Where snapshots are published; None where they stay on this machine."""
        if not self.snapshot_store:
            return None
        from pipeline.snapshot_store import StoreConfig

        return StoreConfig(location=self.snapshot_store, s3=self.s3)

    @property
    def images(self) -> "ImageConfig":
        """What may be fetched as an image, and how."""
        from pipeline.images import ImageConfig

        return ImageConfig(
            allowed_hosts=self.allowed_image_hosts,
            allowed_buckets=self.allowed_image_buckets,
            s3=self.s3,
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_image_pixels,
            local_files_root=self.local_files_root,
        )

    @property
    def training(self) -> "TrainConfig":
        """The method's own configuration."""
        from fasten_model.train import TrainConfig

        method = TrainConfig(preset=self.preset).switches()
        if self.noisy_loss_weight is not None:
            method = replace(method, noisy_loss_weight=self.noisy_loss_weight)
        return TrainConfig(
            preset=self.preset,
            epochs=self.epochs,
            method=method,
            horizontal_flip=self.horizontal_flip,
            seed=self.seed,
            device=self.device,
        )

    @property
    def tracking(self) -> "TrackingConfig":
        """Where runs are logged; raises `ConfigError` where no MLflow is set."""
        if self.mlflow_tracking_uri is None:
            raise ConfigError("no MLflow is set: run `fasten up`, or set FASTEN_MLFLOW_TRACKING_URI")
        from pipeline.tracking import TrackingConfig

        return TrackingConfig(
            uri=self.mlflow_tracking_uri, experiment=self.mlflow_experiment, model_name=self.mlflow_model_name
        )


def load_settings(**overrides: Any) -> Settings:
    """The settings as they are now; `overrides` that are not None win over every other source.

    Raises `ConfigError`, one line that names the setting, where a value is wrong or a name unknown.
    """
    return _load(Settings, overrides)


def _load(kind: type[Settings], overrides: dict[str, Any]) -> Settings:
    try:
        return kind(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name, problem = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        where = f"setting {name} (FASTEN_{name.upper()}, or {name} in fasten.toml)" if name else "settings"
        raise ConfigError(f"{where}: {problem}") from None
    except SettingsError as error:  # it names the field only in its sentence, and not what was expected
        name = next((field for field in kind.model_fields if f'"{field}"' in str(error)), "")
        raise ConfigError(
            f"setting {name} (FASTEN_{name.upper()}, or {name} in fasten.toml): must be a list in JSON, such as "
            """'["one", "another"]'"""
        ) from None
    except ValueError as error:  # TOML that does not parse
        raise ConfigError(f"settings cannot be read: {error}") from None


class _UserSettings(Settings):
    """The settings without what the embedded stack wrote: what the user chose."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = super().settings_customise_sources(
            settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
        )
        return sources[:-2]


def user_chosen_services() -> frozenset[Service]:
    """The services that the environment or fasten.toml points at: `fasten up` leaves those alone."""
    chosen = _load(_UserSettings, {})
    urls: dict[Service, str | None] = {
        "label-studio": chosen.label_studio_url,
        "prefect": chosen.prefect_api_url,
        "mlflow": chosen.mlflow_tracking_uri,
    }
    return frozenset(service for service, url in urls.items() if url is not None)
