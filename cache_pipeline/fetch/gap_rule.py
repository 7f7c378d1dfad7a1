"""Decides what of a series a fetch session must fetch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.freshness import FreshnessRule

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class GapRule:
    """What of a series must be fetched.

    Attributes:
        report: The declaration.
        now: When the session began.
        refetch: Whether everything is fetched that was not fetched since, whatever history holds.
    """

    report: Report
    now: datetime
    refetch: bool = False

    def missing(self, interval: Interval, coverage: Coverage) -> IntervalSet:
        """Return the part of an interval that must be fetched, given what history holds."""
        wanted = IntervalSet([interval])
        if self.refetch:
            return wanted - coverage.fetched_after(self.now)
        return FreshnessRule.of(self.report).intervals_to_fetch(coverage, wanted, self.now)

    def partial_gaps(self, requested: IntervalSet, coverage: Coverage) -> list[tuple[tuple[str, ...], IntervalSet]]:
        """Return the metrics that must be fetched without the others, and in which intervals; none if all are fetched again."""
        return [] if self.refetch else FreshnessRule.of(self.report).partial_gaps(coverage, requested, self.now)

    def min_requested_at(self, interval: Interval, missing: IntervalSet, coverage: Coverage) -> datetime:
        """Return the earliest time at which a query may have been sent for its answer to be fresh enough.

        Args:
            interval: The interval of the query.
            missing: What must be fetched.
            coverage: What history holds. A query that is not newer than the rows to be fetched again would bring them again.
        """
        if self.refetch:
            return self.now
        again = missing & IntervalSet([interval])
        stored = [each.at + _INSTANT for each in coverage.fetch_times if each.intervals & again]
        return max([FreshnessRule.of(self.report).not_before(interval, self.now), *stored])
