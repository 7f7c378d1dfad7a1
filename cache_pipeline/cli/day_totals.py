"""Day totals of each tier, and of the file of real volumes, side by side."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import to_snake_case
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.upstream.http import httpx

#: Arrivals in an interval.
Volume = Callable[[Interval], int]


@dataclass(frozen=True)
class DayTotals:
    """One local day of one report: the sum of its volume metric and the rows, in each tier.

    Attributes:
        day: local day of the report's zone.
        totals: by tier, ``history``, ``hot`` and ``edge``; by ``vendor``, from the simulator's own account of its calls;
            and by ``file`` where real volumes are replayed.
        rows: by tier.
    """

    day: date
    totals: Mapping[str, int]
    rows: Mapping[str, int]

    @property
    def agree(self) -> bool:
        """Whether every tier, the vendor and the file have the same total, and every tier as many rows."""
        return len(set(self.totals.values())) == 1 and len(set(self.rows.values())) == 1


async def day_totals(
    service: ReportService,
    edge: EdgeTier,
    report: Report,
    days: tuple[date, date],
    volumes: Iterable[tuple[str, Volume]],
) -> list[DayTotals]:
    """Read each tier by itself: a query to PostgreSQL, the bytes in Redis, the Parquet files.

    Args:
        service: reads history and Redis.
        edge: reads Parquet.
        report: whose volume metric is summed.
        days: first local day, and the one after the last.
        volumes: what else to count an interval's arrivals by, by name.
    """
    column = to_snake_case(report.volume_metric or report.metrics[0])
    found: list[DayTotals] = []
    day, end_day = days
    while day < end_day:
        interval = Interval(midnight(day, report.zone), midnight(day + timedelta(days=1), report.zone))
        tables = {
            "history": _numbers(
                service.history.read(service.series(report), interval, service.columns(report)), column
            ),
            "hot": await _hot_numbers(service, report, interval, column),
            "edge": _numbers(edge.read(report, interval), column),
        }
        totals = {tier: round(sum(numbers)) for tier, numbers in tables.items()}
        totals.update({name: count(interval) for name, count in volumes})
        found.append(DayTotals(day, totals, {tier: len(numbers) for tier, numbers in tables.items()}))
        day += timedelta(days=1)
    return found


def _numbers(rows: pa.Table, column: str) -> list[float]:
    return [value or 0 for value in rows[column].to_pylist()]


async def _hot_numbers(service: ReportService, report: Report, interval: Interval, column: str) -> list[float]:
    """Ask as a dashboard would, then read what Redis holds now: it is there for less than five seconds (G8)."""
    await service.answer(report, interval)
    held = await service.hot.get(CanonicalQuery(service.series(report), interval))
    if held is None:
        return []
    document = json.loads(held.body)
    place = document["columns"].index(column)
    return [row[place] or 0 for row in document["rows"]]


def volumes_of_file(path: Path, zone: ZoneInfo) -> Volume:
    """Count the calls of a file, without using the pipeline's or the simulator's code.

    A wall-clock slot that a clock change skips is counted an hour later, one that it repeats as the first.
    """
    frame = pd.read_csv(path, parse_dates=["start"])
    starts = frame["start"].dt.tz_localize(zone, nonexistent=pd.Timedelta(hours=1), ambiguous=True)
    calls = frame["calls"].set_axis(pd.DatetimeIndex(starts.dt.tz_convert("UTC")))

    def count(interval: Interval) -> int:
        return int(calls[(calls.index >= interval.start) & (calls.index < interval.end)].sum())

    return count


def volumes_of_vendor(simulator_url: str) -> Volume:
    """Count the calls that the simulator really offered, whatever its API answers."""

    def count(interval: Interval) -> int:
        answer = httpx.get(f"{simulator_url}/simulator/truth", params={"interval": str(interval)}).raise_for_status()
        return sum(row["offered"] for row in answer.json()["rows"])

    return count
