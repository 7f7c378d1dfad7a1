"""``cache-pipeline export``: copy history to a warehouse."""

from collections.abc import Sequence
from functools import partial

import click

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.bootstrap.services import open_exporter
from cache_pipeline.errors import CommandError
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.warehouse.base import ExportedPartition


@click.command()
@click.argument("reports", nargs=-1)
@click.option(
    "--to",
    "url",
    help="URL of the warehouse (default: CACHE_PIPELINE_WAREHOUSE_URL, which does not show a password in the list of processes).",
)
@click.option(
    "--interval", help="start/end; times without an offset are in the report's time zone (default: all of history)."
)
@click.option(
    "--all", "everything", is_flag=True, help="Export what has not changed too, if the warehouse has lost its rows."
)
def export(reports: tuple[str, ...], url: str | None, interval: str | None, *, everything: bool) -> None:
    """Export history of REPORTS to a warehouse, as far as it has changed. The default is each report with `publish.warehouse`."""
    settings = read_settings()
    declared = load_reports(settings)
    selected = [find_report(declared, name) for name in reports] or [
        report for report in declared.values() if report.publish.warehouse
    ]
    if not selected:
        raise CommandError("no report declares publish.warehouse: name the reports to export")
    wanted = {each.name: [Interval.parse(interval, each.zone)] if interval else None for each in selected}
    migrate_history(settings, declared)
    for report in selected:
        with open_exporter(settings, report, url) as exporter:
            result = exporter.export(
                wanted[report.name], utc_now(), everything=everything, on_progress=partial(_show_progress, report.name)
            )
            click.echo(
                f"{report.name}: {result.rows:,} rows of {len(result.exported)} partitions exported to {exporter.warehouse.name}, "
                f"{result.provisional} provisional; {result.unchanged} unchanged"
            )


def _show_progress(name: str, done: Sequence[ExportedPartition]) -> None:
    rows = sum(each.rows for each in done)
    click.echo(f"{name}: {done[0].interval.start:%Y-%m}: {len(done)} partitions, {rows:,} rows", err=True)
