"""What happens in the simulated centre at one instant, counted from its calls and the presence of its agents."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache_pipeline.simulator.calls import MAX_DURATION_MS, queue_agents
from cache_pipeline.simulator.intervals import local_day
from cache_pipeline.simulator.organisation import MEDIA
from cache_pipeline.simulator.presence import StateSpan
from cache_pipeline.simulator.state import Simulator

Counts = npt.NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Ongoing:
    """The conversations of each queue and medium that are in one state.

    Attributes:
        counts: How many there are, by queue and medium.
        since_ms: When the oldest of them began to be in it, milliseconds since the epoch; only valid where there are any.
    """

    counts: Counts
    since_ms: Counts


@dataclass(frozen=True)
class Observed:
    """What happens at one instant.

    Attributes:
        waiting: Conversations that wait.
        interacting: Conversations with an agent.
        presence: The system presence of each agent.
        routing: The routing status of each agent.
        members: The agents of each queue.
    """

    waiting: Ongoing
    interacting: Ongoing
    presence: Sequence[str]
    routing: Sequence[str]
    members: Sequence[tuple[int, ...]]

    def count_presences(self, queue: int) -> Mapping[str, int]:
        """Return the number of a queue's members by system presence."""
        return Counter(self.presence[agent] for agent in self.members[queue])

    def count_statuses(self, queue: int) -> Mapping[str, int]:
        """Return the number of a queue's members by routing status."""
        return Counter(self.routing[agent] for agent in self.members[queue])


def observe(simulator: Simulator, now_ms: int) -> Observed:
    """Return what happens at an instant. This is expensive, so call it in a worker."""
    settings, truth = simulator.settings, simulator.truth
    waiting, interacting = _nothing(settings.queues), _nothing(settings.queues)
    for calls in truth.days_overlapping(now_ms - MAX_DURATION_MS, now_ms + 1):
        ended = calls.ended_ms - calls.acw_ms - calls.thread_ms
        for ongoing, start, end in (
            (waiting, calls.offered_ms, calls.resolved_ms),
            (interacting, calls.resolved_ms, ended),
        ):
            rows = np.flatnonzero((start <= now_ms) & (now_ms < end))
            places = calls.queue[rows], calls.media[rows]
            np.add.at(ongoing.counts, places, 1)
            np.minimum.at(ongoing.since_ms, places, start[rows])
    day = simulator.presence.day(local_day(now_ms, truth.zone))
    agents = range(settings.agents)
    return Observed(
        waiting,
        interacting,
        [_state_at(day[agent].presence, now_ms) for agent in agents],
        [_state_at(day[agent].routing, now_ms) for agent in agents],
        [queue_agents(queue, settings.queues, settings.agents) for queue in range(settings.queues)],
    )


def _nothing(queues: int) -> Ongoing:
    shape = queues, len(MEDIA)
    return Ongoing(np.zeros(shape, dtype=np.int64), np.full(shape, _NEVER, dtype=np.int64))


def _state_at(spans: Sequence[StateSpan], now_ms: int) -> str:
    return next(span.state for span in spans if span.start_ms <= now_ms < span.end_ms)
