"""``cache-pipeline doctor``: checks the deployment, and says how to fix what is wrong."""

import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from cache_pipeline.api.jobs.queue import open_queue
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.doctor.runner import Check, run_checks
from cache_pipeline.errors import QueueUnavailable, SettingsError
from cache_pipeline.settings import Settings, read_settings

_MARKS = {CheckStatus.ok: "[green]✓[/]", CheckStatus.warning: "[yellow]![/]", CheckStatus.failed: "[red]✗[/]"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Check settings, servers, logins and stores. Exit code 1 means that a check failed."""
    settings, console = read_settings(), Console(stderr=True)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        progress.add_task("Checking everything the settings name")
        queue = Check("job queue", "check CACHE_PIPELINE_JOBS__QUEUE_URL", lambda: _check_queue(settings))
        results = asyncio.run(run_checks(settings, utc_now, [queue]))
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=1))
    else:
        Console().print(_table(results))
    if any(result.status is CheckStatus.failed for result in results):
        sys.exit(1)


async def _check_queue(settings: Settings) -> list[CheckResult]:
    """Check that the broker between the HTTP API and its workers answers."""
    try:
        async with open_queue(settings) as queue:
            await queue.health()
    except (QueueUnavailable, SettingsError) as error:
        detail, _, remedy = str(error).rpartition(": ")
        return [CheckResult("job queue", CheckStatus.failed, detail, remedy)]
    url = settings.jobs.queue_url
    scheme = urlsplit(url.get_secret_value()).scheme if url else "the settings' Redis"
    return [CheckResult("job queue", CheckStatus.ok, f"answers ({scheme})")]


def _table(results: Iterable[CheckResult]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for result in results:
        table.add_row(_MARKS[result.status], result.subject, result.detail)
        if result.remedy:
            table.add_row("", "", f"[bold]→ {result.remedy}[/]")
    return table
