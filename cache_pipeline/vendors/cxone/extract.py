"""Rows of a CXone extraction's CSV: one for each interaction, or counts and sums by bucket and group."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import IO

import pyarrow as pa

from cache_pipeline.errors import InvalidInterval, SchemaMismatch
from cache_pipeline.query.calendar import floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, arrow_schema, rows_to_table, snake_case
from cache_pipeline.vendors.genesys.aggregates import aggregate_columns
from cache_pipeline.vendors.genesys.details import row_columns

CsvLine = Mapping[str, str]
Row = dict[str, object]
_ROWS_PER_PAGE = 5000
_ID, _START = "Segment ID", "Start Date"
#: Column of each dimension; assumed, except for ANI and DNIS.
_DIMENSIONS = {
    "ani": "ANI",
    "direction": "Direction",
    "dnis": "DNIS",
    "mediaType": "Media Type",
    "queueId": "Skill ID",
    "userId": "Agent ID",
}
#: Column of each duration, in seconds; assumed.
_DURATIONS = {"tHandle": "Handle Time", "tTalk": "Talk Time"}
_COUNTS = ("nConnected", "nOffered")


def check_extract(report: Report) -> Iterable[tuple[str, str]]:
    """Yield rows, dimensions, metrics and filters that an extraction does not support, as (field, problem)."""
    if report.rows not in (None, "conversations"):
        yield "rows", f"an extraction has no rows of {report.rows}; use conversations or remove the field"
    if report.filters:
        yield "filters", "an extraction has no filter except its dates; remove the filters"
    if report.rows is None and (unknown := sorted(set(report.group_by) - set(_DIMENSIONS))):
        yield "group_by", f"unknown dimensions {', '.join(unknown)}; an extraction has {', '.join(_DIMENSIONS)}"
    if unknown := sorted(set(report.metrics) - {*_COUNTS, *_DURATIONS}):
        yield "metrics", f"unknown metrics {', '.join(unknown)}; an extraction has {', '.join((*_COUNTS, *_DURATIONS))}"


def cxone_columns(report: Report) -> tuple[Column, ...]:
    """Return the columns that the same report has on Genesys."""
    return aggregate_columns(report) if report.rows is None else row_columns(report)


def read_extract(file: IO[bytes], report: Report, interval: Interval) -> Iterator[pa.Table]:
    """Yield the rows of a file that begin in the interval, page by page; there is at least one page, possibly empty.

    Raises:
        SchemaMismatch: The file is not such a CSV, or lacks a column that the report needs.
    """
    lines = _lines(file, report)
    selected = ((start, line) for line in lines if interval.start <= (start := _instant(line, _START)) < interval.end)
    if report.rows is None:
        yield _aggregate(selected, report)
        return
    schema = arrow_schema(cxone_columns(report))
    rows: list[Row] = []
    for start, line in selected:
        rows.append(_conversation(start, line, report))
        if len(rows) == _ROWS_PER_PAGE:
            yield rows_to_table(rows, schema)
            rows = []
    yield rows_to_table(rows, schema)


def _lines(file: IO[bytes], report: Report) -> Iterator[CsvLine]:
    try:
        reader = csv.DictReader(codecs.iterdecode(file, "utf-8-sig"), strict=True)
        needed = [_ID, _START, *(_DURATIONS[name] for name in report.metrics if name in _DURATIONS)]
        if report.rows is None:
            needed += [_DIMENSIONS[name] for name in report.group_by]
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise SchemaMismatch(f"the extract lacks the columns {', '.join(missing)}")
        for line in reader:
            if None in line or None in line.values():
                raise SchemaMismatch(
                    f"line {reader.line_num} of the extract has a different number of cells than the header"
                )
            yield line
    except (csv.Error, UnicodeDecodeError) as error:
        raise SchemaMismatch(f"the extract is not CSV in UTF-8: {error}") from error


def _instant(line: CsvLine, name: str) -> datetime:
    try:
        return parse_instant(line[name])
    except InvalidInterval as error:
        raise SchemaMismatch(f"{name}: {error}") from error


def _milliseconds(line: CsvLine, metric: str) -> int:
    text = line[_DURATIONS[metric]]
    try:
        return round(float(text or 0) * 1000)
    except (ValueError, OverflowError) as error:
        raise SchemaMismatch(f"{_DURATIONS[metric]} is {text!r} where seconds were expected") from error


def _measure(line: CsvLine, metric: str) -> int:
    if metric in _DURATIONS:
        return _milliseconds(line, metric)
    return 1 if metric == "nOffered" else int(bool(line.get("Agent ID")))


def _conversation(start: datetime, line: CsvLine, report: Report) -> Row:
    bucket = floor_to_step(start, report.step, report.zone)
    agent = line.get("Agent ID") or None
    return {
        "interval_start": bucket,
        "interval_end": next_boundary(bucket, report.step, report.zone),
        "conversation_id": line[_ID],
        "conversation_start": start,
        "conversation_end": _instant(line, "End Date") if line.get("End Date") else None,
        "originating_direction": line.get("Direction") or None,
        "division_id": None,
        "media_type": line.get("Media Type") or None,
        "first_queue_id": line.get("Skill ID") or None,
        "last_user_id": agent,
        "ani": line.get("ANI") or None,
        "dnis": line.get("DNIS") or None,
        "agents": int(agent is not None),
        **{snake_case(metric): _measure(line, metric) for metric in report.metrics},
    }


@dataclass
class _Accumulator:
    """Count, sum, minimum and maximum of the events of one metric."""

    count: int = 0
    sum: int = 0
    min: int | None = None
    max: int | None = None

    def add(self, value: int) -> None:
        self.count += 1
        self.sum += value
        self.min = value if self.min is None else min(self.min, value)
        self.max = value if self.max is None else max(self.max, value)


def _aggregate(lines: Iterable[tuple[datetime, CsvLine]], report: Report) -> pa.Table:
    """Return counts and sums by bucket and group. Memory grows with the groups, not with the lines."""
    groups: dict[tuple[datetime, *tuple[str | None, ...]], dict[str, _Accumulator]] = {}
    for start, line in lines:
        group = (line[_DIMENSIONS[name]] or None for name in report.group_by)
        totals = groups.setdefault(
            (floor_to_step(start, report.step, report.zone), *group),
            {metric: _Accumulator() for metric in report.metrics},
        )
        for metric, total in totals.items():
            # As with Genesys, a duration of zero is not an event.
            if value := _measure(line, metric):
                total.add(value)
    rows: list[Row] = []
    for (bucket, *group), totals in groups.items():
        row: Row = {"interval_start": bucket, "interval_end": next_boundary(bucket, report.step, report.zone)}
        row |= {snake_case(name): value for name, value in zip(report.group_by, group, strict=True)}
        for metric, total in totals.items():
            name = snake_case(metric)
            if metric in _COUNTS:
                row[name] = total.count
            else:
                statistics = {"count": total.count, "sum": total.sum, "min": total.min, "max": total.max}
                row |= {f"{name}_{statistic}": value for statistic, value in statistics.items()}
        rows.append(row)
    return rows_to_table(rows, arrow_schema(cxone_columns(report)))
