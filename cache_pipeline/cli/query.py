"""``cache-pipeline plan`` tells what a query will take before anything is sent; ``cache-pipeline query`` asks it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cache_pipeline.bootstrap import load_reports, migrate_history, open_service, quota_headroom, report_columns
from cache_pipeline.cli.filter_options import query_overrides
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.query_request import QueryOverrides, QueryRequest, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.service.planner import AnswerSource, Plan
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.storage.answer import Answer

_COLOURS = {
    AnswerSource.hot: "green",
    AnswerSource.history: "green",
    AnswerSource.roll_up: "cyan",
    AnswerSource.vendor: "yellow",
}


@click.command("plan")
@click.argument("report")
@click.argument("interval")
@query_overrides
def plan_command(*, report: str, interval: str, narrowed: QueryOverrides, as_json: bool) -> None:
    """Tell what answering REPORT over INTERVAL will take, and why; nothing is sent to the vendor."""
    settings = read_settings()
    declared = load_reports(settings)
    wanted = _wanted(declared, report, interval, narrowed)
    migrate_history(settings, declared)
    made = asyncio.run(_planned(settings, declared, wanted))
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(plan_document(made), indent=1))
    else:
        heading = f"{made.query.source_series.report.name} {made.query.interval}"
        Console().print(heading, _plan_table(made), _summary(made), sep="\n", highlight=False)


def _wanted(declared: dict[str, Report], name: str, interval: str, narrowed: QueryOverrides) -> QueryRequest:
    report = find_report(declared, name)
    return resolve_request(report, interval, narrowed, report_columns(report))


async def _planned(settings: Settings, declared: Mapping[str, Report], wanted: QueryRequest) -> Plan:
    room = await quota_headroom(settings, wanted.declared, Lane.interactive)
    async with open_service(settings, declared=tuple(declared.values())) as service:
        return await service.plan(service.clip_to_now(wanted), room)


def plan_document(made: Plan) -> dict[str, Any]:
    """Return a plan as JSON."""
    query, cost = made.query, made.cost
    return {
        "report": query.source_series.report.name,
        "interval": str(query.interval),
        "granularity": query.series.report.granularity,
        "timeZone": query.series.report.time_zone,
        "groupBy": list(query.series.report.group_by),
        "metrics": list(query.series.report.metrics),
        "steps": [
            {
                "source": step.source,
                "report": step.report,
                "interval": str(step.interval),
                "why": step.reason,
                "calls": round(step.calls, 1),
                "seconds": round(step.seconds, 1),
            }
            for step in made.steps
        ],
        "upstreamQueries": len(made.chunks),
        "calls": round(made.calls, 1),
        "seconds": round(made.seconds, 1),
        "waitSeconds": round(made.wait_seconds, 1),
        "learned": bool(cost and cost.is_measured),
    }


def _plan_table(made: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("from", "report", "interval", "why"):
        table.add_column(heading, overflow="fold")
    for heading in ("calls", "seconds"):
        table.add_column(heading, justify="right")
    for step in made.steps:
        figures = (f"{step.calls:.1f}", f"{step.seconds:.1f}") if step.source is AnswerSource.vendor else ("", "")
        colour = _COLOURS[step.source]
        table.add_row(f"[{colour}]{step.source}[/]", step.report, str(step.interval), step.reason, *figures)
    return table


def _summary(made: Plan) -> str:
    if not made.chunks or made.cost is None:
        return "Nothing is asked of the vendor."
    queries = "1 upstream query" if len(made.chunks) == 1 else f"{len(made.chunks)} upstream queries"
    basis = "as the latest ones of this report took" if made.cost.is_measured else "assumed: none was sent yet"
    waiting = f", of which {made.wait_seconds:.0f} s for the quota" if made.wait_seconds else ""
    return f"{queries}, about {made.calls:.0f} requests and {made.seconds:.0f} s{waiting} ({basis})."


@click.command("query")
@click.argument("report")
@click.argument("interval")
@query_overrides
def query_command(*, report: str, interval: str, narrowed: QueryOverrides, as_json: bool) -> None:
    """Answer REPORT over INTERVAL (start/end or start/P1D; ends without an offset are in the report's zone)."""
    settings = read_settings()
    declared = load_reports(settings)
    wanted = _wanted(declared, report, interval, narrowed)

    async def answered() -> Answer:
        async with open_service(settings, declared=tuple(declared.values())) as service:
            return await service.answer_query(service.clip_to_now(wanted))

    migrate_history(settings, declared)
    document = json.loads(asyncio.run(answered()).body)
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(document, indent=1))
    else:
        _show_answer(document, Console())


def _show_answer(document: Mapping[str, Any], console: Console) -> None:
    provisional = document["provisionalFrom"]
    heading = f"{document['report']} {document['interval']}, {document['granularity']} in {document['timeZone']}"
    known = f"provisional from {provisional}" if provisional else "final"
    console.print(
        heading, _answer_table(document), f"{known}, fetched {document['fetchedAt']}", sep="\n", highlight=False
    )


def _answer_table(document: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    shown = [place for place, name in enumerate(document["columns"]) if name != "interval_end"]
    numbers = {place for row in document["rows"] for place in shown if isinstance(row[place], int | float)}
    for place in shown:
        table.add_column(document["columns"][place], justify="right" if place in numbers else "left")
    for row in document["rows"]:
        table.add_row(*(_cell(row[place]) for place in shown))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)
