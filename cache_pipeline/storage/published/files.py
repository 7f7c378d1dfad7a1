"""Build the published Parquet files: allowed columns only, small cells withheld, types that browsers read, one per partition."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.lazy_imports import pa, pc, pq
from cache_pipeline.query.calendar import Step, cut_at_boundaries, floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.publication import event_column
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names, rows_within, sort_rows, to_snake_case
from cache_pipeline.storage.published.manifest import DataFile, DataSet

#: A browser reads a row group of this size in one request. Smaller ones mean more requests; larger ones do not mean fewer.
_ROWS_PER_GROUP = 64 * 1024
_DAY, _MONTH = Step(days=1), Step(months=1)
#: A month becomes one file this long after its end: by then the vendor has usually made its corrections.
MONTH_SETTLE_DELAY = timedelta(days=2)
_TIMES = ("interval_start", "interval_end")

Rows = Mapping[Interval, "pa.Table"]


def restrict_rows(report: Report, rows: pa.Table) -> pa.Table:
    """Return what may be published of a report's rows, in the report's own types.

    Only allowed columns remain, and the metrics of rows with fewer than ``min_cell_count`` events are null.

    Raises:
        EdgeStoreError: The declaration allows a column that does not exist, or names no metric that counts.
    """
    dimensions = dimension_names(report)
    if report.publish.min_cell_count is not None:
        counted = event_column(report, rows.schema.names)
        if counted is None:
            raise EdgeStoreError(f"{report.name}: min_cell_count needs a volume_metric that counts events")
        events = rows[counted]
        none, few = pa.scalar(0, events.type), pa.scalar(report.publish.min_cell_count, events.type)
        small = pc.and_(pc.greater(events, none), pc.less(events, few))
        for place, field in enumerate(rows.schema):
            if field.name not in (*_TIMES, *dimensions):
                withheld = pc.if_else(small, pa.scalar(None, field.type), rows[field.name])
                rows = rows.set_column(place, field.with_nullable(nullable=True), withheld)
    if report.publish.edge_columns is None:
        return rows
    allowed = {to_snake_case(name) for name in report.publish.edge_columns}
    unknown = sorted(allowed - set(rows.schema.names))
    if unknown:
        raise EdgeStoreError(
            f"{report.name}: edge_columns names the unknown {', '.join(unknown)}; expected some of {', '.join(rows.schema.names)}"
        )
    return rows.select([name for name in rows.schema.names if name in {*_TIMES, *dimensions, *allowed}])


def for_browsers(rows: pa.Table) -> pa.Table:
    """Cast rows to types that JavaScript reads: it has no int64 arithmetic, and float64 is exact up to 2**53."""

    def browser_type(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_int64(kind):
            return pa.float64()
        return pa.timestamp("ms", tz="UTC") if pa.types.is_timestamp(kind) else kind

    return rows.cast(pa.schema([field.with_type(browser_type(field.type)) for field in rows.schema]))


def to_parquet(rows: pa.Table) -> bytes:
    """Return rows as one Parquet file with a page index, compressed with zstd; level 9 costs nothing to decode."""
    buffer = io.BytesIO()
    pq.write_table(
        rows, buffer, compression="zstd", compression_level=9, row_group_size=_ROWS_PER_GROUP, write_page_index=True
    )
    return buffer.getvalue()


def read_verified_rows(file: DataFile, body: bytes | None, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a file's rows after checking its bytes against the manifest.

    Raises:
        EdgeStoreError: It is missing or altered.
    """
    return pq.read_table(io.BytesIO(verify_checksum(file, body)), columns=list(columns) if columns else None)


def read_rows(body: bytes) -> pa.Table:
    """Return the rows of a file without checking its bytes."""
    return pq.read_table(io.BytesIO(body))


def verify_checksum(file: DataFile, body: bytes | None) -> bytes:
    """Return a file's bytes if their SHA-256 is the one in the manifest.

    Raises:
        EdgeStoreError: It is missing or altered.
    """
    if body is None:
        raise EdgeStoreError(
            f"published file {file.path} is missing: publish its {_partition_name(file)} again (cache-pipeline edge publish)"
        )
    if hashlib.sha256(body).hexdigest() != file.sha256:
        raise EdgeStoreError(
            f"published file {file.path} was altered, because its SHA-256 differs from the manifest's: delete it and publish its "
            f"{_partition_name(file)} again (cache-pipeline edge publish)"
        )
    return body


def _partition_name(file: DataFile) -> str:
    return f"{'month' if len(file.partition) == len('2026-03') else 'day'} {file.partition}"


@dataclass(frozen=True)
class PartitionFile:
    """A partition file to write.

    Attributes:
        partition: The local day or month.
        interval: The interval of that day or month.
        new_rows: The new rows by interval.
        current_files: The files whose remaining rows of the interval it takes over.
    """

    partition: str
    interval: Interval
    new_rows: Rows
    current_files: tuple[DataFile, ...]

    @property
    def folder(self) -> str:
        """The folder of the partition: ``day=2026-03-29`` or ``month=2026-03``."""
        return f"{'month' if len(self.partition) == len('2026-03') else 'day'}={self.partition}"


