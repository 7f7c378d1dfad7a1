"""Presence and routing status of every agent at every instant, derived from the calls.

An agent is INTERACTING from the answer to the end of after-call work of a call, ON_QUEUE around that, in BREAK, MEAL or MEETING
between separate periods on queue, and OFFLINE otherwise. A thread of days occupies its agent only for the first exchange. Each
local day is computed by itself, and a state that continues over midnight is one stretch: OFFLINE lasts all night, and over the
weekend for agents who do not work then. So that a stretch can be found from any part of it, the midnight before every fourth
Wednesday ends all stretches. Details and aggregates of presence therefore agree with each other and with the calls.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from threading import Lock

import numpy as np

from cache_pipeline.simulator.calls import Codes
from cache_pipeline.simulator.intervals import Milliseconds, days_between, local_day, midnight_ms
from cache_pipeline.simulator.truth import Truth

_MINUTE_MS = 60_000
_PADDING_MS = 2 * _MINUTE_MS
# The longest pause for each presence; a longer one is OFFLINE.
_PAUSES = (
    (15 * _MINUTE_MS, "ON_QUEUE"),
    (30 * _MINUTE_MS, "BREAK"),
    (60 * _MINUTE_MS, "MEAL"),
    (90 * _MINUTE_MS, "MEETING"),
)
_CACHED_DAYS = 40
# The days are numbered so that a multiple of 28 is a Sunday.
_LONGEST_DAYS, _ENDING = 28, 3

_Spans = list[tuple[int, int]]
SpansOf = Callable[["AgentDay"], Sequence["StateSpan"]]


@dataclass(frozen=True)
class StateSpan:
    """Half-open interval `[start_ms, end_ms)` in one state, with the vendor's name for it."""

    start_ms: int
    end_ms: int
    state: str


@dataclass(frozen=True)
class AgentDay:
    """One agent's local day; neither list has gaps."""

    presence: tuple[StateSpan, ...]
    routing: tuple[StateSpan, ...]


def _union(starts: Milliseconds, ends: Milliseconds) -> _Spans:
    """Return the ascending union of spans that are ordered by start."""
    spans: _Spans = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _pause_presence(length: int) -> str:
    return next((presence for longest, presence in _PAUSES if length <= longest), "OFFLINE")


def _fill_gaps(spans: list[StateSpan], first: int, last: int, default: str) -> tuple[StateSpan, ...]:
    """Return `spans` with state `default` before, between and after them; neighbours in one state are merged."""
    filled: list[StateSpan] = []

    def append(span: StateSpan) -> None:
        if span.start_ms == span.end_ms:
            return
        if filled and filled[-1].state == span.state:
            filled[-1] = StateSpan(filled[-1].start_ms, span.end_ms, span.state)
        else:
            filled.append(span)

    position = first
    for span in spans:
        append(StateSpan(position, span.start_ms, default))
        append(span)
        position = span.end_ms
    append(StateSpan(position, last, default))
    return tuple(filled)


def _agent_day(busy: _Spans, first: int, last: int) -> AgentDay:
    presence: list[StateSpan] = []
    for start, end in busy:
        begin, finish = max(first, start - _PADDING_MS), min(last, end + _PADDING_MS)
        if presence and begin <= presence[-1].end_ms:
            begin = presence[-1].end_ms
        elif presence:
            presence.append(StateSpan(presence[-1].end_ms, begin, _pause_presence(begin - presence[-1].end_ms)))
        if finish > begin:
            presence.append(StateSpan(begin, finish, "ON_QUEUE"))
    full_day = _fill_gaps(presence, first, last, "OFFLINE")
    interacting = iter([*busy, (last, last)])
    routing: list[StateSpan] = []
    span = next(interacting)
    for state_span in full_day:
        if state_span.state != "ON_QUEUE":
            continue
        position = state_span.start_ms
        while span[0] < state_span.end_ms:
            routing += [StateSpan(position, span[0], "IDLE"), StateSpan(span[0], span[1], "INTERACTING")]
            position = span[1]
            span = next(interacting)
        routing.append(StateSpan(position, state_span.end_ms, "IDLE"))
    return AgentDay(full_day, _fill_gaps(routing, first, last, "OFF_QUEUE"))


