"""What an export needs of a warehouse, and of the record of what was exported to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cache_pipeline.errors import CachePipelineError, InvalidInput, StoreUnavailable
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval

#: Returns the rows of one partition, in the table's schema.
RowsOfPartition = Callable[[Interval], "Iterable[pa.RecordBatch]"]


class WarehouseUnavailable(StoreUnavailable):
    """A warehouse cannot be used. The text names it without its credentials."""


class WarehouseRefused(InvalidInput):
    """A warehouse cannot hold a report, or its URL cannot be used. Nothing was written."""


class ExportRunning(CachePipelineError):
    """Another process exports the same report to the same warehouse."""

    retryable = True
    http_status = 409
    problem_type = "export-running"


@dataclass(frozen=True)
class WarehouseTable:
    """One table of a warehouse.

    Attributes:
        dataset: The schema or folder that it is in.
        name: Its name.
        schema: Its columns. All may be null, so that a later declaration can add one.
    """

    dataset: str
    name: str
    schema: pa.Schema


class Warehouse(Protocol):
    """A warehouse. Every method blocks."""

    @property
    def name(self) -> str:
        """The URL without credentials and options: for messages, and as the identity of the warehouse."""
        ...

    def check(self, table: WarehouseTable) -> None:
        """Check that the warehouse can be reached and can hold a table, without changing anything.

        Raises:
            WarehouseRefused: It cannot hold a name of the table.
            WarehouseUnavailable: It cannot be reached, or refuses the login.
        """
        ...

    def replace(self, table: WarehouseTable, partitions: Sequence[Interval], rows: RowsOfPartition) -> None:
        """Replace the rows of some partitions. The same call once more changes nothing, so a killed one may be repeated.

        Raises:
            WarehouseRefused: A column of the table has another type.
            WarehouseUnavailable: It failed. Some of the partitions may have been replaced, each completely or not at all.
        """
        ...


@dataclass(frozen=True)
class ExportTarget:
    """A report of a tenant in a warehouse."""

    warehouse: str
    tenant: str
    report: str


@dataclass(frozen=True)
class ExportedPartition:
    """One partition as it was exported.

    Attributes:
        interval: The partition.
        version: Identifies the coverage and declaration that were exported; a partition with another version has changed.
        is_final: Whether all of it was final.
        rows: The number of its rows.
    """

    interval: Interval
    version: str
    is_final: bool
    rows: int


class ExportRecords(Protocol):
    """What was exported, so that the next export sends only what has changed. Every method blocks."""

    def lock(self, target: ExportTarget) -> AbstractContextManager[None]:
        """Keep other processes from the same export for the duration of the block.

        Raises:
            ExportRunning: Another process has it.
        """
        ...

    def versions(self, target: ExportTarget) -> Mapping[Interval, str]:
        """Return the version of each exported partition."""
        ...

    def record(self, target: ExportTarget, partitions: Iterable[ExportedPartition], at: datetime) -> None:
        """Record partitions as exported, instead of those that they overlap."""
        ...
