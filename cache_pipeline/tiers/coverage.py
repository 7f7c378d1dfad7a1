"""What history holds of a series, and what of it may be served or must be asked for again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.tiers.answer import Completeness


@dataclass(frozen=True)
class Coverage:
    """Coverage of one series.

    Attributes:
        complete: intervals whose buckets are all final.
        provisional: intervals held, but not final; never overlaps ``complete``.
        watermark: the latest watermark seen, or None.
        provisional_fetched_at: when the oldest provisional interval was fetched, or None.
    """

    complete: IntervalSet = field(default_factory=IntervalSet)
    provisional: IntervalSet = field(default_factory=IntervalSet)
    watermark: datetime | None = None
    provisional_fetched_at: datetime | None = None

    def gaps(self, wanted: IntervalSet, now: datetime, freshness: timedelta) -> IntervalSet:
        """What must be asked of the vendor: all that is not final, but for provisional figures still fresh enough."""
        missing = wanted - self.complete
        fresh = self.provisional_fetched_at is not None and now - self.provisional_fetched_at < freshness
        return missing - self.provisional if fresh else missing

    def of(self, interval: Interval) -> Completeness | None:
        """What is known of an interval, or None where part of it is not held at all."""
        wanted = IntervalSet([interval])
        open_part = wanted - self.complete
        if open_part - self.provisional:
            return None
        provisional_from = next((part.start for part in open_part), None)
        return Completeness(provisional_from or interval.end, provisional_from, self.provisional_fetched_at)
