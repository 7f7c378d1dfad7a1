"""``cache-pipeline series``: list what history holds of earlier declarations, and drop it."""

import json
import sys
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports, report_columns
from cache_pipeline.errors import CommandError
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import format_instant, parse_instant
from cache_pipeline.query.query_request import NO_OVERRIDES, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import ColumnKind
from cache_pipeline.query.series import Series
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.changes import RowChange, open_changes
from cache_pipeline.storage.postgres.stored_series import HeldSeries, open_series

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


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


@series.command()
@click.argument("report")
@click.argument("interval")
@click.option("--since", metavar="INSTANT", help="Only changes from INSTANT on, ISO 8601 with an offset.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1), help="The most changes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def changes(*, report: str, interval: str, since: str | None, limit: int, as_json: bool) -> None:
    """Show which final rows of REPORT over INTERVAL were replaced: both values, when, and by which fetch.

    For reports that declare time_travel.
    """
    settings = read_settings()
    declared = load_reports(settings)
    found = find_report(declared, report)
    if found.time_travel is None:
        raise CommandError(f"{found.name} keeps no superseded figures: declare time_travel, such as P90D")
    start = parse_instant(since) if since else _EARLIEST
    columns = report_columns(found)
    request = resolve_request(found, interval, NO_OVERRIDES, columns)
    figures = [column.name for column in columns if column.kind in (ColumnKind.integer, ColumnKind.number)]
    migrate_history(settings, declared)
    with open_changes(settings.required_postgres_url()) as log:
        changed = log.changes(Series(found, settings.tenant), request.interval, figures, start, limit)
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps([_change_document(each) for each in changed], indent=1))
        return
    table = Table(title=f"Changes of {found.name}", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("replaced at", "bucket", "group", "figure", "before", "after", "fetched", "fetched again", "lane"):
        table.add_column(heading, justify="right" if heading in ("before", "after") else "left")
    for each in changed:
        group = ", ".join(str(value) for value in each.group.values())
        times = (
            format_instant(each.fetched_at) if each.fetched_at else "",
            format_instant(each.refetched_at) if each.refetched_at else "",
        )
        for name in figures:
            before, after = ((values or {}).get(name) for values in (each.before, each.after))
            if before != after:
                shown = ("-" if value is None else f"{value:,}" for value in (before, after))
                table.add_row(
                    format_instant(each.known_until),
                    format_instant(each.bucket),
                    group,
                    name,
                    *shown,
                    *times,
                    each.lane or "",
                )
    Console().print(table)


def _change_document(change: RowChange) -> dict[str, Any]:
    return {
        "bucket": format_instant(change.bucket),
        "group": change.group,
        "before": change.before,
        "after": change.after,
        "replacedAt": format_instant(change.known_until),
        "fetchedAt": format_instant(change.fetched_at) if change.fetched_at else None,
        "refetchedAt": format_instant(change.refetched_at) if change.refetched_at else None,
        "lane": change.lane,
    }


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
