"""The commands ``cache-pipeline api`` and ``cache-pipeline worker``, which serve the HTTP API and run its jobs."""

import asyncio
import os
import signal
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from cache_pipeline.bootstrap.database import migrate_when_available
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.cli.child_process import start_bound_child
from cache_pipeline.fetch.write_events import OnStored, ignore_stored
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.telemetry.logs import set_up_logs
from cache_pipeline.telemetry.trace_export import export_traces


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="TCP port; 0 picks a free one.")
def api(host: str, port: int) -> None:
    """Serve the HTTP API. A worker must run beside it to fetch data."""
    # Each command imports its own process: a worker need not have the API's web framework in memory.
    from cache_pipeline.api.server import serve_api

    settings = read_settings()
    set_up_logs(settings.log, "api")
    reports = load_reports(settings)
    settings.required_postgres_url()
    with export_traces(settings, "api"):
        serve_api(
            settings,
            host,
            port,
            lambda url: click.echo(f"HTTP API on {url}; documentation on {url}/docs", err=True),
            lambda: migrate_when_available(settings, reports),
        )


@click.command()
def worker() -> None:
    """Run jobs of the HTTP API. On Ctrl-C or SIGTERM, finish the running jobs, then stop."""
    from cache_pipeline.api.jobs.worker_process import run_worker

    settings = read_settings()
    set_up_logs(settings.log, "worker")
    migrate_when_available(settings, load_reports(settings))

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await run_worker(settings, stop, lambda name: click.echo(f"Worker {name} is ready", err=True), on_stored)

    with export_traces(settings, "worker"), _record_stored_rows(settings) as on_stored:
        asyncio.run(run())


@contextmanager
def _record_stored_rows(settings: Settings) -> Generator[OnStored]:
    """Yield a worker's hook: it records events in the instance of DAGSTER_HOME, or ignores them if there is none."""
    if not os.environ.get("DAGSTER_HOME"):
        yield ignore_stored
        return
    # Imported here, because Dagster takes a second.
    from cache_pipeline.orchestration.external_events import record_external_events

    with record_external_events(settings) as on_stored:
        yield on_stored


@contextmanager
def run_local_api(environment: Mapping[str, str], folder: Path, port: int, log: Path) -> Generator[str]:
    """Run an API process and a worker on loopback, without API keys, while the block lasts, and yield the API's URL.

    Args:
        environment: The environment variables of both.
        folder: Their working folder.
        port: The API's port.
        log: The file that both write their output to.
    """
    command = [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()"]
    # The API listens on loopback only and serves a simulator's figures, so a first look needs no key.
    added = {**environment, "CACHE_PIPELINE_API__AUTH": "off", "CACHE_PIPELINE_API__PUSH": "true"}
    with (
        start_bound_child([*command, "api", "--port", str(port)], added, folder=folder, log=log),
        start_bound_child([*command, "worker"], added, folder=folder, log=log),
    ):
        yield f"http://127.0.0.1:{port}"
