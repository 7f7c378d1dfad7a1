"""The commands ``cache-pipeline reports`` and ``cache-pipeline migrate``."""

import click

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.database import expire_history, migrate_history
from cache_pipeline.bootstrap.reports import load_all_reports, load_reports, report_schema_text
from cache_pipeline.settings import read_settings


@click.command()
@click.option("--json-schema", is_flag=True, help="Print the JSON Schema of a declaration, for editors.")
def reports(json_schema: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Check all report declarations and list the reports."""
    if json_schema:
        click.echo(report_schema_text(), nl=False)
        return
    settings = read_settings()
    declared, live = load_all_reports(settings)
    for name, report in declared.items():
        click.echo(f"{name:<24} {report.platform}/{report.query_type}, {report.granularity} by {report.partition}")
    for name, report in live.items():
        click.echo(f"{name:<24} {report.platform}/{report.query_type}, live")


@click.command()
def migrate() -> None:
    """Create or update the PostgreSQL tables of the declared reports.

    Rows older than a report's `retention` are deleted.
    """
    settings = read_settings()
    declared = load_reports(settings)
    migrate_history(settings, declared)
    for name, rows in expire_history(settings, declared.values(), utc_now()).items():
        click.echo(f"{name}: {rows:,} rows deleted that are older than its retention")
    click.echo(f"history is up to date for {len(declared)} reports")
