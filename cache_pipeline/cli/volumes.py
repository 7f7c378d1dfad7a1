"""Day totals of each tier, and of the file of real volumes, side by side."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa

from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import snake_case
from cache_pipeline.query.series import Query
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.tiers.edge import EdgeTier


@dataclass(frozen=True)
class DayTotals:
    """One local day of one report: the sum of its volume metric and the rows, in each tier.

    Attributes:
        day: local day of the report's zone.
        totals: by tier, ``history``, ``hot`` and ``edge``; and ``file`` where real volumes are replayed.
        rows: by tier.
    """

    day: date
    totals: Mapping[str, int]
    rows: Mapping[str, int]

    @property
    def agree(self) -> bool:
        """Whether every tier (and the file) has the same total, and every tier as many rows."""
        return len(set(self.totals.values())) == 1 and len(set(self.rows.values())) == 1


async def day_totals(
    service: ReportService, edge: EdgeTier, report: Report, first_day: date, end_day: date, file: pd.Series | None
) -> list[DayTotals]:
    """Read each tier by itself: a query to PostgreSQL, the bytes in Redis, the Parquet files."""
    column = snake_case(report.volume_metric or report.metrics[0])
    found: list[DayTotals] = []
    day = first_day
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
        if file is not None:
            inside = (file.index >= interval.start) & (file.index < interval.end)
            totals["file"] = int(file[inside].sum())
        found.append(DayTotals(day, totals, {tier: len(numbers) for tier, numbers in tables.items()}))
        day += timedelta(days=1)
    return found


def _numbers(rows: pa.Table, column: str) -> list[float]:
    return [value or 0 for value in rows[column].to_pylist()]


async def _hot_numbers(service: ReportService, report: Report, interval: Interval, column: str) -> list[float]:
    """Ask as a dashboard would, then read what Redis holds now: it is there for less than five seconds (G8)."""
    await service.answer(report, interval)
    held = await service.hot.get(Query(service.series(report), interval))
    if held is None:
        return []
    document = json.loads(held.body)
    place = document["columns"].index(column)
    return [row[place] or 0 for row in document["rows"]]


def read_volumes(path: Path, zone: ZoneInfo) -> pd.Series:
    """Calls by instant, read from the file without any of the pipeline's own code.

    Wall-clock slots that a clock change skips or repeats are moved on or taken as the first.
    """
    frame = pd.read_csv(path, parse_dates=["start"])
    instants = frame["start"].dt.tz_localize(zone, nonexistent="shift_forward", ambiguous=True).dt.tz_convert("UTC")
    return frame["calls"].set_axis(pd.DatetimeIndex(instants))
