"""Rolled-up rows equal what the vendor itself would have answered."""

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.calendar import cut_at_boundaries
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.query_request import QueryOverrides, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.rollup import find_rollup_problems, roll_up
from cache_pipeline.query.schema import Fold, rows_to_table, rows_within, sort_rows, to_arrow_schema
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline_tests.query.declared import declared, with_changes

REPORT = declared(
    platform="genesys",
    query_type="conversations",
    granularity="PT15M",
    group_by=["queueId", "mediaType"],
    metrics=["nOffered", "tHandle", "oServiceLevel"],
    volume_metric=None,
)
#: Two days in Berlin; the clock change makes the second 23 hours long.
INTERVAL = Interval.parse("2026-03-28/2026-03-30", REPORT.zone)
BUCKETS = cut_at_boundaries(INTERVAL, REPORT.step, REPORT.zone)
SCHEMA = to_arrow_schema(GenesysAdapter.columns(REPORT))

values = st.integers(0, 1000)
groups = st.tuples(st.sampled_from(["q1", "q2", None]), st.sampled_from(["voice", "chat", None]))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    found = draw(st.dictionaries(st.tuples(st.sampled_from(BUCKETS), groups), values, max_size=40))
    return sort_rows(rows_to_table([_row(*key, value) for key, value in found.items()], SCHEMA))


