"""All calls of any stretch of time, generated a day at a time and kept while there is room."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from threading import Lock
from zoneinfo import ZoneInfo

import numpy as np

from cache_pipeline.simulator.calls import LONGEST_SPAN_MS, Calls, Generate, made_up_calls
from cache_pipeline.simulator.intervals import days_between, local_day
from cache_pipeline.simulator.settings import SimulatorSettings
from cache_pipeline.simulator.volume_replay import read_arrivals, replayed_calls

_HOUR_MS = 3_600_000
_RESTATED_SHARE = 0.02
_RESTATED_MS = 10_000


class Truth:
    """The calls of every day, from a generator of single days; may be asked from several threads."""

    def __init__(self, generate: Generate, zone: ZoneInfo, cached_days: int, reach_ms: int) -> None:
        self._generate = generate
        self._zone = zone
        self._cached_days = cached_days
        self._reach_ms = reach_ms
        self._days: OrderedDict[date, Calls] = OrderedDict()
        self._revisions: Counter[date] = Counter()
        self._lock = Lock()

    def day(self, day: date) -> Calls:
        """Return the calls of one local day."""
        with self._lock:
            if day in self._days:
                self._days.move_to_end(day)
                return self._days[day]
            revision = self._revisions[day]
        calls = restated(self._generate(day), day, revision)
        with self._lock:
            if revision != self._revisions[day]:
                return calls
            self._days[day] = calls
            while len(self._days) > self._cached_days:
                self._days.popitem(last=False)
        return calls

    @property
    def zone(self) -> ZoneInfo:
        """Whose midnights part the days."""
        return self._zone

    @property
    def revision(self) -> int:
        """How often anything has been restated."""
        return self._revisions.total()

    def restate(self, day: date) -> None:
        """Correct the calls of one local day, as the vendor's nightly run may: final figures change after all."""
        with self._lock:
            self._revisions[day] += 1
            self._days.pop(day, None)

    def days_touching(self, start_ms: int, end_ms: int) -> Iterator[Calls]:
        """Yield the calls of each day of which an event may fall into `[start_ms, end_ms)`."""
        for day in days_between(local_day(start_ms - self._reach_ms, self._zone), local_day(end_ms, self._zone)):
            yield self.day(day)


def restated(calls: Calls, day: date, revision: int) -> Calls:
    """Return a day's calls as they stand after `revision` corrections: a few calls were a little longer than was told."""
    for number in range(revision):
        rng = np.random.default_rng([day.toordinal(), number, 2])
        longer = (rng.random(len(calls.offered_ms)) < _RESTATED_SHARE) & ~calls.abandoned
        calls = replace(calls, talk_ms=calls.talk_ms + longer * _RESTATED_MS)
    return calls


def truth_of(settings: SimulatorSettings) -> Truth:
    """Return the truth that follows from `settings`.

    Raises:
        SimulatorError: The arrivals file cannot be read.
    """
    if settings.arrivals is None:
        zone = ZoneInfo(settings.organisation_zone)
        return Truth(made_up_calls(settings), zone, settings.cached_days, LONGEST_SPAN_MS)
    arrivals = read_arrivals(settings.arrivals, ZoneInfo(settings.arrivals_zone))
    # A slot may begin late on its day and reach into the next, and a skipped one is played an hour later.
    reach_ms = LONGEST_SPAN_MS + arrivals.slot_length // timedelta(milliseconds=1) + _HOUR_MS
    return Truth(replayed_calls(arrivals, settings), arrivals.zone, settings.cached_days, reach_ms)