def partition_files(
    report: Report, rows_by_interval: Rows, current: DataSet | None, provisional: IntervalSet, now: datetime
) -> list[PartitionFile]:
    """Decide which files to write: one per ended and final month, and one per day for later days.

    A month that was written as one file stays one, so that publishers whose clocks differ agree.

    Args:
        report: The report of the data set.
        rows_by_interval: The new rows.
        current: The published data set, or None.
        provisional: The new intervals that are not final.
        now: The time by this publisher's clock.
    """
    merged = {file.partition for file in current.files} if current else set()
    held = _files_by_partition(report, current) if current else {}
    days = _split_by_local_day(report, rows_by_interval)
    all_provisional = provisional | IntervalSet(
        part
        for file in (current.files if current else ())
        for part in file.provisional_intervals() - IntervalSet(rows_by_interval)
    )

    def is_one_file(month: str) -> bool:
        if month in merged:
            return True
        interval = _local_interval(report, month)
        return interval.end + MONTH_SETTLE_DELAY <= now and not all_provisional & IntervalSet([interval])

    is_closed = {month: is_one_file(month) for month in {day[:7] for day in (*days, *held)}}
    grouped: dict[str, dict[Interval, pa.Table]] = {}
    for day, new in days.items():
        grouped.setdefault(day[:7] if is_closed[day[:7]] else day, {}).update(new)
    for partition in _to_rewrite(held, is_closed, is_moved=bool(current and _is_moved(report, current))):
        grouped.setdefault(partition, {})
    return [
        PartitionFile(
            partition,
            _local_interval(report, partition),
            new,
            tuple(
                dict.fromkeys(
                    file
                    for name, files in sorted(held.items())
                    if name == partition or name[:7] == partition
                    for file in files
                )
            ),
        )
        for partition, new in sorted(grouped.items())
    ]


def _is_moved(report: Report, current: DataSet) -> bool:
    """Return whether the days of the published files are those of another time zone, or overlap."""
    return current.time_zone != report.time_zone or current.find_overlap() is not None


def _files_by_partition(report: Report, current: DataSet) -> dict[str, tuple[DataFile, ...]]:
    """Return which of the current files hold rows of each published day or merged month."""
    if not _is_moved(report, current):
        return {file.partition: (file,) for file in current.files}
    found: dict[str, tuple[DataFile, ...]] = {}
    for file in current.files:
        for day in _local_days(report, file.covered_intervals()):
            found[day] = (*found.get(day, ()), file)
    return found


def _to_rewrite(held: Iterable[str], is_closed: Mapping[str, bool], *, is_moved: bool) -> Iterator[str]:
    """Yield the partitions to write although none of their rows are new: of moved days, and of months that have closed."""
    for partition in held:
        month = partition[:7]
        if is_closed[month] and partition != month:
            yield month
        elif is_moved:
            yield partition


def build_file(
    report: Report, target: PartitionFile, provisional: IntervalSet, read: Callable[[DataFile], pa.Table]
) -> tuple[DataFile, bytes]:
    """Build the file of a partition from its new rows and those of its current files that they do not replace."""
    replaced = IntervalSet(target.new_rows)
    tables = [for_browsers(restrict_rows(report, table)) for table in target.new_rows.values()]
    kept, kept_provisional = IntervalSet(), IntervalSet()
    for file in target.current_files:
        parts = (file.covered_intervals() & IntervalSet([target.interval])) - replaced - kept
        if parts:
            rows = read(file)
            tables.extend(rows_within(rows, part) for part in parts)
        kept, kept_provisional = kept | parts, kept_provisional | (file.provisional_intervals() & parts)
    covered, still_provisional = kept | replaced, kept_provisional | (provisional & replaced)
    rows = sort_rows(pa.concat_tables(tables))
    body = to_parquet(rows)
    digest = hashlib.sha256(body).hexdigest()
    bounds = [*covered]
    file = DataFile(
        path=f"data/{report.name}/{target.folder}/{digest[:16]}.parquet",
        partition=target.partition,
        bytes=len(body),
        rows=rows.num_rows,
        row_groups=-(-rows.num_rows // _ROWS_PER_GROUP),
        sha256=digest,
        min_interval=bounds[0].start,
        max_interval=bounds[-1].end,
        covered=tuple(str(part) for part in covered),
        provisional=tuple(str(part) for part in still_provisional),
        provisional_from=next((part.start for part in still_provisional), None),
    )
    return file, body


def _local_interval(report: Report, partition: str) -> Interval:
    """Return the interval of a local day or month."""
    is_month = len(partition) == len("2026-03")
    noon = datetime.fromisoformat(f"{partition}-01T12:00" if is_month else f"{partition}T12:00").replace(
        tzinfo=report.zone
    )
    start = floor_to_step(noon, _DAY, report.zone)
    return Interval(start, next_boundary(start, _MONTH if is_month else _DAY, report.zone))


def _local_days(report: Report, intervals: Iterable[Interval]) -> Iterator[str]:
    for interval in intervals:
        for part in cut_at_boundaries(interval, _DAY, report.zone):
            yield part.start.astimezone(report.zone).date().isoformat()


def _split_by_local_day(report: Report, rows_by_interval: Rows) -> dict[str, dict[Interval, pa.Table]]:
    days: dict[str, dict[Interval, pa.Table]] = {}
    for interval, rows in rows_by_interval.items():
        for part in cut_at_boundaries(interval, _DAY, report.zone):
            day = part.start.astimezone(report.zone).date().isoformat()
            days.setdefault(day, {})[part] = rows_within(rows, part)
    return days