def _row(bucket: Interval, group: tuple[str | None, str | None], value: int) -> dict[str, Any]:
    return {
        "interval_start": bucket.start,
        "interval_end": bucket.end,
        "queue_id": group[0],
        "media_type": group[1],
        "n_offered": value,
        "t_handle_count": value // 2,
        "t_handle_sum": float(value * 7),
        "t_handle_min": float(value) if value > 1 else None,
        "t_handle_max": float(value * 3) if value > 1 else None,
        "o_service_level_numerator": float(value // 3),
        "o_service_level_denominator": float(value),
    }


def rolled_up(rows: pa.Table, interval: Interval = INTERVAL, source: Report = REPORT, **overrides: Any) -> pa.Table:
    request = resolve_request(source, interval, QueryOverrides(**overrides), GenesysAdapter.columns(source))
    requested = request.requested
    return roll_up(rows_within(rows, interval), source, requested, GenesysAdapter.columns(requested), request.interval)


overrides_strategy = st.fixed_dictionaries(
    {},
    optional={
        "group_by": st.sampled_from([(), ("queueId",), ("mediaType",), ("queueId", "mediaType")]),
        "metrics": st.sampled_from([("tHandle",), ("nOffered", "oServiceLevel")]),
        "granularity": st.sampled_from(["PT30M", "PT1H", "PT6H", "P1D"]),
        "filters": st.sampled_from(
            [
                {"predicates": [{"dimension": "queueId", "values": ["q1"]}]},
                {"predicates": [{"dimension": "mediaType", "operator": "notIn", "values": ["chat"]}]},
                {"predicates": [{"dimension": "mediaType", "operator": "exists"}]},
                {"type": "or", "predicates": [{"dimension": "queueId", "values": [None]}, {"dimension": "mediaType", "values": ["chat"]}]},
            ]
        ).map(Filter.parse),
    },
)  # fmt: skip


def expected_rollup(rows: pa.Table, interval: Interval, overrides: dict[str, Any]) -> dict[tuple[Any, ...], list[Any]]:
    """Roll up in plain Python: bucket and group to figures."""
    requested = resolve_request(REPORT, interval, QueryOverrides(**overrides), GenesysAdapter.columns(REPORT)).requested
    figures = [
        name
        for name in to_arrow_schema(GenesysAdapter.columns(requested)).names[2:]
        if name not in ("queue_id", "media_type")
    ]
    found: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_pylist():
        names = {"queueId": row["queue_id"], "mediaType": row["media_type"]}
        if any(
            all((names[d] in v.values) != v.is_exclusion for d, v in conjunction.items())
            for conjunction in overrides.get("filters", Filter()).conjunctions
        ):
            [bucket] = [
                each
                for each in cut_at_boundaries(interval, requested.step, requested.zone)
                if each.contains_instant(row["interval_start"])
            ]
            found[bucket.start, bucket.end, *(names[d] for d in requested.group_by)].append(row)

    def folded(name: str, rows: list[dict[str, Any]]) -> Any:
        known = [row[name] for row in rows if row[name] is not None]
        if name.endswith(("_min", "_max")):
            return (min if name.endswith("_min") else max)(known, default=None)
        return sum(known)

    return {key: [folded(name, rows) for name in figures] for key, rows in found.items()}


@given(tables(), overrides_strategy)
def test_roll_up_equals_plain_python(rows: pa.Table, overrides: dict[str, Any]):
    found = rolled_up(rows, **overrides)
    width = 2 + len(overrides.get("group_by", ("queueId", "mediaType")))
    actual = {tuple(row.values())[:width]: list(row.values())[width:] for row in found.to_pylist()}
    assert len(actual) == found.num_rows
    assert actual == expected_rollup(rows, INTERVAL, overrides)


@given(tables(), overrides_strategy, st.sampled_from([Interval(BUCKETS[0].start, BUCKETS[96].start)]))
def test_roll_up_of_parts_equals_roll_up_of_whole(rows: pa.Table, overrides: dict[str, Any], first: Interval):
    parts = [first, Interval(first.end, INTERVAL.end)]
    combined = pa.concat_tables([rolled_up(rows, part, **overrides) for part in parts])
    assert sort_rows(combined).equals(rolled_up(rows, **overrides))


@given(tables(), st.sampled_from(["PT1H", "PT6H"]), st.sampled_from([(), ("queueId",)]))
def test_roll_up_in_two_steps_equals_one(rows: pa.Table, between: str, group_by: tuple[str, ...]):
    hourly = declared(
        platform="genesys", query_type="conversations", granularity=between, group_by=["queueId"],
        metrics=list(REPORT.metrics), volume_metric=None,
    )  # fmt: skip
    in_one_step = rolled_up(rows, granularity="P1D", group_by=group_by)
    in_two_steps = rolled_up(
        rolled_up(rows, granularity=between, group_by=("queueId",)), source=hourly, granularity="P1D", group_by=group_by
    )
    assert in_two_steps.equals(in_one_step)


@given(tables())
def test_split_then_merge_is_the_identity(rows: pa.Table):
    parts = [rows_within(rows, part) for part in cut_at_boundaries(INTERVAL, REPORT.step, REPORT.zone)[::-1]]
    assert sort_rows(pa.concat_tables(parts)).equals(rows)


@pytest.mark.parametrize(
    ("zone", "first", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/Sao_Paulo", "2018-11-04", 23),
        ("America/Sao_Paulo", "2018-02-17", 25),
        ("America/Sao_Paulo", "2018-11-05", 24),
    ],
)
def test_local_day_sums_all_its_quarter_hours(zone: str, first: str, hours: int):
    report = declared(
        platform="genesys", query_type="conversations", granularity="PT15M", group_by=[], metrics=["nOffered"],
        volume_metric=None, time_zone=zone,
    )  # fmt: skip
    day = Interval.parse(f"{first}/P1D", report.zone)
    around = Interval(day.start - timedelta(days=1), day.end + timedelta(days=1))
    schema = to_arrow_schema(GenesysAdapter.columns(report))
    rows = rows_to_table(
        [
            {"interval_start": bucket.start, "interval_end": bucket.end, "n_offered": 1}
            for bucket in cut_at_boundaries(around, report.step, report.zone)
        ],
        schema,
    )
    found = rolled_up(rows, day, report, granularity="P1D")
    assert found.to_pylist() == [{"interval_start": day.start, "interval_end": day.end, "n_offered": 4 * hours}]


def test_days_follow_the_requested_zone():
    kolkata = Interval.parse("2026-03-28T00:00:00+05:30/2026-03-29T00:00:00+05:30")
    start = datetime(2026, 3, 27, 18, 15, tzinfo=UTC)
    rows = rows_to_table(
        [
            _row(
                Interval(start + n * timedelta(minutes=15), start + (n + 1) * timedelta(minutes=15)), ("q1", "chat"), 1
            )
            for n in range(3)
        ],
        SCHEMA,
    )
    found = rolled_up(rows, kolkata, granularity="P1D", time_zone="Asia/Kolkata", metrics=("nOffered",))
    assert found["n_offered"].to_pylist() == [2]


@pytest.mark.parametrize("changes", [{"granularity": "PT1H"}, {"group_by": ["queueId"]}, {"group_by": []}])
def test_percentile_is_never_rolled_up(changes: dict[str, Any]):
    columns = [
        replace(column, fold=Fold.none) if column.source == "tHandle" else column
        for column in GenesysAdapter.columns(REPORT)
    ]
    [(field, problem)] = find_rollup_problems(REPORT, with_changes(REPORT, **changes), columns)
    assert field == "metrics"
    assert problem.startswith("tHandle cannot be rolled up")
    assert not list(find_rollup_problems(REPORT, with_changes(REPORT, metrics=("nOffered",), **changes), columns))
    assert not list(find_rollup_problems(REPORT, REPORT, columns))
