"""Decides which provisional figures must be fetched again: one rule for every caller.

A provisional bucket is fetched again at the first of these moments; all of them follow from its end and from the time when it
was fetched, so that a fetch is never repeated without a reason to expect something new:

1. **It may be final.** The finality delay after its end has passed since it was fetched, or the vendor's watermark has passed
   both its end and the fetch. A bucket of a report with `rows` may also be final when the time-out of its open rows is over.
2. **Its figures are too old.** The lifetime is that of G11, or the declared one, for a bucket that was younger than the finality
   delay when it was fetched. It doubles with each further doubling of that age, up to a day: what has stayed provisional for
   long will not change soon.

A bucket that waits for a second look is fetched again when the recheck delay is over, and at no other time. Missing buckets are
always fetched, and final ones never.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cache_pipeline.query.calendar import Step, floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.storage.answer import Completeness
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ttl import report_freshness

#: The longest lifetime of provisional figures, unless a longer one is declared.
MAX_TTL = timedelta(days=1)
#: The age from which lifetimes grow where the finality delay is shorter or zero.
_MIN_GROWTH_AGE = timedelta(minutes=1)
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class FreshnessRule:
    """The rule for the buckets of one report.

    Attributes:
        ttl: How old the figures of a young bucket may become (G11).
        finality_delay: The age from which a bucket counts as final if the vendor gives no watermark.
        step: The granularity.
        zone: The time zone of the buckets.
        open_row_timeout: The age from which open rows no longer keep a bucket provisional; None for reports without `rows`.
    """

    ttl: timedelta
    finality_delay: timedelta
    step: Step
    zone: ZoneInfo
    open_row_timeout: timedelta | None = None

    @classmethod
    def of(cls, report: Report) -> FreshnessRule:
        """Return the rule that a report declares."""
        return cls(
            report_freshness(report),
            report.freshness.finality_delay,
            report.step,
            report.zone,
            report.fetch.open_row_timeout if report.rows else None,
        )

    def with_ttl(self, ttl: timedelta) -> FreshnessRule:
        """Return the same rule with another lifetime."""
        return replace(self, ttl=ttl)

    def ttl_at(self, age: timedelta) -> timedelta:
        """Return how old the figures of a bucket may become that were fetched `age` after its end; negative before its end."""
        if age <= self._growth_age:
            return self.ttl
        return min(self.ttl * (age / self._growth_age), self._max_ttl)

    def gaps(self, coverage: Coverage, requested: IntervalSet, now: datetime) -> IntervalSet:
        """Return what must be fetched: what is missing, and the provisional buckets that are due.

        Args:
            coverage: Coverage of the series.
            requested: The intervals that are asked for.
            now: The time as of which figures must be fresh. What was fetched at that time or later is fresh.
        """
        fresh = (
            part for at, stored in self._provisional(coverage) for part in stored - self._due(at, stored, coverage, now)
        )
        waiting = coverage.awaits_second_look
        kept = (IntervalSet(fresh) - waiting) | (waiting - coverage.second_look_due(now))
        return requested - coverage.final - kept

    def partial_gaps(
        self, coverage: Coverage, requested: IntervalSet, now: datetime
    ) -> list[tuple[tuple[str, ...], IntervalSet]]:
        """Return the gaps where some metrics are missing and the others are final, so that the others are not asked for.

        Where any other metric is provisional, all metrics are fetched together, so that their figures keep one age.

        Returns:
            The metrics and the intervals in which exactly these are missing.
        """
        everything = {name for names in coverage.by_metrics for name in names}
        divided: list[tuple[tuple[str, ...], IntervalSet]] = [((), requested)] if coverage.by_metrics else []
        for names, known in coverage.by_metrics.items():
            divided = [
                part
                for missing, time in divided
                for gaps in [self.gaps(known, time, now)]
                for part in (((*missing, *names), gaps), (missing, (time - gaps) & known.final))
                if part[1]
            ]
        return [
            (tuple(sorted(missing)), time) for missing, time in divided if missing and len(missing) < len(everything)
        ]

    def intervals_to_fetch(self, coverage: Coverage, requested: IntervalSet, now: datetime) -> IntervalSet:
        """Return the gaps and the provisional intervals next to them.

        One query fetches both, and they then have the same age. If they were fetched separately, each bucket would keep
        costing a query of its own in every lifetime.
        """
        return coverage.widen_gaps(self.gaps(coverage, requested, now), requested)

    def not_before(self, interval: Interval, now: datetime) -> datetime:
        """Return the earliest time at which a query must have been sent for its answer to need no repetition now.

        An answer in which everything could be final when it was requested is as good as one from now.
        """
        final_at = interval.end + self.finality_delay
        last_final = floor_to_step(now - self.finality_delay, self.step, self.zone)
        earliest = now - self.ttl + _INSTANT
        if last_final > interval.start:
            earliest = max(earliest, last_final + self.finality_delay)
        return min(final_at, earliest)

    def completeness_of(self, coverage: Coverage, interval: Interval) -> Completeness | None:
        """Return the completeness of an interval, or None if part of it is not stored."""
        completeness = coverage.completeness_of(interval)
        if completeness is None or completeness.provisional_from is None:
            return completeness
        requested = IntervalSet([interval])
        due = [
            due_at
            for at, stored in self._provisional(coverage)
            for part in stored & requested
            for due_at in self._due_times(at, part, coverage)
        ]
        return replace(completeness, fresh_until=min(due, default=None))

    @property
    def _growth_age(self) -> timedelta:
        return max(self.finality_delay, _MIN_GROWTH_AGE)

    @property
    def _max_ttl(self) -> timedelta:
        return max(self.ttl, MAX_TTL)

    @property
    def _final_ages(self) -> tuple[timedelta, ...]:
        """The ages at which a bucket that is still provisional may have become final."""
        return (self.finality_delay, *([self.open_row_timeout] if self.open_row_timeout else []))

    @staticmethod
    def _provisional(coverage: Coverage) -> Iterable[tuple[datetime, IntervalSet]]:
        for each in coverage.fetch_times:
            if stored := each.intervals & coverage.provisional:
                yield each.at, stored

    def _due(self, at: datetime, stored: IntervalSet, coverage: Coverage, now: datetime) -> IntervalSet:
        """Return which of the buckets that were fetched at one time are due, second looks aside.

        Each reason holds for the buckets whose end is between two bounds, so that no list of buckets is needed.
        """
        if at >= now:
            return IntervalSet()
        first, last = min(part.start for part in stored), max(part.end for part in stored)
        due = [self._buckets_ending(first, last, at - age, now - age) for age in self._final_ages]
        if (watermark := self._later_watermark(at, coverage, now)) is not None:
            due.append(self._buckets_ending(first, last, first, watermark))
        if (too_old := self._too_old_from(at, first, now)) is not None:
            due.append(self._buckets_ending(first, last, too_old - _INSTANT, last))
        return stored & IntervalSet(part for each in due for part in each)

    def _buckets_ending(self, first: datetime, last: datetime, after: datetime, until: datetime) -> IntervalSet:
        """Return the buckets between `first` and `last` whose end is later than `after` and not later than `until`."""
        start = max(first, floor_to_step(max(after, first), self.step, self.zone))
        end = last if until >= last else floor_to_step(until, self.step, self.zone)
        return IntervalSet([Interval(start, end)] if start < end else [])

    def _later_watermark(self, at: datetime, coverage: Coverage, now: datetime) -> datetime | None:
        """Return the vendor's watermark if it was certainly reported after a fetch, which could not know it.

        A report with `rows` has one for each answer: its oldest open row holds it back. One answer's says nothing of another's.
        """
        if coverage.watermark is None or self.open_row_timeout is not None:
            return None
        watermark = min(coverage.watermark, now)
        return watermark if watermark > at else None

    def _too_old_from(self, at: datetime, first: datetime, now: datetime) -> datetime | None:
        """Return the end, not before `first`, from which buckets fetched at one time are too old; None if none are."""
        if now - at < self.ttl:
            return None
        return first if now - at >= self._max_ttl else max(first, at - self._growth_age * ((now - at) / self.ttl))

    def _due_times(self, at: datetime, part: Interval, coverage: Coverage) -> Iterable[datetime]:
        """Yield when the first buckets of a part that was fetched at one time are due, for each reason."""
        waiting = coverage.awaits_second_look & IntervalSet([part])
        if waiting:
            yield at + coverage.recheck_delay
        for rest in IntervalSet([part]) - waiting:
            yield at + self.ttl_at(at - rest.end)
            for age in self._final_ages:
                before = floor_to_step(max(at - age, rest.start), self.step, self.zone)
                end = next_boundary(before, self.step, self.zone)
                if end <= rest.end:
                    yield max(end + age, at)
            if coverage.watermark is not None and self._later_watermark(at, coverage, coverage.watermark):
                end = next_boundary(floor_to_step(rest.start, self.step, self.zone), self.step, self.zone)
                if end <= coverage.watermark:
                    yield max(end, at)
