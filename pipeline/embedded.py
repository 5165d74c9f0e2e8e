"""The embedded stack together with what Prefect has to know of it: `fasten up`, `status` and `down`."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from pipeline import orchestrator
from pipeline.errors import ConfigError
from pipeline.settings import Service, Settings, load_settings
from pipeline.stack import ServiceStatus, StackConfig, down, status, up
from pipeline.workspace import write_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerElsewhere:
    """A server of the user's own, as it is now."""

    name: Service
    url: str
    """Empty where it is none that may be shown."""
    complaint: str
    """What is wrong and what to do about it; empty where it is well."""


def project_root() -> Path:
    """The folder with `prefect.yaml`: the working directory, as for Prefect's own commands."""
    root = Path.cwd()
    if not (root / "prefect.yaml").is_file():
        raise ConfigError(f"{root} has no prefect.yaml: run this command in the project's folder")
    return root


def start(settings: Settings, *, external: frozenset[Service]) -> None:
    """Start what is missing, register the deployments, and bury runs that died with an earlier stack."""
    root = project_root()
    config = StackConfig(home=settings.home, project=root)
    up(config, external=external, before_worker=_bury_the_dead)
    api_url = load_settings().prefect_api_url  # `up` has written the addresses
    if api_url is None:
        raise ConfigError("no Prefect is set: set FASTEN_PREFECT_API_URL, or leave it out to have one started")
    _deploy_what_changed(config, api_url, root)


def _deploy_what_changed(config: StackConfig, api_url: str, root: Path) -> None:
    """Register the deployments unless these very ones are: registering them again would start a paused schedule."""
    record = config.folder / "deployed"
    content = hashlib.sha256(api_url.encode())
    for file in (root / "prefect.yaml", *sorted((root / "flows").glob("*.py"))):
        content.update(file.read_bytes())
    if record.is_file() and record.read_text() == content.hexdigest():
        try:
            orchestrator.deployment_schedules(api_url)
        except ConfigError:
            pass
        else:
            return
    orchestrator.deploy(api_url, root)
    write_whole(record, content.hexdigest().encode())


def _bury_the_dead(api_url: str) -> None:
    dead = orchestrator.mark_dead_runs(api_url)
    if dead:
        logger.info("%d flow run(s) that died with the last worker are marked as crashed", dead)


def stop(settings: Settings) -> int:
    """Stop what `start` started; how many processes that were."""
    return down(StackConfig(home=settings.home))


def statuses(settings: Settings, *, external: frozenset[Service]) -> list[ServiceStatus]:
    """How each service is that is the stack's own."""
    return status(StackConfig(home=settings.home), external=external)


def servers_elsewhere(settings: Settings, *, external: frozenset[Service]) -> list[ServerElsewhere]:
    """How each server is that the user has pointed elsewhere, as doctor finds it."""
    from pipeline.doctor import server

    found = []
    for name in sorted(external):
        finding = server(settings, name)
        complaint = finding.detail if finding.level == "problem" else ""
        found.append(ServerElsewhere(name=name, url=_shown(settings, name), complaint=complaint))
    return found


def _shown(settings: Settings, name: Service) -> str:
    """Its address, as people may see it."""
    if name == "mlflow":
        try:
            return settings.tracking.shown_uri
        except ConfigError:
            return ""
    return (settings.label_studio_url if name == "label-studio" else settings.prefect_api_url) or ""
