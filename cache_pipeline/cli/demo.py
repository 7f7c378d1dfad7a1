"""``cache-pipeline demo``: backfill all reports, publish them, and report the result."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from rich import box
from rich.console import Console
from rich.table import Table

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.bootstrap.stores import open_edge_tier
from cache_pipeline.cli.backfills import run_backfills
from cache_pipeline.cli.day_totals import DayTotals, Volume, day_totals, volumes_of_file, volumes_of_vendor
from cache_pipeline.cli.demo_environment import DemoEnvironment
from cache_pipeline.errors import CommandError
from cache_pipeline.orchestration.backfill_outcome import BackfillOutcome
from cache_pipeline.query.report import Report
from cache_pipeline.upstream.http import httpx


@dataclass(frozen=True)
class DemoReport:
    """What a demo came to.

    Attributes:
        outcomes: of each report's backfill.
        days: totals of each report by day.
        upstream: requests that the vendor counted, by kind.
        seconds: from the first request to the last comparison.
    """

    outcomes: Mapping[str, BackfillOutcome]
    days: Mapping[str, list[DayTotals]]
    upstream: Mapping[str, int]
    seconds: float

    @property
    def succeeded(self) -> bool:
        """Whether every run succeeded, every check passed, and tiers and vendor agree on every day."""
        return all(self.report_succeeded(name) for name in self.outcomes)

    def report_succeeded(self, name: str) -> bool:
        """Return the totals of one report."""
        outcome = self.outcomes[name]
        checked = bool(outcome["checks"]) and all(check["passed"] for check in outcome["checks"])
        return outcome["success"] and checked and bool(self.days[name]) and all(day.agree for day in self.days[name])

    def as_json(self) -> dict[str, Any]:
        """For ``demo-report.json``."""
        return {
            "succeeded": self.succeeded,
            "seconds": round(self.seconds, 1),
            "upstream": dict(self.upstream),
            "reports": {
                name: {
                    **outcome,
                    "rows": _rows(self.days[name]),
                    "tiers_agree": all(day.agree for day in self.days[name]),
                    "days": [
                        {**asdict(day), "day": day.day.isoformat(), "agree": day.agree} for day in self.days[name]
                    ],
                }
                for name, outcome in self.outcomes.items()
            },
        }


def _rows(days: list[DayTotals]) -> dict[str, int]:
    return {tier: sum(day.rows[tier] for day in days) for tier in ("history", "hot", "edge")}


def run_demo(demo: DemoEnvironment, console: Console) -> DemoReport:
    """Backfill all reports through Dagster, then compare the tiers with each other."""
    settings = demo.settings
    reports = load_reports(settings)
    migrate_history(settings, reports)
    open_edge_tier(settings)
    first_day, end_day = demo.days(next(iter(reports.values())))
    console.print(
        f"Backfilling {len(reports)} report{'s' if len(reports) > 1 else ''}, {first_day} to {end_day} (exclusive), "
        "each a Dagster run in a process of its own; one quota for all of them"
    )
    started = time.monotonic()
    outcomes = run_backfills(demo, reports.values(), console)
    volumes = {"vendor": volumes_of_vendor(demo.simulator_url)}
    if demo.request.arrivals:
        volumes["file"] = volumes_of_file(demo.request.arrivals, ZoneInfo(demo.request.arrivals_zone))
    kept = {name: report for name, report in reports.items() if outcomes[name]["success"]}
    days = asyncio.run(_compare(demo, kept, volumes))
    return DemoReport(
        outcomes,
        {name: days.get(name, []) for name in reports},
        _upstream_counts(demo),
        time.monotonic() - started,
    )


async def _compare(
    demo: DemoEnvironment, reports: Mapping[str, Report], volumes: Mapping[str, Volume]
) -> dict[str, list[DayTotals]]:
    edge = open_edge_tier(demo.settings)
    async with open_service(demo.settings) as service:
        return {
            name: await day_totals(service, edge, report, demo.days(report), volumes.items())
            for name, report in reports.items()
        }


def _upstream_counts(demo: DemoEnvironment) -> dict[str, int]:
    summary = httpx.get(f"{demo.simulator_url}/simulator/counters").json()["summary"]
    return {kind: int(count) for kind, count in summary.items()}


def print_report(report: DemoReport, console: Console) -> None:
    """Print for people what the JSON holds."""
    # Fits a terminal of 80 columns, and what is piped into a file.
    title = "Rows that each tier holds now, and whether the totals of each day agree"
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("report", "partitions", "PostgreSQL", "Redis", "Parquet", "checks", "agree"):
        table.add_column(heading, justify="left" if heading == "report" else "right", no_wrap=True)
    for name, outcome in report.outcomes.items():
        rows, passed = _rows(report.days[name]), sum(check["passed"] for check in outcome["checks"])
        agree = bool(report.days[name]) and all(day.agree for day in report.days[name])
        table.add_row(
            name,
            str(outcome["partitions"]),
            *(f"{rows[tier]:,}" for tier in ("history", "hot", "edge")),
            f"{passed} of {len(outcome['checks'])}" if outcome["checks"] else "none ran",
            "[green]yes[/]" if agree else "[red]no[/]",
        )
    console.print(table)
    for name, outcome in report.outcomes.items():
        if outcome["error"]:
            console.print(f"[red]{name}[/]: {outcome['error']}", highlight=False)
        for check in outcome["checks"]:
            if not check["passed"]:
                console.print(f"[red]{name}[/]: check {check['check']} does not pass", highlight=False)
            elif check["failed_before"]:
                console.print(
                    f"{name}: {check['check']} failed {check['failed_before']} times on truncated answers, "
                    "which were discarded and fetched again in smaller chunks, and passes now",
                    highlight=False,
                )
    if any("file" in day.totals for days in report.days.values() for day in days):
        _print_days(report, console)
    counts = report.upstream
    others = counts["requests"] - sum(counts[kind] for kind in ("submits", "polls", "results", "sync_queries"))
    console.print(
        f"Upstream in this run: {counts['requests']} requests ({counts['submits']} submits, {counts['polls']} polls, "
        f"{counts['results']} result pages, {counts['sync_queries']} sync queries, {others} others), "
        f"{counts['logins']} logins, [bold]{counts['rejected_429']}[/] answered 429; {report.seconds:.0f} s",
        highlight=False,
    )


def _print_days(report: DemoReport, console: Console) -> None:
    for name, days in report.days.items():
        table = Table(title=f"{name}: arrivals by day")
        for heading in ("day", "file", "PostgreSQL", "Redis", "Parquet", ""):
            table.add_column(heading, justify="left" if heading == "day" else "right")
        for day in days:
            numbers = [f"{day.totals[source]:,}" for source in ("file", "history", "hot", "edge")]
            table.add_row(day.day.isoformat(), *numbers, "[green]equal[/]" if day.agree else "[red]differ[/]")
        console.print(table)


def write_report(report: DemoReport, data_dir: Path) -> Path:
    """Write ``demo-report.json``; a reader sees the old or the new one whole.

    Raises:
        CommandError: the folder cannot be written.
    """
    path = data_dir / "demo-report.json"
    document = {"generated_at": datetime.now(UTC).isoformat(timespec="seconds"), **report.as_json()}
    partial = path.with_suffix(".part")
    try:
        partial.write_text(json.dumps(document, indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    return path
