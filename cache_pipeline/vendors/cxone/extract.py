"""Rows of a CXone extraction's CSV: one for each interaction, or counts and sums by bucket and group."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import IO

from cache_pipeline.errors import InvalidInterval, SchemaMismatch
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.calendar import floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.vendors.columns import (
    CONVERSATION_COLUMNS,
    count_column,
    duration_columns,
    key_column,
    row_metric_column,
)

CsvLine = Mapping[str, str]
Row = dict[str, object]
_ROWS_PER_PAGE = 5000
_CONTACT, _SEGMENT, _START, _END = "contact", "segment", "start", "end"

#: The columns that we read, each with its known spellings, the preferred one first. Those of the durations are assumed, as is
#: Skill ID; the others were seen in files that working programs read, or are documented.
KNOWN_COLUMNS: Mapping[str, tuple[str, ...]] = {
    _CONTACT: ("ACD Call ID",),
    _SEGMENT: ("Segment ID",),
    _START: ("Start Date",),
    _END: ("End Date",),
    "ani": ("ANI",),
    "direction": ("Direction",),
    "dnis": ("DNIS",),
    "mediaType": ("Channel Type", "Media Type"),
    "queueId": ("Skill ID",),
    "userId": ("Agent 1 ACD ID", "Agent ID"),
    "tHandle": ("Handle Time",),
    "tTalk": ("Talk Time",),
}
_DIMENSIONS = ("ani", "direction", "dnis", "mediaType", "queueId", "userId")
#: A contact has one value of each of these dimensions. It has a line for each agent and skill, so it may have several of the
#: others, and is counted under each.
_SINGLE_VALUED = frozenset({"direction", "mediaType"})
#: Durations, in seconds.
_DURATIONS = ("tHandle", "tTalk")
_COUNTS = ("nConnected", "nOffered")
#: Characters that the vendor hides from spreadsheets behind a backslash: a cell that begins with one would be a formula.
_ESCAPED = ("\\+", "\\-", "\\=", "\\@")


def check_extract(report: Report) -> Iterable[tuple[str, str]]:
    """Yield dimensions, metrics and filters that an extraction does not support, as (field, problem)."""
    if report.filters:
        yield "filters", "an extraction has no filter except its dates; remove the filters"
    if report.rows is None and (unknown := sorted(set(report.group_by) - set(_DIMENSIONS))):
        yield "group_by", f"unknown dimensions {', '.join(unknown)}; an extraction has {', '.join(_DIMENSIONS)}"
    if unknown := sorted(set(report.metrics) - {*_COUNTS, *_DURATIONS}):
        yield "metrics", f"unknown metrics {', '.join(unknown)}; an extraction has {', '.join((*_COUNTS, *_DURATIONS))}"


def cxone_columns(report: Report) -> tuple[Column, ...]:
    """Return the columns, dimensions or keys first; they are those that other vendors' reports have."""
    if report.rows is not None:
        return (*map(key_column, report.group_by), *CONVERSATION_COLUMNS, *map(row_metric_column, report.metrics))
    return (
        *(key_column(name, is_multivalued=name not in _SINGLE_VALUED) for name in report.group_by),
        *(column for name in report.metrics for column in _metric_columns(name)),
    )


def _metric_columns(metric: str) -> tuple[Column, ...]:
    return (count_column(metric),) if metric in _COUNTS else duration_columns(metric)


