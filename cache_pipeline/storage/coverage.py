"""Which intervals of a series history holds, final or provisional. What must be fetched again is decided in `freshness`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """Coverage of the metrics of one series.

    Attributes:
        final: Intervals whose buckets are all final.
        provisional: Intervals that are stored but not final; never overlaps `final`.
        watermark: The latest watermark seen, or None.
        fetch_times: When the provisional intervals were fetched, and the parts of the interval that the caller named.
        second_looks: The provisional intervals that become final when a later query agrees with them, by reason.
        recheck_delay: The shortest time between two looks at rows that need a second one.
        by_metrics: The coverage of each set of metrics, if they are not covered alike; else empty.
    """

    final: IntervalSet = field(default_factory=IntervalSet)
    provisional: IntervalSet = field(default_factory=IntervalSet)
    watermark: datetime | None = None
    fetch_times: tuple[FetchTime, ...] = ()
    second_looks: Mapping[SecondLook, IntervalSet] = field(default_factory=dict[SecondLook, IntervalSet])
    recheck_delay: timedelta = timedelta(minutes=15)
    by_metrics: Mapping[tuple[str, ...], Coverage] = field(default_factory=dict[tuple[str, ...], "Coverage"])

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

    def with_final(self, intervals: IntervalSet) -> Coverage:
        """Return the coverage as if some intervals were stored and final."""
        if not intervals:
            return self
        parts = {names: coverage.with_final(intervals) for names, coverage in self.by_metrics.items()}
        waiting = {reason: left for reason, each in self.second_looks.items() if (left := each - intervals)}
        return replace(
            self,
            final=self.final | intervals,
            provisional=self.provisional - intervals,
            second_looks=waiting,
            by_metrics=parts,
        )

    def of_metrics(self, metrics: Iterable[str]) -> Coverage:
        """Return the coverage of some of the metrics."""
        wanted = set(metrics)
        if not self.by_metrics or not wanted:
            return self
        return combine_coverages(
            {
                names: coverage
                for known, coverage in self.by_metrics.items()
                if (names := tuple(name for name in known if name in wanted))
            }
        )


def combine_coverages(by_metrics: Mapping[tuple[str, ...], Coverage]) -> Coverage:
    """Return the coverage of several sets of metrics together: what is held of all of them, as old as the oldest of them.

    The watermark is the latest of them, because it is the vendor's and not a metric's.
    """
    alike: list[tuple[tuple[str, ...], Coverage]] = []
    for names, coverage in by_metrics.items():
        place = next((place for place, (_, known) in enumerate(alike) if known == coverage), None)
        if place is None:
            alike.append((names, coverage))
        else:
            alike[place] = (alike[place][0] + names, coverage)
    if len(alike) == 1:
        return alike[0][1]
    parts = [coverage for _, coverage in alike]
    final, stored = parts[0].final, parts[0].final | parts[0].provisional
    for each in parts[1:]:
        final, stored = final & each.final, stored & (each.final | each.provisional)
    provisional = stored - final
    looks = {
        reason: waiting
        for reason in SecondLook
        if (
            waiting := IntervalSet(part for each in parts for part in each.second_looks.get(reason, IntervalSet()))
            & provisional
        )
    }
    return Coverage(
        final,
        provisional,
        max((each.watermark for each in parts if each.watermark is not None), default=None),
        _oldest_first(each for part in parts for each in part.fetch_times),
        looks,
        parts[0].recheck_delay,
        dict(alike),
    )


def unite_coverages(parts: Sequence[Coverage]) -> Coverage:
    """Return the coverage of the same metrics in several disjoint times."""
    if len(parts) == 1:
        return parts[0]
    times: dict[datetime, IntervalSet] = {}
    for each in (time for part in parts for time in part.fetch_times):
        times[each.at] = times.get(each.at, IntervalSet()) | each.intervals
    return Coverage(
        IntervalSet(interval for part in parts for interval in part.final),
        IntervalSet(interval for part in parts for interval in part.provisional),
        max((part.watermark for part in parts if part.watermark is not None), default=None),
        tuple(FetchTime(times[at], at) for at in sorted(times)),
        {
            reason: waiting
            for reason in SecondLook
            if (waiting := IntervalSet(each for part in parts for each in part.second_looks.get(reason, IntervalSet())))
        },
    )


def coverage_of_metrics(
    metrics: Sequence[str], rows: Sequence[tuple[frozenset[str], Coverage]], recheck_delay: timedelta
) -> Coverage:
    """Return the coverage of some metrics, given the coverage of each set of metrics that were stored together."""
    holders: dict[tuple[int, ...], tuple[str, ...]] = {}
    for metric in metrics:
        places = tuple(place for place, (names, _) in enumerate(rows) if metric in names)
        holders[places] = (*holders.get(places, ()), metric)
    return combine_coverages(
        {
            names: replace(unite_coverages([rows[place][1] for place in places]), recheck_delay=recheck_delay)
            if places
            else Coverage(recheck_delay=recheck_delay)
            for places, names in holders.items()
        }
    )


def _oldest_first(times: Iterable[FetchTime]) -> tuple[FetchTime, ...]:
    """Return when each instant was fetched first; where several times are known, the oldest."""
    seen, oldest = IntervalSet(), dict[datetime, IntervalSet]()
    for each in sorted(times, key=lambda time: time.at):
        if part := each.intervals - seen:
            oldest[each.at] = oldest.get(each.at, IntervalSet()) | part
            seen |= part
    return tuple(FetchTime(intervals, at) for at, intervals in oldest.items())
