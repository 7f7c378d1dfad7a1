"""Generated calls: what happened in every conversation of a day, derived only from the seed and the day.

Each day has its own random generator, so a day's calls do not depend on the order in which days are generated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import cached_property
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from cache_pipeline.simulator import volume_shape as shape
from cache_pipeline.simulator.intervals import Milliseconds
from cache_pipeline.simulator.organisation import MEDIA
from cache_pipeline.simulator.settings import SimulatorSettings

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]

_SECOND = 1000
# One row for each medium of MEDIA: median and spread of the log-normal distribution, and the maximum, in seconds.
_WAIT = ((14.0, 1.0, 900.0), (25.0, 1.0, 1200.0), (1500.0, 1.0, 14_400.0))
_TALK = ((200.0, 0.6, 3600.0), (320.0, 0.6, 3600.0), (420.0, 0.7, 3600.0))
_HOLD = ((40.0, 0.7, 900.0), (30.0, 0.7, 600.0), (30.0, 0.7, 600.0))
_AFTER_CALL = ((45.0, 0.6, 900.0), (30.0, 0.6, 900.0), (20.0, 0.6, 900.0))
_MEAN_PATIENCE_SECONDS = np.array([240.0, 420.0, np.inf])
_MEDIA_SHARES = np.array([0.70, 0.18, 0.12])
_HELD_SHARES = np.array([0.25, 0.0, 0.0])
_TRANSFERRED_SHARE = 0.08

_MAX_FLOW_SECONDS = 45

MAX_DURATION_MS = (
    int(_MAX_FLOW_SECONDS + sum(max(row[2] for row in table) for table in (_WAIT, _TALK, _HOLD, _AFTER_CALL))) * _SECOND
)
"""Longest duration of a conversation without the days of a thread, from its start to the end of after-call work."""

_DAY_MS = 86_400 * _SECOND
MAX_THREAD_DAYS = 7
"""Most days by which the answers to and fro prolong a conversation."""
#: Every so many-th agent works on weekends too.
_WEEKEND_STAFF = 3
_SATURDAY = 5
_THREAD_RESOLUTION = 1_000_000

Generate = Callable[[date], "Calls"]


@dataclass(frozen=True)
class Visibility:
    """What is visible at `now_ms`: events older than their own share of `lag_ms`."""

    now_ms: int
    lag_ms: int


@dataclass(frozen=True)
class Calls:
    """One day's conversations as columns, ordered by the offer; durations in milliseconds.

    Attributes:
        offered_ms: Instant of the offer, milliseconds since the epoch.
        queue: Code of the queue.
        media: Code of the medium.
        agent: Code of the agent who answered; the number of agents if the call was not answered.
        abandoned: Whether the call was not answered.
        wait_ms: Time from the offer to the answer or the abandon.
        talk_ms: Talk time of answered calls, with the days of a thread; 0 otherwise.
        held_ms: Hold time of answered calls; 0 otherwise.
        acw_ms: After-call work of answered calls; 0 otherwise.
        transferred: Whether an agent transferred it.
        met: Whether it was answered within the service level.
        delay: Share, in [0, 1), of the watermark's lag after which an event is visible.
        id_words: Two random words for each conversation, from which its id is made.
    """

    offered_ms: Milliseconds
    queue: Codes
    media: Codes
    agent: Codes
    abandoned: Flags
    wait_ms: Milliseconds
    talk_ms: Milliseconds
    held_ms: Milliseconds
    acw_ms: Milliseconds
    transferred: Flags
    met: Flags
    delay: npt.NDArray[np.float64]
    id_words: npt.NDArray[np.uint64]

    @cached_property
    def flow_ms(self) -> Milliseconds:
        """Time in the flow before the offer; 0 except for voice."""
        range_ms = (_MAX_FLOW_SECONDS - 5) * _SECOND
        lengths = 5 * _SECOND + (self.id_words[:, 0] % np.uint64(range_ms)).astype(np.int64)
        return np.where(self.media == MEDIA.index("voice"), lengths, 0)

    @cached_property
    def start_ms(self) -> Milliseconds:
        """Start of the conversation: the start of the flow if there is one, otherwise the offer."""
        return self.offered_ms - self.flow_ms

    @cached_property
    def resolved_ms(self) -> Milliseconds:
        """Instant of the answer or the abandon."""
        return self.offered_ms + self.wait_ms

    @cached_property
    def ended_ms(self) -> Milliseconds:
        """End of after-call work, or the abandon."""
        return self.resolved_ms + self.talk_ms + self.held_ms + self.acw_ms

    @cached_property
    def thread_ms(self) -> Milliseconds:
        """The whole days that a thread lasts longer than a conversation that is handled at once; 0 for the others."""
        return self.talk_ms // _DAY_MS * _DAY_MS

    @cached_property
    def threads(self) -> "Calls":
        """Only the calls that last for days."""
        rows = np.flatnonzero(self.thread_ms)
        return Calls(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})

    def visible(self, instants: Milliseconds, visibility: "Visibility | None") -> Flags:
        """Return which of the calls' `instants` are visible; all without a `visibility`."""
        if visibility is None:
            return np.ones(len(instants), dtype=np.bool_)
        return instants + np.ceil(self.delay * visibility.lag_ms).astype(np.int64) <= visibility.now_ms

    def conversation_id(self, row: int) -> str:
        """Return the id of the conversation in `row`."""
        high, low = (int(word) for word in self.id_words[row])
        return str(UUID(int=(high << 64) | low, version=4))


