"""``cache-pipeline plan`` shows what a query will cost before anything is sent; ``cache-pipeline query`` runs it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache_pipeline.bootstrap.accounts import quota_headroom
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_all_reports, report_columns
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.bootstrap.stores import open_hot_tier, open_stored_names
from cache_pipeline.cli.files import write_atomically
from cache_pipeline.cli.filter_options import query_overrides
from cache_pipeline.cli.output import CsvOptions, OutputFormat, choose_format, render_binary, render_text
from cache_pipeline.errors import CommandError
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.live_report import LiveReport, check_live_request
from cache_pipeline.query.measure_columns import add_measures, choose_measures, measure_columns
from cache_pipeline.query.names import NameTime
from cache_pipeline.query.query_request import QueryOverrides, QueryRequest, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.service.clipping import clip_request
from cache_pipeline.settings import Settings, read_settings

# A table, a plan and the whole service are imported where they are needed: a hot answer needs none of them.
if TYPE_CHECKING:
    from rich.table import Table

    from cache_pipeline.query.schema import Column
    from cache_pipeline.service.plan import Plan
    from cache_pipeline.storage.answer import Answer

_COLOURS = {"hot": "green", "history": "green", "roll_up": "cyan", "vendor": "yellow"}


@click.command("plan")
@click.argument("report")
@click.argument("interval")
@query_overrides
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also on a terminal.")
def plan_command(*, report: str, interval: str, overrides: QueryOverrides, as_json: bool) -> None:
    """Show how REPORT over INTERVAL would be answered, and why. Nothing is sent to the vendor."""
    settings = read_settings()
    declared, live_reports = load_all_reports(settings)
    request = _resolve(declared, live_reports, report, interval, overrides)
    migrate_history(settings, declared)
    plan = asyncio.run(_make_plan(settings, declared, request))
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(plan_document(plan), indent=1))
    else:
        from rich.console import Console

        heading = f"{plan.query.source_series.report.name} {plan.query.interval}"
        Console().print(heading, _plan_table(plan), _summary(plan), sep="\n", highlight=False)


def _resolve(
    declared: Mapping[str, Report],
    live_reports: Mapping[str, LiveReport],
    name: str,
    interval: str,
    overrides: QueryOverrides,
) -> QueryRequest:
    report = find_report({**declared, **live_reports}, name)
    if isinstance(report, LiveReport):
        raise CommandError(
            f"{name} is live: its query takes one request for all of it, and none if it is half a minute old at most"
        )
    return resolve_request(report, interval, overrides, report_columns(report))


async def _make_plan(settings: Settings, declared: Mapping[str, Report], request: QueryRequest) -> Plan:
    headroom = await quota_headroom(settings, request.declared, Lane.interactive)
    async with open_service(settings, declared=tuple(declared.values())) as service:
        return await service.plan(service.clip_to_now(request), headroom)


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON."""
    query, cost = plan.query, plan.cost
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
                "reason": step.reason,
                "calls": round(step.calls, 1),
                "seconds": round(step.seconds, 1),
            }
            for step in plan.steps
        ],
        "upstreamQueries": len(plan.chunks),
        "calls": round(plan.calls, 1),
        "seconds": round(plan.seconds, 1),
        "waitSeconds": round(plan.wait_seconds, 1),
        "learned": bool(cost and cost.is_measured),
        "month": plan.allotment and plan.allotment.as_document(plan.calls),
    }


def _plan_table(plan: Plan) -> Table:
    from rich import box
    from rich.table import Table

    from cache_pipeline.service.plan import AnswerSource

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("source", "report", "interval", "reason"):
        table.add_column(heading, overflow="fold")
    for heading in ("calls", "seconds"):
        table.add_column(heading, justify="right")
    for step in plan.steps:
        figures = (f"{step.calls:.1f}", f"{step.seconds:.1f}") if step.source is AnswerSource.vendor else ("", "")
        colour = _COLOURS[step.source.name]
        table.add_row(f"[{colour}]{step.source}[/]", step.report, str(step.interval), step.reason, *figures)
    return table


def _summary(plan: Plan) -> str:
    if not plan.chunks or plan.cost is None:
        return "Nothing is fetched from the vendor."
    queries = "1 upstream query" if len(plan.chunks) == 1 else f"{len(plan.chunks)} upstream queries"
    basis = (
        "estimated from this report's latest queries"
        if plan.cost.is_measured
        else "default estimate: this report has sent no query yet"
    )
    waiting = f", of which {plan.wait_seconds:.0f} s for the quota" if plan.wait_seconds else ""
    return f"{queries}, about {plan.calls:.0f} requests and {plan.seconds:.0f} s{waiting} ({basis}).{_month(plan)}"


