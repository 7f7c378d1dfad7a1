"""What every agent was doing at every instant, as it follows from the calls: presence and routing status.

An agent is INTERACTING while at least one call is theirs from answer to end of after-call work, ON_QUEUE around that, on a
break, at a meal or in a meeting between stretches on queue that lie apart, and OFFLINE for the rest. Each local day stands
for itself: a stretch ends at midnight. So details and aggregates of presence agree with each other and with the calls.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from threading import Lock

import numpy as np

from cache_pipeline.simulator.calls import Codes
from cache_pipeline.simulator.intervals import Milliseconds, days_between, local_day, midnight_ms
from cache_pipeline.simulator.truth import Truth

_MINUTE_MS = 60_000
_PADDING_MS = 2 * _MINUTE_MS
# The longest pause that is still the named presence; what is longer is OFFLINE.
_PAUSES = (
    (15 * _MINUTE_MS, "ON_QUEUE"),
    (30 * _MINUTE_MS, "BREAK"),
    (60 * _MINUTE_MS, "MEAL"),
    (90 * _MINUTE_MS, "MEETING"),
)
_CACHED_DAYS = 40

_Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Stretch:
    """Half-open `[start_ms, end_ms)` in one state, in the vendor's word."""

    start_ms: int
    end_ms: int
    state: str


@dataclass(frozen=True)
class AgentDay:
    """One agent's local day, without a gap in either list."""

    presence: tuple[Stretch, ...]
    routing: tuple[Stretch, ...]


def _union(starts: Milliseconds, ends: Milliseconds) -> _Spans:
    """Return the stretches that at least one of the spans covers, ascending; the spans ascend by start."""
    spans: _Spans = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _pause(length: int) -> str:
    return next((presence for longest, presence in _PAUSES if length <= longest), "OFFLINE")


def _filled(spans: list[Stretch], first: int, last: int, rest: str) -> tuple[Stretch, ...]:
    """Return `spans` with `rest` before, between and after them; neighbours in one state are one stretch."""
    filled: list[Stretch] = []

    def put(stretch: Stretch) -> None:
        if stretch.start_ms == stretch.end_ms:
            return
        if filled and filled[-1].state == stretch.state:
            filled[-1] = Stretch(filled[-1].start_ms, stretch.end_ms, stretch.state)
        else:
            filled.append(stretch)

    at = first
    for span in spans:
        put(Stretch(at, span.start_ms, rest))
        put(span)
        at = span.end_ms
    put(Stretch(at, last, rest))
    return tuple(filled)


def _agent_day(busy: _Spans, first: int, last: int) -> AgentDay:
    presence: list[Stretch] = []
    for start, end in busy:
        begin, finish = max(first, start - _PADDING_MS), min(last, end + _PADDING_MS)
        if presence and begin <= presence[-1].end_ms:
            begin = presence[-1].end_ms
        elif presence:
            presence.append(Stretch(presence[-1].end_ms, begin, _pause(begin - presence[-1].end_ms)))
        if finish > begin:
            presence.append(Stretch(begin, finish, "ON_QUEUE"))
    whole = _filled(presence, first, last, "OFFLINE")
    interacting = iter([*busy, (last, last)])
    routing: list[Stretch] = []
    span = next(interacting)
    for stretch in whole:
        if stretch.state != "ON_QUEUE":
            continue
        at = stretch.start_ms
        while span[0] < stretch.end_ms:
            routing += [Stretch(at, span[0], "IDLE"), Stretch(span[0], span[1], "INTERACTING")]
            at = span[1]
            span = next(interacting)
        routing.append(Stretch(at, stretch.end_ms, "IDLE"))
    return AgentDay(whole, _filled(routing, first, last, "OFF_QUEUE"))


class PresenceBook:
    """The days of all agents, worked out when they are first asked for; may be asked from several threads."""

    def __init__(self, truth: Truth, agents: int) -> None:
        self._truth = truth
        self._agents = agents
        self._days: OrderedDict[tuple[date, int], Mapping[int, AgentDay]] = OrderedDict()
        self._lock = Lock()

    def days(self, start_ms: int, end_ms: int) -> Iterator[Mapping[int, AgentDay]]:
        """Yield every day that `[start_ms, end_ms)` touches: what each agent, by code, did on it."""
        for day in days_between(local_day(start_ms, self._truth.zone), local_day(end_ms - 1, self._truth.zone)):
            yield self.day(day)

    def day(self, day: date) -> Mapping[int, AgentDay]:
        """Return what each agent, by code, did on one local day."""
        key = day, self._truth.revision
        with self._lock:
            if key in self._days:
                return self._days[key]
        worked_out = self._work_out(day)
        with self._lock:
            self._days[key] = worked_out
            while len(self._days) > _CACHED_DAYS:
                self._days.popitem(last=False)
        return worked_out

    def _work_out(self, day: date) -> Mapping[int, AgentDay]:
        first = midnight_ms(day, self._truth.zone)
        last = midnight_ms(day + timedelta(days=1), self._truth.zone)
        agents, starts, ends = self._handling(first, last)
        order = np.lexsort((starts, agents))
        agents, starts, ends = agents[order], starts[order], ends[order]
        places = np.searchsorted(agents, np.arange(self._agents + 1))
        return {
            agent: _agent_day(_union(starts[begin:end], ends[begin:end]), first, last)
            for agent, (begin, end) in enumerate(zip(places[:-1].tolist(), places[1:].tolist(), strict=True))
        }

    def _handling(self, first: int, last: int) -> tuple[Codes, Milliseconds, Milliseconds]:
        """Return who handled a call from when to when, cut to the day."""
        parts: list[tuple[Codes, Milliseconds, Milliseconds]] = []
        for calls in self._truth.days_touching(first, last):
            inside = ~calls.abandoned & (calls.ended_ms > first) & (calls.resolved_ms < last)
            starts, ends = np.maximum(calls.resolved_ms[inside], first), np.minimum(calls.ended_ms[inside], last)
            parts.append((calls.agent[inside], starts, ends))
        nothing = np.zeros(0, dtype=np.int64)
        agents, starts, ends = (np.concatenate([nothing, *column]) for column in zip(*parts, strict=True))
        return agents, starts, ends
