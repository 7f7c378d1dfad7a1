"""Coverage of all reports, read in one query for the ticks of many sensors.

Dagster evaluates the sensor of each report by itself. A connection and a query for every one of a thousand ticks would take
minutes of each minute.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage

#: How old coverage may be for a decision. A run that has ended since is requested once more at worst, and fetches nothing.
_MAX_AGE = timedelta(seconds=10)


class SharedCoverage:
    """Reads the coverage of a group of reports at most once in ten seconds; safe for concurrent ticks."""

    def __init__(self, reports: Iterable[Report]) -> None:
        self._reports = tuple(reports)
        self._lock = threading.Lock()
        self._read_at: datetime | None = None
        self._coverages: Mapping[str, Coverage] = {}

    def of(self, report: Report, engine: EngineResource, now: datetime) -> Coverage:
        """Return the coverage of one of the reports.

        Raises:
            Failure: PostgreSQL cannot be reached.
        """
        with self._lock:
            # Not only if it is too old: a clock that was set back must not keep it alive without end.
            if self._read_at is None or not timedelta(0) <= now - self._read_at < _MAX_AGE:
                self._coverages = self._read(engine)
                self._read_at = now
            return self._coverages[report.name]

    def _read(self, engine: EngineResource) -> Mapping[str, Coverage]:
        series = {report.name: engine.tenant_series(report) for report in self._reports}
        with engine.history() as history:
            coverages = history.coverages(list(series.values()))
        return {name: coverages[each.id] for name, each in series.items()}
