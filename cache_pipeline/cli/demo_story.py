"""What a demo says at its end: what its figures took, what dashboards of their own would have taken, and where to look."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.cli.demo_environment import DemoEnvironment
from cache_pipeline.query.query_request import QueryOverrides
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import to_snake_case
from cache_pipeline.service.names import Names, lookups_by_column
from cache_pipeline.service.plan import Cost
from cache_pipeline.storage.postgres.async_pool import connection_pool
from cache_pipeline.storage.postgres.status_queries import PostgresStatusQueries
from cache_pipeline.storage.ttl import report_freshness

_POLL_EVERY = timedelta(minutes=5)
_DASHBOARDS = 10
_EPOCH = datetime.fromtimestamp(0, UTC)
_DAY = timedelta(days=1)
_INDENT = 12


@dataclass(frozen=True)
class RequestsSpent:
    """What the stored figures of a report took.

    Attributes:
        total: Requests to the vendor, in this run and all earlier ones.
        now: Those of this run.
        per_query: Mean number of requests that one of its queries takes.
    """

    total: int
    now: int
    per_query: float


def print_story(demo: DemoEnvironment, console: Console) -> None:
    """Print the busiest queue by name, and what was saved."""
    reports = load_reports(demo.settings)
    if busiest := asyncio.run(_find_busiest(demo, reports)):
        console.print(busiest, highlight=False)
    spent = asyncio.run(_read_requests(demo, reports))
    console.print(describe_savings(spent, reports), highlight=False)


async def _read_requests(demo: DemoEnvironment, reports: Mapping[str, Report]) -> dict[str, RequestsSpent]:
    """Return what the figures of each report took, as the store remembers it."""
    async with (
        open_service(demo.settings) as service,
        connection_pool(demo.settings.required_postgres_url(), 1) as pool,
    ):
        queries, series = PostgresStatusQueries(pool), {name: service.series(each) for name, each in reports.items()}
        total = await queries.vendor_requests(series.values(), _EPOCH)
        now = await queries.vendor_requests(series.values(), demo.now)
        spent: dict[str, RequestsSpent] = {}
        for name, each in series.items():
            _, measured = await asyncio.to_thread(service.history.coverages_with_cost, [each], cost_of=each)
            cost = Cost(*measured) if measured else Cost.assumed(each.report)
            spent[name] = RequestsSpent(total.get(each.id, 0), now.get(each.id, 0), cost.calls)
        return spent


def describe_savings(spent: Mapping[str, RequestsSpent], reports: Mapping[str, Report]) -> str:
    """Compare what the figures took with what dashboards that ask the vendor themselves would take.

    Args:
        spent: What the figures of each report took, by its name.
        reports: The reports by name.
    """
    total, now = sum(each.total for each in spent.values()), sum(each.now for each in spent.values())
    if total == now:
        when = ", and take none again"
    elif now:
        when = f", {now:,} of them in this run: what was stored before was not asked for again"
    else:
        when = ", all of them in earlier runs: this one found all in the store"
    polling = sum(each.per_query for each in spent.values()) * (_DAY / _POLL_EVERY)
    fresh = sum(spent[name].per_query * (_DAY / report_freshness(each)) for name, each in reports.items())
    asked = "1 report" if len(reports) == 1 else f"{len(reports)} reports"
    return (
        f"What it saves: these figures took {total:,} requests{when}. A dashboard that asks the vendor itself for "
        f"{asked} every five minutes sends about {polling:,.0f} requests a day, and {_DASHBOARDS} dashboards "
        f"{_DASHBOARDS * polling:,.0f}; through cache_pipeline about {fresh:,.0f} keep all of them as fresh as declared"
    )


async def _find_busiest(demo: DemoEnvironment, reports: Mapping[str, Report]) -> str | None:
    """Return a sentence about the group with the most arrivals of the last week, by its name; None if no report tells."""
    async with open_service(demo.settings) as service:
        for report in reports.values():
            named = lookups_by_column(report, service.columns(report))
            dimension = next((each for each in report.group_by if to_snake_case(each) in named), None)
            _, end = demo.days(report)
            first = max(end - timedelta(days=7), demo.days(report)[0])
            if dimension is None or report.volume_metric is None:
                continue
            overrides = QueryOverrides(group_by=(dimension,), metrics=(report.volume_metric,), granularity="P1D")
            answer = await service.answer(report, f"{first}/{end}", overrides=overrides)
            document = json.loads(answer.body)
            totals: Counter[str] = Counter()
            column = to_snake_case(dimension)
            for values in document["rows"]:
                row = dict(zip(document["columns"], values, strict=True))
                totals[row[column]] += row[document["columns"][-1]]
            if not totals:
                continue
            (id_, most), *_ = totals.most_common(1)
            names = Names(service.names, demo.settings.tenant)
            by_id = await asyncio.to_thread(names.current, report, {column: {id_}})
            name = by_id.get(column, {}).get(id_, id_)
            share = most / max(1, totals.total())
            return f"Busiest of {len(totals)} in {report.name}, {first} to {end}: [bold]{name}[/] with {most:,.0f}, {share:.0%} of all"
    return None


def print_addresses(addresses: Sequence[tuple[str, str, str]], log: Path, console: Console) -> None:
    """Print one screen with each address and what there is to see.

    Args:
        addresses: What it is, its address, and what to see there.
        log: The file with the output of the processes.
        console: Where to print.
    """
    console.print()
    for what, address, purpose in addresses:
        # On a line of its own, because an address that is broken cannot be clicked.
        console.print(f"[bold]{what:<{_INDENT}}[/]{purpose}", soft_wrap=True, highlight=False)
        console.print(f"{'':<{_INDENT}}[link={address}]{address}[/]", soft_wrap=True, highlight=False)
    console.print(f"Output of all processes: {log}\nCtrl-C stops everything.\n", soft_wrap=True, highlight=False)
