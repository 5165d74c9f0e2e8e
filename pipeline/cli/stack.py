"""`fasten up | status | down | env`: the embedded stack."""

import shlex

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.console import out, printable, say
from pipeline.errors import ConfigError
from pipeline.settings import load_settings, user_chosen_services


def up() -> None:
    """Start Label Studio, Prefect with a worker, and MLflow here.

    On loopback only, with all data below `.fasten/`; then the deployments of `prefect.yaml` are registered.
    Services that the settings point at elsewhere (`FASTEN_LABEL_STUDIO_URL`, `FASTEN_PREFECT_API_URL`,
    `FASTEN_MLFLOW_TRACKING_URI`) are left alone; beside a Prefect elsewhere no worker is started. Running it again
    starts only what is missing. Exit code 1 where a service is not well, be it yours.
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

    A server that the settings point at elsewhere is asked as `fasten doctor` does, and is "yours". Exit code 1 where
    one is not well.
    """
    from pipeline.embedded import servers_elsewhere, statuses

    settings, external = load_settings(), user_chosen_services()
    ours = statuses(settings, external=external)
    yours = servers_elsewhere(settings, external=external)
    table = Table(box=None, pad_edge=False)
    for column in ("SERVICE", "HEALTH", "ADDRESS", "PID"):
        table.add_column(column, overflow="fold")
    for service in ours:
        table.add_row(service.name, service.detail, service.url or "-", str(service.pid or "-"))
    for server in yours:
        table.add_row(
            server.name, "not well" if server.complaint else "well", escape(printable(server.url)) or "-", "yours"
        )
    out.print(table)
    login = settings.label_studio_username, settings.label_studio_password
    if login[0] and login[1] and any(service.name == "label-studio" and service.pid for service in ours):
        say(f"Label Studio login: {login[0]} / {login[1].get_secret_value()}")
    for service in ours:
        if service.pid and not service.healthy:
            say(f"{service.name} is not well, its log: {service.log}")
    for server in yours:
        if server.complaint:
            say(f"{server.name} is not well: {server.complaint}")
    if missing := [service.name for service in ours if not service.pid]:
        say(f"start {', '.join(missing)} with `fasten up`")
    if not all(service.healthy for service in ours) or any(server.complaint for server in yours):
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
