"""``cache-pipeline``: every command, and the one place where an error becomes a line and an exit code."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console

from cache_pipeline.bootstrap import load_reports, migrate_history, report_schema_text
from cache_pipeline.cli.child_process import start_bound_child
from cache_pipeline.cli.demo import print_report, run_demo, write_report
from cache_pipeline.cli.demo_environment import DemoEnvironment, DemoRequest, project_folder, run_demo_environment
from cache_pipeline.cli.demo_page import serving_page, write_page
from cache_pipeline.cli.doctor import doctor
from cache_pipeline.cli.edge import edge
from cache_pipeline.cli.keys import keys
from cache_pipeline.cli.query import plan_command, query_command
from cache_pipeline.cli.quota import show_quota
from cache_pipeline.cli.serve import api, run_local_api, worker
from cache_pipeline.cli.simulator_options import simulator_settings
from cache_pipeline.cli.status import status
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.errors import CommandError
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.simulator.errors import SimulatorError
from cache_pipeline.simulator.server import serve
from cache_pipeline.storage.known_errors import known_error

_DAY = click.DateTime(["%Y-%m-%d"])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cache-pipeline")
def cli() -> None:
    """Ask a contact centre's Analytics API once, and serve everyone else from the store."""


cli.add_command(doctor)
cli.add_command(edge)
cli.add_command(api)
cli.add_command(keys)
cli.add_command(status)
cli.add_command(worker)


@contextmanager
def _terminated_like_interrupted() -> Generator[None]:
    """Treat SIGTERM like Ctrl-C, so that servers are stopped cleanly."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _demo_request(
    arrivals: Path | None, arrivals_zone: str, first: datetime | None, end: datetime | None
) -> DemoRequest:
    return DemoRequest(arrivals, arrivals_zone, first.date() if first else None, end.date() if end else None)


_DEMO_OPTIONS = (
    click.option(
        "--arrivals",
        type=click.Path(path_type=Path),
        help="Replay the volumes of a CSV file with the columns start and calls.",
    ),
    click.option("--arrivals-zone", default="UTC", show_default=True, help="Time zone of that file."),
    click.option("--from", "first", type=_DAY, help="First day (default: seven days before TO)."),
    click.option("--to", "end", type=_DAY, help="Day after the last day (default: today)."),
)


def _with_demo_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a demo."""
    for option in reversed(_DEMO_OPTIONS):
        command = option(command)
    return command


@cli.command()
@_with_demo_options
def demo(arrivals: Path | None, arrivals_zone: str, first: datetime | None, end: datetime | None) -> None:
    """Backfill the reports on embedded servers and a simulated vendor, and compare the tiers."""
    request, console = _demo_request(arrivals, arrivals_zone, first, end), Console()
    with _terminated_like_interrupted(), run_demo_environment(request, datetime.now(UTC)) as scenario:
        succeeded = _run_demo(scenario, request, console)
    console.print(
        "Next: [bold]make dev[/] for the same with the Dagster UI; edit reports/ to change what is fetched",
        highlight=False,
    )
    if not succeeded:
        sys.exit(1)


def _run_demo(scenario: DemoEnvironment, request: DemoRequest, console: Console) -> bool:
    _announce_isolation(scenario, console)
    report = run_demo(scenario, request, console)
    print_report(report, console)
    path = write_report(report, scenario.settings.data_dir.parent)
    console.print(f"Written to {path}; published Parquet in {scenario.settings.data_dir / 'edge'}", highlight=False)
    page = write_page(scenario.settings)
    if page:
        console.print(f"The executives' page as one file, to open or send: [bold]{page.as_uri()}[/]", highlight=False)
    return report.succeeded


def _announce_isolation(scenario: DemoEnvironment, console: Console) -> None:
    console.print(
        f"Servers, stores and accounts of its own, in {scenario.settings.data_dir}; the vendor is simulated",
        highlight=False,
        soft_wrap=True,
    )
    if scenario.ignored:
        console.print(
            f"Not used, though the environment or .env sets them: {', '.join(scenario.ignored)}",
            highlight=False,
            soft_wrap=True,
        )