def _durations(rng: np.random.Generator, media: Codes, table: tuple[tuple[float, float, float], ...]) -> Milliseconds:
    median, spread, cap = (np.array(column)[media] for column in zip(*table, strict=True))
    seconds = np.minimum(median * np.exp(spread * rng.standard_normal(len(media))), cap)
    return np.floor(seconds * _SECOND).astype(np.int64)


def _thread_days(id_words: npt.NDArray[np.uint64], is_email: Flags, share: float) -> Codes:
    """Return the days that each call is prolonged by, if it is an e-mail that is answered to and fro."""
    words = id_words[:, 0] >> np.uint64(32)
    is_thread = is_email & (words % np.uint64(_THREAD_RESOLUTION) < np.uint64(int(share * _THREAD_RESOLUTION)))
    return is_thread * (1 + (id_words[:, 1] >> np.uint64(40)).astype(np.int64) % MAX_THREAD_DAYS)


def queue_agents(queue: int, queues: int, agents: int) -> tuple[int, ...]:
    """Return the agents who may answer a queue's calls, ascending."""
    first, serving = queue * agents // queues, _serving(queues, agents)
    chosen = [(first + number) % agents for number in range(serving)]
    return tuple(sorted({*chosen, *(agent - agent % _WEEKEND_STAFF for agent in chosen)}))


