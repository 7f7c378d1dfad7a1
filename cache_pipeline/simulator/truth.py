"""All calls of any stretch of time, generated a day at a time and kept while there is room."""

from collections import OrderedDict
from collections.abc import Iterator
from datetime import date, timedelta
from threading import Lock
from zoneinfo import ZoneInfo

from cache_pipeline.simulator.arrivals import read_arrivals, replayed_calls
from cache_pipeline.simulator.calls import LONGEST_SPAN_MS, Calls, Generate, made_up_calls
from cache_pipeline.simulator.intervals import days_between, local_day
from cache_pipeline.simulator.settings import SimulatorSettings

_HOUR_MS = 3_600_000


class Truth:
    """The calls of every day, from a generator of single days; may be asked from several threads."""

    def __init__(self, generate: Generate, zone: ZoneInfo, cached_days: int, reach_ms: int) -> None:
        self._generate = generate
        self._zone = zone
        self._cached_days = cached_days
        self._reach_ms = reach_ms
        self._days: OrderedDict[date, Calls] = OrderedDict()
        self._lock = Lock()

    def day(self, day: date) -> Calls:
        """Return the calls of one local day."""
        with self._lock:
            if day in self._days:
                self._days.move_to_end(day)
                return self._days[day]
        calls = self._generate(day)
        with self._lock:
            self._days[day] = calls
            while len(self._days) > self._cached_days:
                self._days.popitem(last=False)
        return calls

    def days_touching(self, start_ms: int, end_ms: int) -> Iterator[Calls]:
        """Yield the calls of each day of which an event may fall into `[start_ms, end_ms)`."""
        for day in days_between(local_day(start_ms - self._reach_ms, self._zone), local_day(end_ms, self._zone)):
            yield self.day(day)


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
