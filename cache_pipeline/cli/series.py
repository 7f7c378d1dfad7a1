"""``cache-pipeline series``: list what history holds of earlier declarations, and drop it."""

import json
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cache_pipeline.bootstrap import load_reports, migrate_history
from cache_pipeline.errors import CommandError
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.stored_series import HeldSeries, open_series


@click.group()
def series() -> None:
    """List the series of history, those of earlier declarations included, and drop them.

    A change of a report's filter, time zone, granularity or grouping starts a new one.
    """


@series.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_series(*, as_json: bool) -> None:
    """List the series of every report, current or not, and the metrics of each that are stored but not declared any more."""
    settings = read_settings()
    declared = load_reports(settings)
    migrate_history(settings, declared)
    with open_series(settings.required_postgres_url()) as store:
        found = store.all()
    if as_json:
        click.echo(json.dumps([_document(each, declared) for each in found], indent=2))
        return
    table = Table(title="Series", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("id", "report", "tenant", "current", "metrics", "not declared", "from", "to", "last fetched"):
        table.add_column(heading, no_wrap=heading == "id", min_width=32 if heading == "id" else None)
    for each in found:
        document = _document(each, declared)
        names = (", ".join(document[name]) for name in ("metrics", "undeclared"))
        times = (str(document[name] or "")[:16] for name in ("from", "to", "fetchedAt"))
        table.add_row(each.id, each.report, each.tenant, "yes" if document["current"] else "no", *names, *times)
    Console().print(table)


@series.command()
@click.argument("series_id", metavar="ID")
def drop(series_id: str) -> None:
    """Delete the rows of the series with this ID, and what is known of it. It must not be a declared report's current one."""
    settings = read_settings()
    declared = load_reports(settings)
    migrate_history(settings, declared)
    with open_series(settings.required_postgres_url()) as store:
        found = next((each for each in store.all() if each.id == series_id), None)
        if found is None:
            raise CommandError(f"no series {series_id[:80]!r}; `cache-pipeline series list` shows them")
        if _is_current(found, declared):
            raise CommandError(
                f"{series_id} is the current series of {found.report}: it is served, and would be fetched again; drop others"
            )
        click.echo(f"series {series_id} of {found.report} dropped, {store.drop(found):,} rows")


def _is_current(held: HeldSeries, declared: dict[str, Report]) -> bool:
    report = declared.get(held.report)
    return report is not None and Series(report, held.tenant).id == held.id


def _document(held: HeldSeries, declared: dict[str, Report]) -> dict[str, Any]:
    report = declared.get(held.report)
    current = report is not None and _is_current(held, declared)
    wanted = report.metrics if report is not None and current else ()
    return {
        "id": held.id,
        "report": held.report,
        "tenant": held.tenant,
        "current": current,
        "definition": held.definition,
        "metrics": list(held.metrics),
        "undeclared": [name for name in held.metrics if current and name not in wanted],
        "from": held.start and held.start.isoformat(),
        "to": held.end and held.end.isoformat(),
        "fetchedAt": held.fetched_at and held.fetched_at.isoformat(),
    }