@cli.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI on 127.0.0.1.")
@click.option("--api-port", default=8080, show_default=True, help="Port of the HTTP API on 127.0.0.1.")
@_with_demo_options
def dev(
    port: int,
    api_port: int,
    arrivals: Path | None,
    arrivals_zone: str,
    first: datetime | None,
    end: datetime | None,
) -> None:
    """Run the demo, then serve the Dagster UI and the HTTP API until Ctrl-C."""
    request, console = _demo_request(arrivals, arrivals_zone, first, end), Console()
    for each in (port, api_port):
        _free_port(each)
    with _terminated_like_interrupted(), run_demo_environment(request, datetime.now(UTC)) as scenario:
        _run_demo(scenario, request, console)
        console.print(f"\nDagster UI: http://127.0.0.1:{port} (ready in about twenty seconds); Ctrl-C stops everything")
        console.print(f"Simulated vendor: {scenario.simulator_url}/simulator/counters", highlight=False)
        # `dg dev`, which Dagster recommends, makes its own workspace and ignores workspace.yaml.
        quiet = ["-W", "ignore:Function `dev_command` is superseded"]
        dagster = [
            *quiet,
            "-m",
            "dagster",
            "dev",
            "-w",
            str(scenario.project / "workspace.yaml"),
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
        ]
        command = [sys.executable, *dagster]
        with (
            serving_page(scenario.settings) as page,
            run_local_api(scenario.environment, scenario.folder, api_port, console),
            start_bound_child(command, scenario.environment, folder=scenario.folder) as process,
        ):
            if page:
                console.print(f"The executives' page: {page}", highlight=False)
            code = process.wait()
    if code:
        raise CommandError(f"dagster dev ended with code {code}; see its output above")


def _free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise CommandError(
                f"port {port} cannot be used ({error}); free it, or choose another with --port and --api-port"
            ) from error


@cli.command()
@click.option("--port", default=8090, show_default=True, help="Port on 127.0.0.1.")
@click.option(
    "--settings",
    "file",
    type=click.Path(path_type=Path),
    help="YAML or JSON file with the settings of docs/simulator.md.",
)
@click.option("--seed", type=int, help="Seed of the random figures.")
@click.option(
    "--arrivals",
    type=click.Path(path_type=Path),
    help="Replay the volumes of a CSV file with the columns start and calls.",
)
@click.option("--arrivals-zone", help="Time zone of that file (default: UTC).")
def simulator(port: int, file: Path | None, seed: int | None, arrivals: Path | None, arrivals_zone: str | None) -> None:
    """Run the simulated vendor. Log in as demo-client with the secret demo-secret, unless the settings name others."""
    settings = simulator_settings(file, {"seed": seed, "arrivals": arrivals, "arrivals_zone": arrivals_zone})

    def announce(url: str) -> None:
        click.echo(f"Simulated vendor on {url} (state: {url}/simulator); Ctrl-C stops it", err=True)

    serve(settings, port, announce=announce)


@cli.command()
@click.option("--json-schema", is_flag=True, help="Print the JSON Schema of a declaration, for editors.")
def reports(json_schema: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Check all report declarations and list the reports."""
    if json_schema:
        click.echo(report_schema_text(), nl=False)
        return
    for name, report in load_reports(read_settings()).items():
        click.echo(f"{name:<24} {report.platform}/{report.query_type}, {report.granularity} by {report.partition}")


cli.add_command(plan_command)
cli.add_command(query_command)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON once.")
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
def quota(as_json: bool, watch: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Show the state of each OAuth client and how many requests each lane may send now."""
    show_quota(read_settings(), Console(), as_json=as_json, watch=watch)


@cli.command()
def migrate() -> None:
    """Create or update the PostgreSQL tables of the declared reports."""
    settings = read_settings()
    declared = load_reports(settings)
    migrate_history(settings, declared)
    click.echo(f"history is up to date for {len(declared)} reports")


@cli.command("with-servers", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def with_servers(command: tuple[str, ...]) -> None:
    """Run COMMAND with an embedded PostgreSQL and Valkey, unless their URLs are set."""
    settings = read_settings()
    with _terminated_like_interrupted(), _servers(settings) as added:
        environment = {**os.environ, **added}
        if (Path.cwd() / "dagster.yaml").exists():
            environment.setdefault("DAGSTER_HOME", str(project_folder()))
        with start_bound_child(command, environment) as process:
            code = process.wait()
    sys.exit(code)


@contextmanager
def _servers(settings: Settings) -> Generator[dict[str, str]]:
    postgres_url, redis_url = settings.postgres_url, settings.redis_url
    with embedded_servers(
        settings.data_dir / "servers",
        postgres_url=postgres_url.get_secret_value() if postgres_url else None,
        redis_url=redis_url.get_secret_value() if redis_url else None,
    ) as servers:
        yield {
            "CACHE_PIPELINE_POSTGRES_URL": servers.postgres_url,
            "CACHE_PIPELINE_REDIS_URL": servers.redis_url,
        }


def main() -> None:
    """Run the command line. Bad input gives one line and exit code 2, Ctrl-C gives exit code 130."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        click.echo(f"cache-pipeline: {error.format_message()}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("cache-pipeline: interrupted; everything it started has been stopped", err=True)
        sys.exit(130)
    except (EmbeddedServerError, SimulatorError) as error:
        _fail(error)
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        _fail(known)


def _fail(error: Exception) -> NoReturn:
    click.echo(f"cache-pipeline: {' '.join(str(error).split())}", err=True)
    sys.exit(2)
