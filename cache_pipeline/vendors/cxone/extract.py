"""The rows of an extracted CSV: an interaction each, or counted and summed by bucket and group."""

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

Line = Mapping[str, str]
Row = dict[str, object]
_PAGE_ROWS = 5000
_ID, _START = "Segment ID", "Start Date"
#: Dimension to column; assumed, but for ANI and DNIS.
_DIMENSIONS = {
    "ani": "ANI",
    "direction": "Direction",
    "dnis": "DNIS",
    "mediaType": "Media Type",
    "queueId": "Skill ID",
    "userId": "Agent ID",
}
#: Duration to column, in seconds; assumed.
_DURATIONS = {"tHandle": "Handle Time", "tTalk": "Talk Time"}
_COUNTS = ("nConnected", "nOffered")


def review_extract(report: Report) -> Iterable[tuple[str, str]]:
    """Rows, dimensions, metrics and filters that the dump does not hold."""
    if report.rows not in (None, "conversations"):
        yield "rows", f"rows of {report.rows} are not extracted: use conversations, or leave it out"
    if report.filters:
        yield "filters", "an extraction has no filter but its dates: leave filters out"
    if report.rows is None and (unknown := sorted(set(report.group_by) - set(_DIMENSIONS))):
        yield "group_by", f"{', '.join(unknown)}: an extraction has {', '.join(_DIMENSIONS)}"
    if unknown := sorted(set(report.metrics) - {*_COUNTS, *_DURATIONS}):
        yield "metrics", f"{', '.join(unknown)}: an extraction has {', '.join((*_COUNTS, *_DURATIONS))}"


def cxone_columns(report: Report) -> tuple[Column, ...]:
    """Those that the same report has of Genesys."""
    return aggregate_columns(report) if report.rows is None else row_columns(report)


def read_extract(file: IO[bytes], report: Report, interval: Interval) -> Iterator[pa.Table]:
    """The rows of a file that begin in the interval, a page at a time; at least one page, maybe empty.

    Raises:
        SchemaMismatch: it is no such file, or a column that is asked for is not in it.
    """
    lines = _lines(file, report)
    ours = ((start, line) for line in lines if interval.start <= (start := _instant(line, _START)) < interval.end)
    if report.rows is None:
        yield _summed(ours, report)
        return
    schema = arrow_schema(cxone_columns(report))
    rows: list[Row] = []
    for start, line in ours:
        rows.append(_conversation(start, line, report))
        if len(rows) == _PAGE_ROWS:
            yield rows_to_table(rows, schema)
            rows = []
    yield rows_to_table(rows, schema)


def _lines(file: IO[bytes], report: Report) -> Iterator[Line]:
    try:
        reader = csv.DictReader(codecs.iterdecode(file, "utf-8-sig"), strict=True)
        wanted = [_ID, _START, *(_DURATIONS[name] for name in report.metrics if name in _DURATIONS)]
        if report.rows is None:
            wanted += [_DIMENSIONS[name] for name in report.group_by]
        lacking = [name for name in wanted if name not in (reader.fieldnames or ())]
        if lacking:
            raise SchemaMismatch(f"the extract lacks the columns {', '.join(lacking)}")
        for line in reader:
            if None in line or None in line.values():
                raise SchemaMismatch(
                    f"line {reader.line_num} of the extract has not as many cells as there are columns"
                )
            yield line
    except (csv.Error, UnicodeDecodeError) as error:
        raise SchemaMismatch(f"the extract is no CSV in UTF-8: {error}") from error


def _instant(line: Line, name: str) -> datetime:
    try:
        return parse_instant(line[name])
    except InvalidInterval as error:
        raise SchemaMismatch(f"{name}: {error}") from error


def _milliseconds(line: Line, metric: str) -> int:
    text = line[_DURATIONS[metric]]
    try:
        return round(float(text or 0) * 1000)
    except (ValueError, OverflowError) as error:
        raise SchemaMismatch(f"{_DURATIONS[metric]} is {text!r} where seconds were expected") from error


def _measure(line: Line, metric: str) -> int:
    if metric in _DURATIONS:
        return _milliseconds(line, metric)
    return 1 if metric == "nOffered" else int(bool(line.get("Agent ID")))


def _conversation(start: datetime, line: Line, report: Report) -> Row:
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
class _Total:
    """What the events of one metric add up to."""

    count: int = 0
    sum: int = 0
    min: int | None = None
    max: int | None = None

    def take_in(self, value: int) -> None:
        self.count += 1
        self.sum += value
        self.min = value if self.min is None else min(self.min, value)
        self.max = value if self.max is None else max(self.max, value)


def _summed(lines: Iterable[tuple[datetime, Line]], report: Report) -> pa.Table:
    """Counts and sums by bucket and group; memory follows the groups and not the lines."""
    found: dict[tuple[datetime, *tuple[str | None, ...]], dict[str, _Total]] = {}
    for start, line in lines:
        group = (line[_DIMENSIONS[name]] or None for name in report.group_by)
        totals = found.setdefault(
            (floor_to_step(start, report.step, report.zone), *group), {metric: _Total() for metric in report.metrics}
        )
        for metric, total in totals.items():
            # As with Genesys, what did not happen is no event.
            if value := _measure(line, metric):
                total.take_in(value)
    rows: list[Row] = []
    for (bucket, *group), totals in found.items():
        row: Row = {"interval_start": bucket, "interval_end": next_boundary(bucket, report.step, report.zone)}
        row |= {snake_case(name): value for name, value in zip(report.group_by, group, strict=True)}
        for metric, total in totals.items():
            name = snake_case(metric)
            if metric in _COUNTS:
                row[name] = total.count
            else:
                told = {"count": total.count, "sum": total.sum, "min": total.min, "max": total.max}
                row |= {f"{name}_{statistic}": value for statistic, value in told.items()}
        rows.append(row)
    return rows_to_table(rows, arrow_schema(cxone_columns(report)))