def _month(plan: Plan) -> str:
    return "" if plan.allotment is None else f" {plan.allotment.describe(plan.calls)}."


@click.command("query")
@click.argument("report")
@click.argument("interval", required=False)
@query_overrides
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(OutputFormat)),
    help="Format (default: by the suffix of FILE; else a table on a terminal, and JSON elsewhere).",
)
@click.option("--json", "format_name", flag_value="json", help="The same as --format json.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to FILE.")
@click.option(
    "--names",
    is_flag=False,
    flag_value="current",
    type=click.Choice(list(NameTime)),
    help="Add names after ids: current ones, or those at the time of the figures (then).",
)
@click.option("--measures", metavar="NAMES", help="Add comma-separated measures of the report, such as abandon_rate.")
@click.option(
    "--as-of",
    metavar="INSTANT",
    help="Final figures as they were known at INSTANT, ISO 8601 with an offset; for reports that declare time_travel.",
)
@click.option(
    "--live",
    "has_live",
    is_flag=True,
    help="Add what happens now, if the report declares a live report; the column state says what is final, provisional or live.",
)
@click.option("--local-time", is_flag=True, help="CSV: write times as the clock shows them in the report's time zone.")
@click.option("--bom", is_flag=True, help="CSV: begin with a byte order mark, by which Excel recognises UTF-8.")
@click.option("--whole-numbers", is_flag=True, help="CSV: write whole figures without a decimal point.")
@click.option(
    "--safe-text",
    is_flag=True,
    help="CSV: put an apostrophe before texts that a spreadsheet would run as formulas (=, +, -, @ …).",
)
def query_command(
    *,
    report: str,
    interval: str | None,
    overrides: QueryOverrides,
    format_name: str | None,
    output: Path | None,
    names: str | None,
    measures: str | None,
    as_of: str | None,
    has_live: bool,
    local_time: bool,
    bom: bool,
    whole_numbers: bool,
    safe_text: bool,
) -> None:
    """Print REPORT over INTERVAL (start/end or start/P1D; times without an offset are in the report's time zone).

    A live report has no INTERVAL.
    """
    chosen, options = choose_format(format_name, output), CsvOptions(local_time, bom, whole_numbers, safe_text)
    if options != CsvOptions() and chosen is not OutputFormat.csv:
        raise click.UsageError("--local-time, --bom, --whole-numbers and --safe-text are for CSV: add --format csv")
    settings = read_settings()
    declared, live_reports = load_all_reports(settings)
    wanted = [name.strip() for name in (measures or "").split(",") if name.strip()]
    if report in live_reports:
        changed = {
            "interval": interval,
            **vars(overrides),
            "measures": wanted or None,
            "live": has_live or None,
            "as_of": as_of,
        }
        check_live_request(live_reports[report], changed)
        if local_time:
            raise click.UsageError(f"{report} has no time zone: leave out --local-time")
        _write(chosen, *_answer_live(settings, declared, live_reports[report], names), options, output)
        return
    if interval is None:
        raise click.UsageError("Missing argument 'INTERVAL'.")
    request = _resolve(declared, live_reports, report, interval, overrides)
    live = _choose_live_part(request, live_reports, as_of) if has_live else None
    columns = report_columns(request.requested)
    chosen_measures = choose_measures(wanted, request.requested.measures, columns)
    settings.required_postgres_url()
    answer = None if as_of else asyncio.run(_hot_answer(settings, request))
    if answer is None:
        migrate_history(settings, declared)
        answer = asyncio.run(_answer(settings, declared, request, as_of))
    names_time = NameTime(names) if names else None
    if names_time is not None:
        with open_stored_names(settings) as stored:
            answer = stored.add_to_answer(request.requested, columns, answer, names_time)
            columns = stored.columns(request.requested, columns)
    if chosen_measures:
        from cache_pipeline.storage.answer import read_rows, replace_rows

        rows = read_rows(answer.body, columns) if answer.rows is None else answer.rows
        answer = replace_rows(answer, add_measures(rows, chosen_measures))
        columns = (*columns, *measure_columns(chosen_measures))
    if live is not None:
        migrate_history(settings, declared)
        answer = _add_live_part(settings, request, live, answer, columns, names_time)
    _write(chosen, answer, columns, options, output)