def _join(spans: Sequence[StateSpan], following: Sequence[StateSpan], midnight: date) -> list[StateSpan]:
    """Return the spans of both sides of the midnight at which a day begins; a state that continues is one span."""
    if not spans or spans[-1].state != following[0].state or midnight.toordinal() % _LONGEST_DAYS == _ENDING:
        return [*spans, *following]
    return [*spans[:-1], StateSpan(spans[-1].start_ms, following[0].end_ms, spans[-1].state), *following[1:]]


class PresenceStore:
    """The days of all agents, computed on first use. Thread-safe."""

    def __init__(self, truth: Truth, agents: int) -> None:
        self._truth = truth
        self._agents = agents
        self._days: OrderedDict[tuple[date, int], Mapping[int, AgentDay]] = OrderedDict()
        self._lock = Lock()

    def days(self, start_ms: int, end_ms: int) -> Iterator[Mapping[int, AgentDay]]:
        """Yield every day that overlaps `[start_ms, end_ms)`, each as the agents' days by agent code."""
        for day in days_between(local_day(start_ms, self._truth.zone), local_day(end_ms - 1, self._truth.zone)):
            yield self.day(day)

    def stretches(self, start_ms: int, end_ms: int, agent: int, spans_of: SpansOf) -> list[StateSpan]:
        """Return the stretches of an agent that overlap `[start_ms, end_ms)`, whole."""
        first, last = local_day(start_ms, self._truth.zone), local_day(end_ms - 1, self._truth.zone)
        spans: list[StateSpan] = []
        for day in days_between(first, last):
            spans = _join(spans, spans_of(self.day(day)[agent]), day)
        # The stretches at both edges may have begun earlier and may end later.
        while first.toordinal() % _LONGEST_DAYS != _ENDING and spans[0].start_ms == midnight_ms(
            first, self._truth.zone
        ):
            first -= timedelta(days=1)
            before = spans_of(self.day(first)[agent])
            if before[-1].state != spans[0].state:
                break
            spans = _join([before[-1]], spans, first + timedelta(days=1))
        while spans[-1].end_ms == midnight_ms(last + timedelta(days=1), self._truth.zone):
            last += timedelta(days=1)
            after = spans_of(self.day(last)[agent])
            if last.toordinal() % _LONGEST_DAYS == _ENDING or after[0].state != spans[-1].state:
                break
            spans = _join(spans, after[:1], last)
        return [span for span in spans if span.start_ms < end_ms and span.end_ms > start_ms]

    def day(self, day: date) -> Mapping[int, AgentDay]:
        """Return the agents' days, by agent code, of one local day."""
        key = day, self._truth.revision
        with self._lock:
            if key in self._days:
                return self._days[key]
        agent_days = self._compute(day)
        with self._lock:
            self._days[key] = agent_days
            while len(self._days) > _CACHED_DAYS:
                self._days.popitem(last=False)
        return agent_days

    def _compute(self, day: date) -> Mapping[int, AgentDay]:
        first = midnight_ms(day, self._truth.zone)
        last = midnight_ms(day + timedelta(days=1), self._truth.zone)
        agents, starts, ends = self._handling(first, last)
        order = np.lexsort((starts, agents))
        agents, starts, ends = agents[order], starts[order], ends[order]
        bounds = np.searchsorted(agents, np.arange(self._agents + 1))
        return {
            agent: _agent_day(_union(starts[begin:end], ends[begin:end]), first, last)
            for agent, (begin, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        }

    def _handling(self, first: int, last: int) -> tuple[Codes, Milliseconds, Milliseconds]:
        """Return the agents, starts and ends of handled calls, clipped to the day."""
        parts: list[tuple[Codes, Milliseconds, Milliseconds]] = []
        for calls in self._truth.days_overlapping(first, last):
            ended_ms = calls.ended_ms - calls.thread_ms
            inside = ~calls.abandoned & (ended_ms > first) & (calls.resolved_ms < last)
            starts, ends = np.maximum(calls.resolved_ms[inside], first), np.minimum(ended_ms[inside], last)
            parts.append((calls.agent[inside], starts, ends))
        empty = np.zeros(0, dtype=np.int64)
        agents, starts, ends = (np.concatenate([empty, *column]) for column in zip(*parts, strict=True))
        return agents, starts, ends
