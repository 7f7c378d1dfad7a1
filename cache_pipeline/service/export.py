"""Export history to a warehouse: the partitions whose coverage or declaration has changed since they were last exported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.calendar import Step, cut_at_boundaries, expand_to_steps, floor_to_step
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import FINAL_COLUMN, Column, to_arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.service.publish import Availability
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ports.history import History
from cache_pipeline.storage.warehouse.base import (
    ExportedPartition,
    ExportRecords,
    ExportTarget,
    Warehouse,
    WarehouseRefused,
    WarehouseTable,
)

#: The columns that a warehouse has in addition to the report's.
FETCHED_AT_COLUMN, DECLARATION_COLUMN = "fetched_at", "declaration"
_MONTH = Step(months=1)


@dataclass(frozen=True)
class ExportResult:
    """What one export did.

    Attributes:
        exported: The exported partitions.
        unchanged: The number of partitions that the warehouse held already.
    """

    exported: tuple[ExportedPartition, ...]
    unchanged: int

    @property
    def rows(self) -> int:
        """The number of rows of the exported partitions."""
        return sum(each.rows for each in self.exported)

    @property
    def provisional(self) -> int:
        """The number of exported partitions that are not final yet, and are exported again."""
        return sum(not each.is_final for each in self.exported)


@dataclass(frozen=True)
class Exporter:
    """Exports one report.

    Attributes:
        history: The rows.
        warehouse: Where they are exported to.
        records: What was exported before.
        series: The report and tenant.
        columns: The report's columns.
        dataset: The schema, or folder, of the warehouse's table.
    """

    history: History
    warehouse: Warehouse
    records: ExportRecords
    series: Series
    columns: Sequence[Column]
    dataset: str

    def export(
        self,
        wanted: Iterable[Interval] | None,
        now: datetime,
        *,
        everything: bool = False,
        on_progress: Callable[[Sequence[ExportedPartition]], object] = lambda _: None,
    ) -> ExportResult:
        """Export what history holds, a month at a time, as far as it has changed.

        Args:
            wanted: Export only the partitions that these intervals touch; None for all.
            now: The current time.
            everything: Export partitions that have not changed too, for a warehouse that has lost its rows.
            on_progress: Called with the partitions of each month once the warehouse holds them.

        Raises:
            WarehouseRefused: The warehouse cannot hold the report; nothing was written.
            WarehouseUnavailable: The warehouse failed. What was recorded is not exported again.
            ExportRunning: Another process exports the same.
            HistoryUnavailable: PostgreSQL cannot be used.
        """
        table = warehouse_table(self.series.report, self.columns, self.dataset)
        target = ExportTarget(f"{self.warehouse.name} {self.dataset}", self.series.tenant, self.series.report.name)
        self.warehouse.check(table)
        exported: list[ExportedPartition] = []
        with self.records.lock(target):
            partitions = self._stored_partitions(wanted)
            known = {} if everything else self.records.versions(target)
            unchanged = 0
            for month in _group_by_month(self.series.report, partitions):
                coverage = self.history.coverage(self.series, Interval(month[0].start, month[-1].end))
                versions = {each: version_of(self.series, coverage, each) for each in month}
                changed = [each for each in month if known.get(each) != versions[each]]
                unchanged += len(month) - len(changed)
                if changed:
                    done = self._replace(table, changed, coverage, versions)
                    self.records.record(target, done, now)
                    on_progress(done)
                    exported += done
        return ExportResult(tuple(exported), unchanged)

    def _stored_partitions(self, wanted: Iterable[Interval] | None) -> list[Interval]:
        """Return the partitions of which history holds something, in order."""
        report, coverage = self.series.report, self.history.coverage(self.series)
        stored = coverage.final | coverage.provisional
        if wanted is not None:
            stored = stored & IntervalSet(_whole_partitions(report, each) for each in wanted)
        return sorted(
            {
                _whole_partitions(report, piece)
                for part in stored
                for piece in cut_at_boundaries(part, report.partition.step, report.zone)
            },
            key=lambda interval: interval.start,
        )

    def _replace(
        self,
        table: WarehouseTable,
        partitions: Sequence[Interval],
        coverage: Coverage,
        versions: Mapping[Interval, str],
    ) -> list[ExportedPartition]:
        counts = dict.fromkeys(partitions, 0)

        def rows(partition: Interval) -> Iterator[pa.RecordBatch]:
            counts[partition] = 0
            for batch in self._rows(table, partition, coverage):
                counts[partition] += batch.num_rows
                yield batch

        self.warehouse.replace(table, partitions, rows)
        return [
            ExportedPartition(each, versions[each], coverage.final.covers(each), counts[each]) for each in partitions
        ]

    def _rows(self, table: WarehouseTable, partition: Interval, coverage: Coverage) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a partition with what is known of them."""
        for part, is_final, fetched_at in _uniform_parts(partition, coverage):
            for batch in self.history.rows(self.series, [part], self.columns).batches():
                own = [
                    _constant(value, field.type, batch.num_rows)
                    for field, value in zip(_own_fields(), (is_final, fetched_at, self.series.query_id), strict=True)
                ]
                yield pa.RecordBatch.from_arrays([*batch.columns, *own], schema=table.schema)


