"""What goes into published files: the allowed columns, small cells withheld, types that browsers read, whole partitions."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.calendar import Step, cut_at_boundaries, floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names, rows_within, snake_case, sort_rows
from cache_pipeline.storage.published.manifest import DataFile, DataSet

#: A browser reads files of this size in one request; smaller row groups mean more requests, larger ones no fewer.
_ROW_GROUP = 64 * 1024
_DAY, _MONTH = Step(days=1), Step(months=1)
#: A month is written as one file when it has ended this long ago: by then the vendor's usual corrections are in.
MONTH_SETTLES = timedelta(days=2)
_TIMES = ("interval_start", "interval_end")

Rows = Mapping[Interval, pa.Table]


def volume_column(report: Report, names: Iterable[str]) -> str:
    """The column that counts a row's events.

    Raises:
        EdgeStoreError: the declaration names no metric that counts.
    """
    metric = snake_case(report.volume_metric or "")
    found = next((name for name in (metric, f"{metric}_count") if metric and name in set(names)), None)
    if found is None:
        raise EdgeStoreError(f"{report.name}: min_cell_count needs a volume_metric that counts events")
    return found


def published_rows(report: Report, rows: pa.Table) -> pa.Table:
    """What of a report's rows may be published, in the report's own types.

    Only allowed columns are left, and the figures of rows of fewer than ``min_cell_count`` events are null.

    Raises:
        EdgeStoreError: the declaration allows a column that there is not, or leaves out a dimension.
    """
    dimensions = dimension_names(report)
    if report.publish.min_cell_count is not None:
        events = rows[volume_column(report, rows.schema.names)]
        none, few = pa.scalar(0, events.type), pa.scalar(report.publish.min_cell_count, events.type)
        small = pc.and_(pc.greater(events, none), pc.less(events, few))
        for place, field in enumerate(rows.schema):
            if field.name not in (*_TIMES, *dimensions):
                withheld = pc.if_else(small, pa.scalar(None, field.type), rows[field.name])
                rows = rows.set_column(place, field.with_nullable(nullable=True), withheld)
    if report.publish.edge_columns is None:
        return rows
    allowed = {snake_case(name) for name in report.publish.edge_columns}
    unknown = sorted(allowed - set(rows.schema.names))
    if unknown:
        raise EdgeStoreError(
            f"{report.name}: edge_columns names {', '.join(unknown)}, and its columns are {', '.join(rows.schema.names)}"
        )
    return rows.select([name for name in rows.schema.names if name in {*_TIMES, *dimensions, *allowed}])


def for_browsers(rows: pa.Table) -> pa.Table:
    """The same rows in types that JavaScript reads: it has no int64 to add with, and float64 is exact to 2**53."""

    def narrowed(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_int64(kind):
            return pa.float64()
        return pa.timestamp("ms", tz="UTC") if pa.types.is_timestamp(kind) else kind

    return rows.cast(pa.schema([field.with_type(narrowed(field.type)) for field in rows.schema]))


def parquet(rows: pa.Table) -> bytes:
    """One file: zstd, whose level 9 costs nothing to decode, with a page index."""
    buffer = io.BytesIO()
    pq.write_table(
        rows, buffer, compression="zstd", compression_level=9, row_group_size=_ROW_GROUP, write_page_index=True
    )
    return buffer.getvalue()


def read_checked_rows(file: DataFile, body: bytes | None, columns: Sequence[str] | None = None) -> pa.Table:
    """A file's rows, once its bytes are those that the manifest names.

    Raises:
        EdgeStoreError: it is missing or altered.
    """
    return pq.read_table(io.BytesIO(check_published_rows(file, body)), columns=list(columns) if columns else None)


def check_published_rows(file: DataFile, body: bytes | None) -> bytes:
    """A file's bytes, if they are those that the manifest names.

    Raises:
        EdgeStoreError: it is missing or altered.
    """
    if body is None:
        raise EdgeStoreError(
            f"published file {file.path} is missing: publish its {_span(file)} again (cache-pipeline edge publish)"
        )
    if hashlib.sha256(body).hexdigest() != file.sha256:
        raise EdgeStoreError(
            f"published file {file.path} was altered: its sha256 is not the manifest's; delete it and publish its "
            f"{_span(file)} again (cache-pipeline edge publish)"
        )
    return body


def _span(file: DataFile) -> str:
    return f"{'month' if len(file.partition) == len('2026-03') else 'day'} {file.partition}"


@dataclass(frozen=True)
class PartitionFile:
    """A partition that is to be written: the new rows for it, and the files whose other rows it takes over."""

    partition: str
    new: Rows
    held: tuple[DataFile, ...]

    @property
    def folder(self) -> str:
        """``day=2026-03-29`` or ``month=2026-03``."""
        return f"{'month' if len(self.partition) == len('2026-03') else 'day'}={self.partition}"


def partition_files(
    report: Report, rows_by_interval: Rows, held: DataSet | None, provisional: IntervalSet, now: datetime
) -> list[PartitionFile]:
    """Which files to write: months that have ended and are final are one file, later days a file each.

    A month that was written as one file stays one, so that publishers whose clocks differ agree.

    Args:
        report: the data set.
        rows_by_interval: the new rows.
        held: what is published of it, or None.
        provisional: the new intervals that are not final.
        now: by this publisher's clock.
    """
    files = {file.partition: file for file in held.files} if held else {}
    days = _by_local_day(report, rows_by_interval)
    open_parts = provisional | IntervalSet(
        part for file in files.values() for part in file.open() - IntervalSet(rows_by_interval)
    )

    def closed(month: str) -> bool:
        if month in files:
            return True
        start = _local_start(report, f"{month}-01")
        whole = Interval(start, next_boundary(start, _MONTH, report.zone))
        return whole.end + MONTH_SETTLES <= now and not open_parts & IntervalSet([whole])

    months = {day[:7] for day in (*days, *files)}
    is_closed = {month: closed(month) for month in months}
    grouped: dict[str, dict[Interval, pa.Table]] = {}
    for day, new in days.items():
        grouped.setdefault(day[:7] if is_closed[day[:7]] else day, {}).update(new)
    for partition in files:
        if partition not in is_closed and is_closed[partition[:7]]:
            grouped.setdefault(partition[:7], {})
    return [
        PartitionFile(
            partition,
            new,
            tuple(file for name, file in sorted(files.items()) if name == partition or name[:7] == partition),
        )
        for partition, new in sorted(grouped.items())
    ]


def write_files(
    report: Report, target: PartitionFile, provisional: IntervalSet, read: Callable[[DataFile], pa.Table]
) -> tuple[DataFile, bytes]:
    """The file of a partition: its new rows, and of the held files those that they do not replace."""
    replaced = IntervalSet(target.new)
    tables = [for_browsers(published_rows(report, table)) for table in target.new.values()]
    kept, still_open = IntervalSet(), IntervalSet()
    for file in target.held:
        parts = file.covers() - replaced
        if parts:
            rows = read(file)
            tables.extend(rows_within(rows, part) for part in parts)
        kept, still_open = kept | parts, still_open | (file.open() & parts)
    covered, open_parts = kept | replaced, still_open | (provisional & replaced)
    rows = sort_rows(pa.concat_tables(tables))
    body = parquet(rows)
    digest = hashlib.sha256(body).hexdigest()
    bounds = [*covered]
    file = DataFile(
        path=f"data/{report.name}/{target.folder}/{digest[:16]}.parquet",
        partition=target.partition,
        bytes=len(body),
        rows=rows.num_rows,
        row_groups=-(-rows.num_rows // _ROW_GROUP),
        sha256=digest,
        min_interval=bounds[0].start,
        max_interval=bounds[-1].end,
        covered=tuple(str(part) for part in covered),
        provisional=tuple(str(part) for part in open_parts),
        provisional_from=next((part.start for part in open_parts), None),
    )
    return file, body


def _local_start(report: Report, day: str) -> datetime:
    return floor_to_step(datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=report.zone), _DAY, report.zone)


def _by_local_day(report: Report, rows_by_interval: Rows) -> dict[str, dict[Interval, pa.Table]]:
    days: dict[str, dict[Interval, pa.Table]] = {}
    for interval, rows in rows_by_interval.items():
        for part in cut_at_boundaries(interval, _DAY, report.zone):
            day = part.start.astimezone(report.zone).date().isoformat()
            days.setdefault(day, {})[part] = rows_within(rows, part)
    return days