def read_extract(
    file: IO[bytes], report: Report, interval: Interval, columns: Mapping[str, str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of a file that begin in the interval, page by page; there is at least one page, possibly empty.

    A file has one line for each segment, and a contact may have several; a contact begins when its first segment does.

    Args:
        file: The CSV; it is read twice.
        report: The report's declaration.
        interval: The interval of the query.
        columns: The names of columns in this account's files that differ from `KNOWN_COLUMNS`.

    Raises:
        SchemaMismatch: The file is not such a CSV, lacks a column that the report needs, or has two different lines of one
            segment.
    """
    contacts = (
        contact for contact in _contacts(file, report, columns or {}) if interval.start <= contact.start < interval.end
    )
    if report.rows is None:
        yield _aggregate(contacts, report)
        return
    schema = to_arrow_schema(cxone_columns(report))
    rows: list[Row] = []
    for contact in contacts:
        rows.append(contact.row(report))
        if len(rows) == _ROWS_PER_PAGE:
            yield rows_to_table(rows, schema)
            rows = []
    yield rows_to_table(rows, schema)


def _needed(report: Report) -> list[str]:
    """Return the columns without which a figure of the report would be silently wrong."""
    needed = [_CONTACT, _SEGMENT, _START, *(name for name in report.metrics if name in _DURATIONS)]
    if report.rows is None:
        needed += report.group_by
    if report.rows is not None or "nConnected" in report.metrics:
        needed.append("userId")
    return list(dict.fromkeys(needed))


def _lines(file: IO[bytes], report: Report, columns: Mapping[str, str]) -> Iterator[CsvLine]:
    """Yield the lines by our names of the columns; a column that the file lacks and the report does not need is absent."""
    try:
        reader = csv.DictReader(codecs.iterdecode(file, "utf-8-sig"), strict=True)
        headers = list(reader.fieldnames or ())
        found = {name: header for name in KNOWN_COLUMNS if (header := _find_header(name, headers, columns)) is not None}
        if missing := [name for name in _needed(report) if name not in found]:
            described = ", ".join(f"{' or '.join(_spellings(name, columns))} ({name})" for name in missing)
            raise SchemaMismatch(
                f"the extract lacks the columns {described}; it has {', '.join(headers)}. If they have other names in this "
                "account, set its columns"
            )
        if repeated := [header for header in found.values() if headers.count(header) > 1]:
            raise SchemaMismatch(
                f"the extract has several columns {', '.join(repeated)}, of which only one can be meant: remove the others"
            )
        for line in reader:
            if None in line or None in line.values():
                raise SchemaMismatch(
                    f"line {reader.line_num} of the extract has a different number of cells than the header"
                )
            yield {name: _unescape(line[header]) for name, header in found.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise SchemaMismatch(f"the extract is not CSV in UTF-8: {error}") from error


def _spellings(name: str, columns: Mapping[str, str]) -> tuple[str, ...]:
    return (columns[name],) if name in columns else KNOWN_COLUMNS[name]


def _find_header(name: str, headers: list[str], columns: Mapping[str, str]) -> str | None:
    """Return the header of a column; it may have blanks around it, and more text in brackets."""
    for spelling in _spellings(name, columns):
        for header in headers:
            if header.strip() == spelling or header.strip().partition(" (")[0] == spelling:
                return header
    return None


def _unescape(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell.startswith(_ESCAPED) else cell


def _contacts(file: IO[bytes], report: Report, columns: Mapping[str, str]) -> Iterator[_Contact]:
    """Yield each contact with its lines. Only those that have several are held in memory, because others may follow."""
    seen: set[int] = set()
    several: set[int] = set()
    for line in _lines(file, report, columns):
        number = hash(_contact_id(line))
        (several if number in seen else seen).add(number)
    del seen
    file.seek(0)
    held: dict[str, dict[str, CsvLine]] = {}
    for line in _lines(file, report, columns):
        identity = _contact_id(line)
        if hash(identity) not in several:
            yield _Contact.of(identity, [line])
            continue
        segments = held.setdefault(identity, {})
        earlier = segments.setdefault(line[_SEGMENT], line)
        if earlier != line:
            name = next(name for name, cell in line.items() if earlier[name] != cell)
            raise SchemaMismatch(
                f"two different lines of segment {line[_SEGMENT]}: {name} is {earlier[name]!r} in one and {line[name]!r} in "
                "the other"
            )
    for identity, segments in held.items():
        yield _Contact.of(identity, segments.values())


def _contact_id(line: CsvLine) -> str:
    # A segment without a contact stands for itself.
    return line[_CONTACT] or line[_SEGMENT]


@dataclass(frozen=True)
class _Contact:
    """One contact, with its segments in the order in which they begin."""

    id: str
    start: datetime
    lines: tuple[CsvLine, ...]

    @classmethod
    def of(cls, identity: str, lines: Iterable[CsvLine]) -> _Contact:
        by_start = sorted(((_instant(line, _START), line) for line in lines), key=lambda pair: pair[0])
        return cls(identity, by_start[0][0], tuple(line for _, line in by_start))

    @property
    def end(self) -> datetime | None:
        """The latest end of a segment; None if one has no end."""
        ends = [_instant(line, _END) if line.get(_END) else None for line in self.lines]
        return None if None in ends else max(end for end in ends if end is not None)

    def values(self, column: str) -> list[str]:
        """Return the cells of a column that are not empty."""
        return [cell for line in self.lines if (cell := line.get(column))]

    def row(self, report: Report) -> Row:
        bucket = floor_to_step(self.start, report.step, report.zone)
        users = self.values("userId")
        first = {name: next(iter(self.values(name)), None) for name in _DIMENSIONS}
        return {
            "interval_start": bucket,
            "interval_end": next_boundary(bucket, report.step, report.zone),
            "conversation_id": self.id,
            "conversation_start": self.start,
            "conversation_end": self.end,
            "originating_direction": first["direction"],
            "division_id": None,
            "media_type": first["mediaType"],
            "first_queue_id": first["queueId"],
            "last_user_id": users[-1] if users else None,
            "ani": first["ani"],
            "dnis": first["dnis"],
            "agents": len(set(users)),
            **{to_snake_case(metric): _measure(self.lines, metric) for metric in report.metrics},
        }


def _instant(line: CsvLine, name: str) -> datetime:
    try:
        return parse_instant(line[name])
    except InvalidInterval as error:
        raise SchemaMismatch(f"{KNOWN_COLUMNS[name][0]}: {error}") from error


def _milliseconds(line: CsvLine, metric: str) -> int:
    text = line[metric]
    try:
        return round(float(text or 0) * 1000)
    except (ValueError, OverflowError) as error:
        raise SchemaMismatch(f"{KNOWN_COLUMNS[metric][0]} is {text!r} where seconds were expected") from error


def _measure(lines: Iterable[CsvLine], metric: str) -> int:
    """Return a metric of some segments of one contact."""
    if metric in _DURATIONS:
        return sum(_milliseconds(line, metric) for line in lines)
    return 1 if metric == "nOffered" else int(any(line["userId"] for line in lines))


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


def _aggregate(contacts: Iterable[_Contact], report: Report) -> pa.Table:
    """Return counts and sums by bucket and group. A contact counts once in each group that a segment of it belongs to."""
    groups: dict[tuple[datetime, *tuple[str | None, ...]], dict[str, _Accumulator]] = {}
    for contact in contacts:
        bucket = floor_to_step(contact.start, report.step, report.zone)
        for group, lines in _by_group(contact, report).items():
            totals = groups.setdefault((bucket, *group), {metric: _Accumulator() for metric in report.metrics})
            for metric, total in totals.items():
                # A duration of zero is not an event.
                if value := _measure(lines, metric):
                    total.add(value)
    rows: list[Row] = []
    for (bucket, *group), totals in groups.items():
        row: Row = {"interval_start": bucket, "interval_end": next_boundary(bucket, report.step, report.zone)}
        row |= {to_snake_case(name): value for name, value in zip(report.group_by, group, strict=True)}
        for metric, total in totals.items():
            name = to_snake_case(metric)
            if metric in _COUNTS:
                row[name] = total.count
            else:
                statistics = {"count": total.count, "sum": total.sum, "min": total.min, "max": total.max}
                row |= {f"{name}_{statistic}": value for statistic, value in statistics.items()}
        rows.append(row)
    return rows_to_table(rows, to_arrow_schema(cxone_columns(report)))


def _by_group(contact: _Contact, report: Report) -> dict[tuple[str | None, ...], list[CsvLine]]:
    groups: dict[tuple[str | None, ...], list[CsvLine]] = {}
    for line in contact.lines:
        groups.setdefault(tuple(line[name] or None for name in report.group_by), []).append(line)
    return groups
