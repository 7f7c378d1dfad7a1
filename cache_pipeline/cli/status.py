"""``cache-pipeline status``: the stored days of each report, open queries and jobs, and quota."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cache_pipeline.api.schemas import ad_hoc_series_view, report_status_view
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import configured_days, load_reports
from cache_pipeline.cli.activity import describe_activity, read_activity
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.series import Series
from cache_pipeline.service.status import DayState, ReportStatus, report_status
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history

_SQUARES = {
    DayState.final: ("■", "green"),
    DayState.provisional: ("▣", "yellow"),
    DayState.begun: ("◌", "dim"),
    DayState.partial: ("◧", "magenta"),
    DayState.missing: ("□", "red"),
}
_LEGEND = Text.assemble(
    *itertools.chain.from_iterable(((square, colour), f" {state}   ") for state, (square, colour) in _SQUARES.items())
)


@click.command()
@click.argument("report", required=False)
@click.option("--days", default=35, show_default=True, type=click.IntRange(1, 3660), help="Number of days to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(report: str | None, days: int, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Show the stored days of every report, open queries and jobs, and quota; or the calendar of one REPORT."""
    settings, now = read_settings(), utc_now()
    partition_days = configured_days(settings)
    declared = load_reports(settings)
    selected = [find_report(declared, report)] if report else list(declared.values())
    with open_history(settings.required_postgres_url()) as history:
        statuses = [
            report_status(each, partition_days, history.coverage(Series(each, settings.tenant)), now, days)
            for each in selected
        ]
    work = asyncio.run(read_activity(settings))
    if as_json:
        reports = [report_status_view(each).model_dump(mode="json", by_alias=True) for each in statuses]
        ad_hoc = [ad_hoc_series_view(each).model_dump(mode="json", by_alias=True) for each in work.ad_hoc]
        click.echo(json.dumps({"reports": reports, **asdict(work), "ad_hoc": ad_hoc}, indent=1, default=str))
        return
    console = Console()
    if report:
        console.print(_calendar(statuses[0].days))
        for gap in statuses[0].gaps[:20]:
            console.print(f"missing: {gap}", highlight=False)
        console.print(_LEGEND)
    else:
        console.print(_overview(statuses, now))
        console.print(_LEGEND)
        for line in describe_activity(work):
            console.print(line, highlight=False)


def _overview(statuses: Sequence[ReportStatus], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("report", "final until", "provisional figures", "gaps", "days to today"):
        table.add_column(heading)
    for each in statuses:
        table.add_row(
            each.report,
            f"{each.complete_through:%Y-%m-%d %H:%M}Z" if each.complete_through else "-",
            _age(each, now),
            str(len(each.gaps)) if each.gaps else "none",
            Text.assemble(*(_SQUARES[state] for _, state in each.days)),
        )
    return table


def _age(each: ReportStatus, now: datetime) -> Text:
    if each.fetched_at is None:
        return Text("none")
    age = f"{_format_age(now - each.fetched_at)} old"
    return Text(f"{age}, due to be fetched again", "red") if each.is_stale else Text(age)


def _format_age(length: timedelta) -> str:
    minutes = round(length.total_seconds() / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def _calendar(days: Sequence[tuple[date, DayState]]) -> Table:
    """Return a calendar with a row per week, from Monday."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", *("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")):
        table.add_column(heading)
    for monday, week in itertools.groupby(days, lambda each: each[0] - timedelta(days=each[0].weekday())):
        states = {day.weekday(): state for day, state in week}
        squares = [Text(*_SQUARES[states[weekday]]) if weekday in states else Text("") for weekday in range(7)]
        table.add_row(Text(f"{monday:%Y-%m-%d}", "dim"), *squares)
    return table
