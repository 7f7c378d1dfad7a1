"""Coverage and runs of all reports, each read in one round of queries for the ticks of many sensors.

Dagster evaluates the sensor of each report by itself. A connection and a query for every one of a thousand ticks would take
minutes of each minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import dagster as dg

from cache_pipeline.orchestration.instance_queries import RecentRuns, read_recent_runs
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage

T = TypeVar("T")

#: How old a state may be for a decision. A run that has ended since is requested once more at worst, and fetches nothing.
_MAX_AGE = timedelta(seconds=10)
#: In this time the delay after failures reaches its maximum.
_FAILURE_MEMORY = timedelta(days=3)


class _ReadOnce(Generic[T]):
    """Reads something at most once in ten seconds; safe for concurrent ticks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: tuple[datetime, T] | None = None

    def get(self, now: datetime, read: Callable[[], T]) -> T:
        with self._lock:
            # Not only if it is too old: a clock that was set back must not keep it alive without end.
            if self._read is None or not timedelta(0) <= now - self._read[0] < _MAX_AGE:
                self._read = now, read()
            return self._read[1]


class SharedState:
    """The state of a group of reports, read for all of them when the first one needs it."""

    def __init__(self, reports: Iterable[Report]) -> None:
        self._reports = tuple(reports)
        self._coverages = _ReadOnce[Mapping[str, Coverage]]()
        self._runs = _ReadOnce[RecentRuns]()

    def coverage(self, report: Report, engine: EngineResource, now: datetime) -> Coverage:
        """Return the coverage of one of the reports.

        Raises:
            Failure: PostgreSQL cannot be reached.
        """
        return self._coverages.get(now, lambda: self._read_coverages(engine))[report.name]

    def runs(self, instance: dg.DagsterInstance, now: datetime) -> RecentRuns:
        """Return the recent runs of all reports."""
        return self._runs.get(now, lambda: read_recent_runs(instance, now - _FAILURE_MEMORY))

    def _read_coverages(self, engine: EngineResource) -> Mapping[str, Coverage]:
        series = {report.name: engine.tenant_series(report) for report in self._reports}
        with engine.coverage() as stored:
            coverages = stored.coverages(list(series.values()))
        return {name: coverages[each.id] for name, each in series.items()}
