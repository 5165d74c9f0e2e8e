"""`fasten up | status | down | env`: the embedded stack."""

import shlex

import typer
from rich.table import Table

from pipeline.cli.console import out
from pipeline.settings import load_settings, user_chosen_services


def up() -> None:
    """Start Label Studio, Prefect with a worker, and MLflow on loopback, and register the deployments.

    Services that the settings point at elsewhere (FASTEN_LABEL_STUDIO_URL, FASTEN_PREFECT_API_URL,
    FASTEN_MLFLOW_TRACKING_URI) are left alone. Running it again starts only what is missing.
    """
    from pipeline.embedded import start

    start(load_settings(), external=user_chosen_services())
    status()


def down() -> None:
    """Stop everything that `fasten up` started, and nothing else; the data stays."""
    from pipeline.embedded import stop

    stopped = stop(load_settings())
    out.print(f"stopped {stopped} process(es)" if stopped else "nothing was running")


def status() -> None:
    """Show each service, its address and its health; exit code 1 where one is not well."""
    from pipeline.embedded import statuses

    settings = load_settings()
    found = statuses(settings)
    table = Table(box=None, pad_edge=False)
    for column in ("SERVICE", "HEALTH", "ADDRESS", "PID"):
        table.add_column(column)
    for service in found:
        table.add_row(service.name, service.detail, service.url, str(service.pid or "-"))
    out.print(table)
    if settings.label_studio_username and settings.label_studio_password:
        out.print(
            f"Label Studio login: {settings.label_studio_username} / "
            f"{settings.label_studio_password.get_secret_value()}"
        )
    if not all(service.healthy for service in found):
        raise typer.Exit(1)


def env() -> None:
    """Print the shell lines that point `prefect` and `mlflow` at these servers: eval "$(fasten env)"."""
    settings = load_settings()
    if settings.prefect_api_url:
        out.print(f"export PREFECT_API_URL={shlex.quote(settings.prefect_api_url)}")
    if settings.mlflow_tracking_uri:
        out.print(f"export MLFLOW_TRACKING_URI={shlex.quote(settings.mlflow_tracking_uri)}")
