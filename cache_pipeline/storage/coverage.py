"""Which intervals of a series history holds, final or provisional. What must be fetched again is decided in `freshness`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.storage.answer import Completeness


@dataclass(frozen=True)
class FetchTime:
    """Intervals whose stored rows were fetched at one instant."""

    intervals: IntervalSet
    at: datetime


@dataclass(frozen=True)
class Coverage:
    """Coverage of one series.

    Attributes:
        final: Intervals whose buckets are all final.
        provisional: Intervals that are stored but not final; never overlaps `final`.
        watermark: The latest watermark seen, or None.
        fetch_times: When the provisional intervals were fetched, and the parts of the interval that the caller named.
        second_looks: The provisional intervals that become final when a later query agrees with them, by reason.
        recheck_delay: The shortest time between two looks at rows that need a second one.
    """

    final: IntervalSet = field(default_factory=IntervalSet)
    provisional: IntervalSet = field(default_factory=IntervalSet)
    watermark: datetime | None = None
    fetch_times: tuple[FetchTime, ...] = ()
    second_looks: Mapping[SecondLook, IntervalSet] = field(default_factory=dict[SecondLook, IntervalSet])
    recheck_delay: timedelta = timedelta(minutes=15)

    @property
    def awaits_second_look(self) -> IntervalSet:
        """All intervals that wait for a second look."""
        return IntervalSet(part for each in self.second_looks.values() for part in each)

    def second_look_due(self, now: datetime) -> IntervalSet:
        """Return what was fetched long enough ago for a second look, which must outlast a vendor's short failure."""
        old = (part for each in self.fetch_times if now - each.at >= self.recheck_delay for part in each.intervals)
        return self.awaits_second_look & IntervalSet(old)

    @property
    def provisional_fetched_at(self) -> datetime | None:
        """When the oldest provisional interval was fetched, or None."""
        return self._oldest_fetch(self.provisional)

    def widen_gaps(self, gaps: IntervalSet, requested: IntervalSet) -> IntervalSet:
        """Return the unbroken stretches of requested, non-final time that contain a gap."""
        return IntervalSet(part for part in requested - self.final if IntervalSet([part]) & gaps)

    def fetched_since(self, instant: datetime) -> IntervalSet:
        """Return the parts of the named interval that were fetched at an instant or after it."""
        return IntervalSet(part for each in self.fetch_times if each.at >= instant for part in each.intervals)

    def fetched_after(self, instant: datetime) -> IntervalSet:
        """Return the parts of the named interval that were fetched after an instant."""
        return IntervalSet(part for each in self.fetch_times if each.at > instant for part in each.intervals)

    def completeness_of(self, interval: Interval) -> Completeness | None:
        """Return the completeness of an interval, or None if part of it is not stored.

        Final rows do not age, so an interval with a provisional part is as old as that part.
        """
        requested = IntervalSet([interval])
        not_final = requested - self.final
        if not_final - self.provisional:
            return None
        provisional_from = next((part.start for part in not_final), None)
        return Completeness(
            provisional_from or interval.end, provisional_from, self._oldest_fetch(not_final or requested)
        )

    def _oldest_fetch(self, intervals: IntervalSet) -> datetime | None:
        return min((each.at for each in self.fetch_times if each.intervals & intervals), default=None)
