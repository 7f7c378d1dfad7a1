"""``cache-pipeline doctor``: what this deployment stands on, and what to do where it is not fit."""

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
from cache_pipeline.bootstrap import utc_now
from cache_pipeline.doctor.examination import Check, run_checks
from cache_pipeline.doctor.finding import Finding, Health
from cache_pipeline.errors import QueueUnavailable, SettingsError
from cache_pipeline.settings import Settings, read_settings

_MARKS = {Health.ok: "[green]✓[/]", Health.warning: "[yellow]![/]", Health.failed: "[red]✗[/]"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Check settings, servers, logins and stores; exit code 1 says that something is not fit to run on."""
    settings, console = read_settings(), Console(stderr=True)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        progress.add_task("Looking at everything the settings name")
        queue = Check("job queue", "check CACHE_PIPELINE_JOBS__QUEUE_URL", lambda: _look_at_queue(settings))
        findings = asyncio.run(run_checks(settings, utc_now, [queue]))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        Console().print(_table(findings))
    if any(finding.health is Health.failed for finding in findings):
        sys.exit(1)


async def _look_at_queue(settings: Settings) -> list[Finding]:
    """Whether the broker between the HTTP API and its workers answers."""
    try:
        async with open_queue(settings) as queue:
            await queue.health()
    except (QueueUnavailable, SettingsError) as error:
        told, _, mend = str(error).rpartition(": ")
        return [Finding("job queue", Health.failed, told, mend)]
    url = settings.jobs.queue_url
    scheme = urlsplit(url.get_secret_value()).scheme if url else "the settings' Redis"
    return [Finding("job queue", Health.ok, f"answers ({scheme})")]


def _table(findings: Iterable[Finding]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        table.add_row(_MARKS[finding.health], finding.subject, finding.told)
        if finding.mend:
            table.add_row("", "", f"[bold]→ {finding.mend}[/]")
    return table
