"""A fictional contact centre with realistic days, for the page's benchmark and screenshots."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, to_arrow_schema, to_snake_case
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.page import publish_page
from cache_pipeline.vendors.declaration_rules import use_vendor_measures

_METRICS = ("offered", "answered", "abandoned", "answeredWithinTarget", "waitMs", "handleMs")
_NAMES = (
    *("Billing", "Orders", "Technical support", "Deliveries", "Returns", "Contracts", "Complaints", "New customers"),
    *("Business customers", "Meter readings", "Moving house", "Emergency line"),
)
_NIGHT, _MORNING = (0.05, 0.03, 0.02, 0.02, 0.03, 0.1, 0.3, 0.7), (1.2, 1.5, 1.5, 1.35)
_AFTERNOON, _EVENING = (1.1, 1.15, 1.25, 1.2, 1.05, 0.9), (0.7, 0.55, 0.4, 0.3, 0.2, 0.1)
_HOUR_SHARES = np.array([*_NIGHT, *_MORNING, *_AFTERNOON, *_EVENING])
_WEEKDAY_FACTORS = (1.18, 1.06, 1.0, 0.98, 0.95, 0.42, 0.25)


def make_report(name: str, granularity: str) -> Report:
    """Return a report by queue whose time zone is Berlin's, with its vendor's measures."""
    return use_vendor_measures(
        Report.model_validate(
            {
                "name": name,
                "description": "Offered, answered and abandoned, service level, wait and handling by queue",
                "platform": "reportdata",
                "query_type": "queue-performance",
                "granularity": granularity,
                "time_zone": "Europe/Berlin",
                "group_by": ["queueId"],
                "metrics": list(_METRICS),
                "volume_metric": "offered",
                "partition": "day",
                "start": "2020-01-01",
            }
        )
    )


def publish_centre(edge: EdgeTier, today: date, *, days: int, queues: int, hourly_days: int = 0) -> None:
    """Publish the page and its data: days until yesterday, and the last of them also by hour with a provisional morning today."""
    random = np.random.default_rng(7)
    daily = make_report("queue_day", "P1D")
    edge.publish(
        daily,
        dict(_day(daily, today - timedelta(days=days_ago), queues, random) for days_ago in range(1, days + 1)),
        None,
    )
    if hourly_days:
        hourly = make_report("queue_hour", "PT1H")
        by_day = dict(
            _day(hourly, today - timedelta(days=days_ago), queues, random) for days_ago in range(hourly_days + 1)
        )
        edge.publish(hourly, by_day, midnight(today, hourly.zone))
    names = {f"Q{number + 1:02}": _queue_name(number) for number in range(queues)}
    publish_page(edge.store, {"queue_id": names})


def _queue_name(number: int) -> str:
    repeat, index = divmod(number, len(_NAMES))
    return f"{_NAMES[index]} {repeat + 1}" if repeat else _NAMES[index]


def _day(report: Report, day: date, queues: int, random: np.random.Generator) -> tuple[Interval, pa.Table]:
    interval = Interval(midnight(day, report.zone), midnight(day + timedelta(days=1), report.zone))
    hours = round(interval.length / timedelta(hours=1))
    starts = (
        [interval.start + timedelta(hours=hour) for hour in range(hours)]
        if report.granularity == "PT1H"
        else [interval.start]
    )
    ends = [*starts[1:], interval.end]
    level = _WEEKDAY_FACTORS[day.weekday()] * (1 + 0.12 * np.sin(day.toordinal() / 58))
    stress = max(0.0, float(random.normal(0, 1)))
    columns: dict[str, list[Any]] = {}
    for start, end in zip(starts, ends, strict=True):
        share = float(_HOUR_SHARES[start.astimezone(report.zone).hour] if len(starts) > 1 else _HOUR_SHARES.sum())
        for queue in range(queues):
            for name, value in _random_figures(random, 60 / (queue + 1) ** 0.75 * level * share, stress, queue).items():
                columns.setdefault(name, []).append(value)
            _append_keys(columns, start, end, queue)
    schema = to_arrow_schema(
        (
            Column("queue_id", ColumnKind.dimension, nullable=True),
            *(Column(to_snake_case(name), ColumnKind.integer) for name in _METRICS),
        )
    )
    return interval, pa.Table.from_arrays(
        [pa.array(columns[field.name], type=field.type) for field in schema], schema=schema
    )


def _append_keys(columns: dict[str, list[Any]], start: datetime, end: datetime, queue: int) -> None:
    for name, value in (("interval_start", start), ("interval_end", end), ("queue_id", f"Q{queue + 1:02}")):
        columns.setdefault(name, []).append(value)


def _random_figures(random: np.random.Generator, expected: float, stress: float, queue: int) -> Mapping[str, int]:
    offered = int(random.poisson(expected))
    abandoned = int(random.binomial(offered, min(0.5, 0.035 + 0.02 * stress + 0.01 * (queue % 5))))
    answered = offered - abandoned
    return {
        "offered": offered,
        "answered": answered,
        "abandoned": abandoned,
        "answered_within_target": int(random.binomial(answered, max(0.3, 0.88 - 0.08 * stress - 0.02 * (queue % 4)))),
        "wait_ms": int(answered * random.gamma(4, 6000)),
        "handle_ms": int(answered * (270_000 + 9_000 * (queue % 7)) * random.normal(1, 0.04)),
    }
