"""What history holds of a series, and what of it may be served or must be asked for again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.storage.answer import Completeness


@dataclass(frozen=True)
class Fetched:
    """What was fetched as of one moment, and not again since."""

    intervals: IntervalSet
    at: datetime


@dataclass(frozen=True)
class Coverage:
    """Coverage of one series.

    Attributes:
        complete: intervals whose buckets are all final.
        provisional: intervals held, but not final; never overlaps ``complete``.
        watermark: the latest watermark seen, or None.
        fetched: as of when the provisional intervals are, and those of the interval that was looked for.
    """

    complete: IntervalSet = field(default_factory=IntervalSet)
    provisional: IntervalSet = field(default_factory=IntervalSet)
    watermark: datetime | None = None
    fetched: tuple[Fetched, ...] = ()

    @property
    def provisional_fetched_at(self) -> datetime | None:
        """When the oldest provisional interval was fetched, or None."""
        return self._oldest(self.provisional)

    def gaps(self, wanted: IntervalSet, now: datetime, freshness: timedelta) -> IntervalSet:
        """What must be asked of the vendor: all that is not final, but for provisional figures still fresh enough."""
        missing = wanted - self.complete
        fresh = (part for each in self.fetched if now - each.at < freshness for part in each.intervals)
        return missing - (self.provisional & IntervalSet(fresh))

    def to_ask(self, wanted: IntervalSet, now: datetime, freshness: timedelta) -> IntervalSet:
        """The gaps, and the provisional figures beside them.

        One query asks for both, and they are then of one age; asked for apart, each bucket would go on costing a query
        of its own in every freshness.
        """
        return self.around(self.gaps(wanted, now, freshness), wanted)

    def around(self, gaps: IntervalSet, wanted: IntervalSet) -> IntervalSet:
        """Of what is wanted and not final, the stretches that hold a gap."""
        return IntervalSet(part for part in wanted - self.complete if IntervalSet([part]) & gaps)

    def since(self, instant: datetime) -> IntervalSet:
        """What of the interval that was looked for was fetched after an instant."""
        return IntervalSet(part for each in self.fetched if each.at > instant for part in each.intervals)

    def of(self, interval: Interval) -> Completeness | None:
        """What is known of an interval, or None where part of it is not held at all.

        Final figures do not age, so an interval with a provisional part is as old as that part.
        """
        wanted = IntervalSet([interval])
        open_part = wanted - self.complete
        if open_part - self.provisional:
            return None
        provisional_from = next((part.start for part in open_part), None)
        return Completeness(provisional_from or interval.end, provisional_from, self._oldest(open_part or wanted))

    def _oldest(self, intervals: IntervalSet) -> datetime | None:
        return min((each.at for each in self.fetched if each.intervals & intervals), default=None)
