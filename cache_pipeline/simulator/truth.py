"""The calls of any interval, generated one day at a time and cached."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from threading import Lock
from zoneinfo import ZoneInfo

import numpy as np

from cache_pipeline.simulator.calls import (
    MAX_DURATION_MS,
    MAX_THREAD_DAYS,
    Calls,
    Generate,
    PlacedCall,
    generated_calls,
    place_calls,
)
from cache_pipeline.simulator.intervals import days_between, local_day
from cache_pipeline.simulator.settings import SimulatorSettings
from cache_pipeline.simulator.volume_replay import read_arrivals, replayed_calls

_HOUR_MS = 3_600_000
_RESTATED_SHARE = 0.02
_RESTATED_MS = 10_000


class Truth:
    """The calls of every day, from a generator of single days. Thread-safe."""

    def __init__(self, generate: Generate, zone: ZoneInfo, settings: SimulatorSettings, margin_ms: int) -> None:
        self._generate = generate
        self._settings = settings
        self._has_threads = settings.thread_share > 0
        self._zone = zone
        self._cached_days = settings.cached_days
        self._margin_ms = margin_ms
        self._days: OrderedDict[date, Calls] = OrderedDict()
        self._restatements: Counter[date] = Counter()
        self._placed: defaultdict[date, list[PlacedCall]] = defaultdict(list)
        self._lock = Lock()

    def day(self, day: date) -> Calls:
        """Return the calls of one local day."""
        with self._lock:
            if day in self._days:
                self._days.move_to_end(day)
                return self._days[day]
            revision = self._revision(day)
            restatements, placed = self._restatements[day], tuple(self._placed[day])
        calls = place_calls(restate_calls(self._generate(day), day, restatements), placed, self._settings)
        with self._lock:
            if revision != self._revision(day):
                return calls
            self._days[day] = calls
            while len(self._days) > self._cached_days:
                self._days.popitem(last=False)
        return calls

    @property
    def zone(self) -> ZoneInfo:
        """The zone whose midnights separate the days."""
        return self._zone

    @property
    def revision(self) -> int:
        """The number of changes so far."""
        return self._restatements.total() + sum(map(len, self._placed.values()))

    def _revision(self, day: date) -> tuple[int, int]:
        return self._restatements[day], len(self._placed[day])

    def restate(self, day: date) -> None:
        """Correct the calls of one local day, as the vendor's nightly run may do: final figures change."""
        with self._lock:
            self._restatements[day] += 1
            self._days.pop(day, None)

    def place(self, call: PlacedCall) -> None:
        """Add a call to those of its local day."""
        day = local_day(call.offered_ms, self._zone)
        with self._lock:
            self._placed[day].append(call)
            self._days.pop(day, None)

    def days_overlapping(self, start_ms: int, end_ms: int) -> Iterator[Calls]:
        """Yield the calls of each day that may have events in `[start_ms, end_ms)`; of earlier days, those that last for days."""
        first = local_day(start_ms - self._margin_ms, self._zone)
        # One more, because a day with a clock change may have 23 hours.
        for number in range(MAX_THREAD_DAYS + 1, 0, -1) if self._has_threads else ():
            yield self.day(first - timedelta(days=number)).threads
        for day in days_between(first, local_day(end_ms, self._zone)):
            yield self.day(day)


def restate_calls(calls: Calls, day: date, revision: int) -> Calls:
    """Return a day's calls after `revision` restatements, each of which makes a few calls a little longer."""
    for number in range(revision):
        rng = np.random.default_rng([day.toordinal(), number, 2])
        longer = (rng.random(len(calls.offered_ms)) < _RESTATED_SHARE) & ~calls.abandoned
        calls = replace(calls, talk_ms=calls.talk_ms + longer * _RESTATED_MS)
    return calls


def create_truth(settings: SimulatorSettings) -> Truth:
    """Return the calls for `settings`.

    Raises:
        SimulatorError: The arrivals file cannot be read.
    """
    if settings.arrivals is None:
        zone = ZoneInfo(settings.organisation_zone)
        return Truth(generated_calls(settings), zone, settings, MAX_DURATION_MS)
    arrivals = read_arrivals(settings.arrivals, ZoneInfo(settings.arrivals_zone))
    # A slot may begin late on its day and extend into the next, and a skipped slot is replayed an hour later.
    margin_ms = MAX_DURATION_MS + arrivals.slot_length // timedelta(milliseconds=1) + _HOUR_MS
    return Truth(replayed_calls(arrivals, settings), arrivals.zone, settings, margin_ms)