def _answer_live(
    settings: Settings, declared: Mapping[str, Report], report: LiveReport, names: str | None
) -> tuple[Answer, Sequence[Column]]:
    """Return the answer of a live report, and its columns."""
    from cache_pipeline.service.live_answers import live_columns

    async def read() -> Answer:
        async with open_service(settings) as service:
            return (await service.live_answers.answer(report, settings.tenant))[0]

    migrate_history(settings, declared)
    answer, columns = asyncio.run(read()), live_columns(report)
    if names is not None:
        with open_stored_names(settings) as stored:
            answer = stored.add_to_answer(report, columns, answer, NameTime(names))
            columns = stored.columns(report, columns)
    return answer, columns


def _choose_live_part(request: QueryRequest, live_reports: Mapping[str, LiveReport], as_of: str | None) -> LiveReport:
    from cache_pipeline.query.live_part import choose_live_part

    return choose_live_part(request.requested, live_reports, is_of_the_past=as_of is not None)


def _add_live_part(
    settings: Settings,
    request: QueryRequest,
    report: LiveReport,
    answer: Answer,
    columns: Sequence[Column],
    names: NameTime | None,
) -> Answer:
    """Return an answer with the rows of a live report after its own."""
    from cache_pipeline.service.live_part import LivePart, add_live_part, read_live_part

    async def read() -> LivePart:
        async with open_service(settings) as service:
            return await read_live_part(service.live_answers, report, request, settings.tenant, service.clock())

    part = asyncio.run(read())
    if names is None:
        return add_live_part(answer, columns, request, part)
    with open_stored_names(settings) as stored:
        return add_live_part(answer, columns, request, part, (stored, names))


async def _hot_answer(settings: Settings, request: QueryRequest) -> Answer | None:
    async with open_hot_tier(settings) as hot:
        return await hot.get(clip_request(request, utc_now(), settings.tenant))


async def _answer(
    settings: Settings, declared: Mapping[str, Report], request: QueryRequest, as_of: str | None
) -> Answer:
    async with open_service(settings, declared=tuple(declared.values())) as service:
        if as_of:
            from cache_pipeline.service.past_answers import parse_as_of

            return await service.past_answers.answer(service.clip_to_now(request), parse_as_of(as_of))
        return await service.answer_query(service.clip_to_now(request))


def _write(
    chosen: OutputFormat, answer: Answer, columns: Sequence[Column], options: CsvOptions, output: Path | None
) -> None:
    if chosen is OutputFormat.table:
        rendered = _render_table(json.loads(answer.body), coloured=sys.stdout.isatty() and output is None).encode()
    elif chosen.is_binary:
        rendered = render_binary(chosen, answer.body, columns, answer.rows)
    else:
        indent = output is None and sys.stdout.isatty()
        rendered = render_text(chosen, json.loads(answer.body), options, indent=indent).encode()
    if output is not None:
        write_atomically(output, rendered)
    else:
        click.echo(rendered, nl=False)


def _render_table(document: Mapping[str, Any], *, coloured: bool) -> str:
    from rich.console import Console

    console = Console(force_terminal=coloured)
    with console.capture() as captured:
        console.print(_heading(document), _answer_table(document), _footer(document), sep="\n", highlight=False)
    return captured.get()


def _heading(document: Mapping[str, Any]) -> str:
    if "interval" not in document:
        return f"{document['report']}, now"
    return f"{document['report']} {document['interval']}, {document['granularity']} in {document['timeZone']}"


def _footer(document: Mapping[str, Any]) -> str:
    """Say how old the figures are, and which of them may still change."""
    parts: list[str] = []
    if "interval" in document:
        provisional = document["provisionalFrom"]
        known = f"provisional from {provisional}" if provisional else "final"
        at = f"as known at {document['asOf']}" if "asOf" in document else f"fetched {document['fetchedAt']}"
        parts.append(f"{known}, {at}")
    if document.get("observedAt"):
        parts.append(f"observed {document['observedAt']}, fresh until {document['freshUntil']}")
    if document.get("liveProblem"):
        parts.append(f"no live figures: {document['liveProblem']}")
    return "; ".join(parts)


def _answer_table(document: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    shown = [index for index, name in enumerate(document["columns"]) if name != "interval_end"]
    numbers = {index for row in document["rows"] for index in shown if isinstance(row[index], int | float)}
    for index in shown:
        table.add_column(document["columns"][index], justify="right" if index in numbers else "left")
    for row in document["rows"]:
        table.add_row(*(_cell(row[index]) for index in shown))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)
