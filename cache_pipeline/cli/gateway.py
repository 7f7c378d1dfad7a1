"""``cache-pipeline gateway`` and ``cache-pipeline worker``."""

import asyncio
import logging
import signal

import click

from cache_pipeline.gateway.serve import serve_gateway, work
from cache_pipeline.service.engine import declared_reports, migrate_history
from cache_pipeline.settings import read_settings


def _prepared() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="TCP port; 0 for any free one.")
def gateway(host: str, port: int) -> None:
    """Serve the HTTP API; its jobs need a worker."""
    _prepared()
    settings = read_settings()
    migrate_history(settings, declared_reports(settings))
    serve_gateway(settings, host, port, lambda url: click.echo(f"HTTP API on {url}; {url}/docs tells of it", err=True))


@click.command()
def worker() -> None:
    """Take jobs of the HTTP API until Ctrl-C or SIGTERM, then end what was begun."""
    _prepared()
    settings = read_settings()
    migrate_history(settings, declared_reports(settings))

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(settings, stop, lambda name: click.echo(f"Worker {name} takes jobs", err=True))

    asyncio.run(run())