def _serving(queues: int, agents: int) -> int:
    return max(1, min(agents, max(agents // 3, -(-agents // queues))))


def _agents(rng: np.random.Generator, queue: Codes, queues: int, agents: int, day: date) -> Codes:
    """Return an agent for each call, from the roughly one third of agents who serve its queue; fewer work on weekends."""
    serving = _serving(queues, agents)
    first = queue * agents // queues
    chosen = (first + rng.integers(0, serving, len(queue))) % agents
    return chosen - chosen % _WEEKEND_STAFF if day.weekday() >= _SATURDAY else chosen


def generate_outcomes(
    rng: np.random.Generator, offered_ms: Milliseconds, settings: SimulatorSettings, day: date
) -> Calls:
    """Return the outcomes of the conversations that are offered on a day at `offered_ms` (ascending)."""
    count = len(offered_ms)
    queue = rng.choice(settings.queues, count, p=shape.zipf_weights(settings.queues)).astype(np.int64)
    media = rng.choice(len(MEDIA), count, p=_MEDIA_SHARES).astype(np.int64)
    wait = _durations(rng, media, _WAIT)
    abandoned = rng.random(count) < -np.expm1(-wait / _SECOND / _MEAN_PATIENCE_SECONDS[media])
    answered = ~abandoned
    held = np.where(rng.random(count) < _HELD_SHARES[media], _durations(rng, media, _HOLD), 0)
    agent = _agents(rng, queue, settings.queues, settings.agents, day)
    calls = Calls(
        offered_ms=offered_ms,
        queue=queue,
        media=media,
        agent=np.where(answered, agent, settings.agents),
        abandoned=abandoned,
        wait_ms=wait,
        talk_ms=_durations(rng, media, _TALK) * answered,
        held_ms=held * answered,
        acw_ms=_durations(rng, media, _AFTER_CALL) * answered,
        transferred=answered & (rng.random(count) < _TRANSFERRED_SHARE),
        met=answered & (wait <= settings.service_level_seconds * _SECOND),
        delay=rng.random(count),
        id_words=rng.integers(0, 2**64, size=(count, 2), dtype=np.uint64),
    )
    is_email = answered & (media == MEDIA.index("email"))
    return replace(
        calls, talk_ms=calls.talk_ms + _thread_days(calls.id_words, is_email, settings.thread_share) * _DAY_MS
    )


@dataclass(frozen=True)
class PlacedCall:
    """One call in addition to the generated ones.

    Attributes:
        offered_ms: Instant of the offer, milliseconds since the epoch.
        queue: Code of the queue.
        media: Code of the medium.
        agent: Code of the agent who answers; None if it is not answered.
        wait_ms: Time from the offer to the answer or the abandon.
        talk_ms: Talk time, if it is answered.
    """

    offered_ms: int
    queue: int
    media: int
    agent: int | None
    wait_ms: int
    talk_ms: int


def place_calls(calls: Calls, placed: Sequence[PlacedCall], settings: SimulatorSettings) -> Calls:
    """Return a day's calls with others among them."""
    if not placed:
        return calls
    answered = np.array([call.agent is not None for call in placed])
    wait = np.array([call.wait_ms for call in placed], dtype=np.int64)
    offered = np.array([call.offered_ms for call in placed], dtype=np.int64)
    nothing = np.zeros(len(placed), dtype=np.int64)
    more = Calls(
        offered_ms=offered,
        queue=np.array([call.queue for call in placed], dtype=np.int64),
        media=np.array([call.media for call in placed], dtype=np.int64),
        agent=np.array([settings.agents if call.agent is None else call.agent for call in placed], dtype=np.int64),
        abandoned=~answered,
        wait_ms=wait,
        talk_ms=np.array([call.talk_ms for call in placed], dtype=np.int64) * answered,
        held_ms=nothing,
        acw_ms=nothing,
        transferred=np.zeros(len(placed), dtype=np.bool_),
        met=answered & (wait <= settings.service_level_seconds * _SECOND),
        delay=np.zeros(len(placed)),
        id_words=np.stack([offered.astype(np.uint64), np.arange(len(placed), dtype=np.uint64)], axis=1),
    )
    joined = {
        each.name: np.concatenate([getattr(calls, each.name), getattr(more, each.name)]) for each in fields(Calls)
    }
    order = np.argsort(joined["offered_ms"], kind="stable")
    return Calls(**{name: column[order] for name, column in joined.items()})


def generated_calls(settings: SimulatorSettings) -> Generate:
    """Return the generator of a simulated call centre's days, local to `settings.organisation_zone`."""
    zone = ZoneInfo(settings.organisation_zone)

    def generate(day: date) -> Calls:
        rng = np.random.default_rng([settings.seed, day.toordinal()])
        starts, shares = shape.day_profile(day, zone)
        mean = settings.conversations_per_working_day * shape.weekday_factor(day) * np.exp(rng.normal(0, 0.04))
        counts = rng.poisson(mean * shares)
        offered = np.repeat(starts, counts) + rng.integers(0, shape.quarter_hour_ms(), int(counts.sum()))
        return generate_outcomes(rng, np.sort(offered), settings, day)

    return generate