def _own_fields() -> tuple[pa.Field[Any], ...]:
    return (
        pa.field(FINAL_COLUMN, pa.bool_()),
        pa.field(FETCHED_AT_COLUMN, pa.timestamp("us", tz="UTC")),
        pa.field(DECLARATION_COLUMN, pa.string()),
    )


def warehouse_table(report: Report, columns: Sequence[Column], dataset: str) -> WarehouseTable:
    """Return the table of a report.

    Raises:
        WarehouseRefused: A column of the report has the name of one that every table has.
    """
    own = {field.name for field in _own_fields()}
    if taken := [column.name for column in columns if column.name in own]:
        raise WarehouseRefused(
            f"{report.name} has a column {taken[0]!r}, as every table of a warehouse has: leave out {taken[0]!r} from group_by or "
            "metrics"
        )
    fields = [field.with_nullable(nullable=True) for field in to_arrow_schema(columns)]
    return WarehouseTable(dataset, report.name, pa.schema([*fields, *_own_fields()]))


def version_of(series: Series, coverage: Coverage, partition: Interval) -> str:
    """Return a digest of what of a partition is stored, how final it is, when it was fetched, and by which declaration.

    Args:
        series: The series.
        coverage: Its coverage, with the fetch times of the partition.
        partition: The partition.
    """
    parts = [coverage, *(coverage.by_metrics[names] for names in sorted(coverage.by_metrics))]
    document = [series.query_id, [[_text(part) for part in _uniform_parts(partition, each)] for each in parts]]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:32]


def _text(part: tuple[Interval, bool, datetime | None]) -> list[str]:
    return [str(each) for each in part]


def _uniform_parts(partition: Interval, coverage: Coverage) -> list[tuple[Interval, bool, datetime | None]]:
    """Divide what is stored of a partition into parts of one finality and one time of fetching, in order."""
    available = Availability.of(coverage, [partition])
    found: list[tuple[Interval, bool, datetime | None]] = []
    for is_final, intervals in ((True, available.final), (False, available.provisional)):
        rest = intervals
        for fetched in coverage.fetch_times:
            found += [(part, is_final, fetched.at) for part in rest & fetched.intervals]
            rest = rest - fetched.intervals
        found += [(part, is_final, None) for part in rest]
    return sorted(found, key=lambda each: each[0].start)


def _constant(value: object, kind: pa.DataType, count: int) -> pa.Array[Any]:
    return pa.array([value] * count, kind)


def _whole_partitions(report: Report, interval: Interval) -> Interval:
    return expand_to_steps(interval, report.partition.step, report.zone)


def _group_by_month(report: Report, partitions: Iterable[Interval]) -> list[list[Interval]]:
    months: dict[datetime, list[Interval]] = {}
    for each in partitions:
        months.setdefault(floor_to_step(each.start, _MONTH, report.zone), []).append(each)
    return list(months.values())
