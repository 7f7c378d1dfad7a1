"""Figures of a small contact centre, simple enough that a test can state what the page must show."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.vendors.declaration_rules import use_vendor_measures
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline_tests.query.declared import declared

HOUR = timedelta(hours=1)
#: A Tuesday; the day before is the last complete one.
TODAY = datetime(2026, 11, 24, tzinfo=UTC)
NOW = TODAY + 9 * HOUR
QUEUES = ("billing", "orders", "returns")
METRICS = ["offered", "answered", "abandoned", "answeredWithinTarget", "waitMs", "handleMs"]
HOURLY = use_vendor_measures(declared(name="queue_hour", time_zone="UTC", metrics=METRICS))
DAILY = use_vendor_measures(
    declared(name="queue_day", time_zone="UTC", granularity="P1D", group_by=["queueId"], metrics=METRICS)
)
CONVERSATIONS = use_vendor_measures(
    Report.model_validate(
        {
            "name": "conversation_day",
            "description": "Conversations by medium",
            "platform": "genesys",
            "query_type": "conversations",
            "granularity": "P1D",
            "time_zone": "UTC",
            "group_by": ["mediaType"],
            "metrics": ["nOffered", "nTransferred", "tHandle", "tAcw"],
            "partition": "day",
            "start": "2026-01-01",
        }
    )
)


def day(days_ago: int) -> Interval:
    """Return the day that many days ago; 1 is yesterday."""
    return Interval(TODAY - timedelta(days=days_ago), TODAY - timedelta(days=days_ago - 1))


def figures(offered: int) -> dict[str, object]:
    """Return a bucket in which 1 in 10 abandons and 3 in 4 of the rest are answered within target; wait 20 s, handling 5 min."""
    abandoned = offered // 10
    answered = offered - abandoned
    return {
        "offered": offered,
        "answered": answered,
        "abandoned": abandoned,
        "answered_within_target": answered * 3 // 4,
        "wait_ms": answered * 20_000,
        "handle_ms": answered * 300_000,
    }


def rows(report: Report, span: Interval, offered: int) -> pa.Table:
    """Return each bucket of each queue: `offered` contacts in the first queue, twice as many in the second, three times in the third."""
    step = timedelta(days=1) if report.granularity == "P1D" else HOUR
    found: list[Mapping[str, object]] = []
    for bucket in range(int(span.length / step)):
        start = span.start + bucket * step
        for number, queue in enumerate(QUEUES, start=1):
            dimensions = {"queue_id": queue, "media_type": "voice"}
            found.append(
                {
                    "interval_start": start,
                    "interval_end": start + step,
                    **{to_snake_case(name): dimensions[to_snake_case(name)] for name in report.group_by},
                    **figures(offered * number),
                }
            )
    columns = (
        *(Column(to_snake_case(name), ColumnKind.dimension, nullable=True) for name in report.group_by),
        *(Column(to_snake_case(name), ColumnKind.integer) for name in report.metrics),
    )
    return rows_to_table(found, to_arrow_schema(columns))


def conversations(span: Interval) -> pa.Table:
    names = [column.name for column in GenesysAdapter.columns(CONVERSATIONS)]
    return rows_to_table(
        [
            {
                "interval_start": span.start,
                "interval_end": span.end,
                **{name: 10 if name.endswith(("count", "offered", "transferred")) else 1000.0 for name in names},
                "media_type": medium,
            }
            for medium in ("voice", "chat")
        ],
        to_arrow_schema(GenesysAdapter.columns(CONVERSATIONS)),
    )


def publish_centre(edge: EdgeTier, days: Iterable[int] = range(1, 36)) -> None:
    """Publish five weeks; each week has ten more contacts an hour than the one before. Today is provisional."""
    offered = {back: 100 - 10 * ((back - 1) // 7) for back in days}
    daily = {day(back): rows(DAILY, day(back), 24 * count) for back, count in offered.items()}
    edge.publish(DAILY, daily, None)
    edge.publish(
        HOURLY, {day(back): rows(HOURLY, day(back), count) for back, count in offered.items() if back < 16}, None
    )
    morning = Interval(TODAY, TODAY + 8 * HOUR)
    edge.publish(HOURLY, {morning: rows(HOURLY, morning, 50)}, TODAY)
    edge.publish(CONVERSATIONS, {day(back): conversations(day(back)) for back in range(1, 8)}, None)
