"""`fasten up | status | down | env`: the embedded stack."""

import shlex

import typer
from rich.table import Table

from pipeline.cli.console import out, say
from pipeline.errors import ConfigError
from pipeline.settings import load_settings, user_chosen_services


def up() -> None:
    """Start Label Studio, Prefect with a worker, and MLflow here.

    On loopback only, with all data below `.fasten/`; then the deployments of `prefect.yaml` are registered.
    Services that the settings point at elsewhere (`FASTEN_LABEL_STUDIO_URL`, `FASTEN_PREFECT_API_URL`,
    `FASTEN_MLFLOW_TRACKING_URI`) are left alone. Running it again starts only what is missing.
    """
    from pipeline.embedded import start

    start(load_settings(), external=user_chosen_services())
    status()


def down() -> None:
    """Stop what `fasten up` started, and nothing else; the data stays."""
    from pipeline.embedded import stop

    stopped = stop(load_settings())
    say(f"stopped, {stopped} processes in all" if stopped else "nothing was running")


def status() -> None:
    """Show each service, its address and its health.

    Exit code 1 where one is not well.
    """
    from pipeline.embedded import statuses

    settings = load_settings()
    found = statuses(settings)
    table = Table(box=None, pad_edge=False)
    for column in ("SERVICE", "HEALTH", "ADDRESS", "PID"):
        table.add_column(column, overflow="fold")
    for service in found:
        table.add_row(service.name, service.detail, service.url or "-", str(service.pid or "-"))
    out.print(table)
    if not any(service.pid for service in found):
        say("start them with `fasten up`")
    elif settings.label_studio_username and settings.label_studio_password:
        password = settings.label_studio_password.get_secret_value()
        say(f"Label Studio login: {settings.label_studio_username} / {password}")
    for service in found:
        if service.pid and not service.healthy:
            say(f"{service.name} is not well, its log: {service.log}")
    if not all(service.healthy for service in found):
        raise typer.Exit(1)


def env() -> None:
    """Print shell lines for `prefect` and `mlflow`: eval "$(fasten env)".

    They point the two commands at the servers that this project uses.
    """
    settings = load_settings()
    addresses = {"PREFECT_API_URL": settings.prefect_api_url, "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri}
    if not any(addresses.values()):
        raise ConfigError("no server is set: run `fasten up`")
    for name, address in addresses.items():
        if address:
            say(f"export {name}={shlex.quote(address)}")
