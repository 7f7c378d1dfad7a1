"""The quota's data types: the vendor's limit, a grant, and one client's state."""

import asyncio
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cache_pipeline.query.lane import Lane

#: A client pauses when the vendor says that fewer requests than this remain (G16).
MIN_REMAINING = 3
#: Pause for a Retry-After of 0. The vendor may have rounded it or computed it from a date in the past, and a client that was
#: just refused must not return at once.
MIN_PAUSE_SECONDS = 1.0
#: Longest pause for a Retry-After. A longer one may be a mistake, so the vendor is tried again after this time.
MAX_PAUSE_SECONDS = 900.0
#: Share by which our window is longer than the vendor's, because two clocks may run at different speeds. A clock that is kept right
#: by NTP is corrected by 0.05 % at most, and a request counts from its answer, which is after the vendor counted it.
WINDOW_GUARD = 0.002
#: Longest time in which one request may be answered. Until then it counts as used even if its sender died, since it may still
#: arrive.
MAX_IN_FLIGHT_SECONDS = 120.0

#: Share of the usable slots that may be full when a lane still gets one. The rest stays free for people who wait for an answer.
_LANE_SHARES = {Lane.interactive: 1.0, Lane.scheduled: 0.9, Lane.backfill: 0.8}
#: The same for polls and pages of a query that the vendor already works on, in any lane: submits alone can never fill the rest,
#: so that what has been paid for is also read.
_FOLLOW_UP_SHARE = 0.95


class ClientState(StrEnum):
    """Whether an OAuth client can be given a request now (G18); a `refused` client cannot log in."""

    available = "available"
    throttled = "throttled"
    refreshing = "refreshing"
    refused = "refused"


@dataclass(frozen=True)
class QuotaPolicy:
    """What the vendor allows one OAuth client, and how close we go to it.

    Attributes:
        limit: Requests the vendor accepts in any window (G17).
        window_seconds: Length of that sliding window.
        reserve: Requests of the limit that are never used, so that our own requests alone never bring the vendor's remaining
            count below `MIN_REMAINING`. 0 where the vendor sends no remaining header.
        default_pause_seconds: How long a client pauses where the vendor gives no Retry-After (G16).
        organisation_limit: Requests that the vendor accepts from all clients together in any such window; None if none is
            declared. A refusal or the vendor's list may name one later.
        concurrent_jobs: Jobs that may run at once; None likewise.
        monthly_requests: Requests allotted to the organisation each month; None if none are declared.
        job_seconds: How long a job counts as running if its end is never seen.
    """

    limit: int
    window_seconds: float
    reserve: int = MIN_REMAINING
    default_pause_seconds: float = 60.0
    organisation_limit: int | None = None
    concurrent_jobs: int | None = None
    monthly_requests: int | None = None
    job_seconds: float = 1800.0

    def __post_init__(self) -> None:
        """Reject a policy under which no request, or too many, could be sent."""
        if self.limit < 1 or self.reserve < 0 or self.reserve >= self.limit:
            raise ValueError(
                f"quota policy: reserve {self.reserve} must be 0 or more and below limit {self.limit}, "
                f"or no request could ever be sent; lower reserve"
            )
        if self.window_seconds <= 0 or self.default_pause_seconds < 0:
            raise ValueError("quota policy: window_seconds must be above 0, and default_pause_seconds 0 or more")

    @property
    def usable_slots(self) -> int:
        """Slots of one client that may be filled in one window."""
        return self.limit - self.reserve

    @property
    def guarded_window_seconds(self) -> float:
        """How long an answered request counts as used."""
        return self.window_seconds * (1 + WINDOW_GUARD)

    @property
    def local_share(self) -> int:
        """Slots of one client that a process allows itself in one window while Redis is unavailable."""
        return max(1, self.limit // 8)

    def slots(self, lane: Lane, *, is_follow_up: bool = False) -> int:
        """Return how many of a client's slots may be filled, by all lanes together, for `lane` still to get one.

        Args:
            lane: The lane.
            is_follow_up: Whether the request reads what the vendor already works on.
        """
        slots = max(1, math.floor(self.usable_slots * lane_share(lane, is_follow_up=is_follow_up) + 1e-9))
        if not is_follow_up:
            return slots
        # Under a small limit the shares are equal once rounded.
        return min(self.usable_slots, max(slots, self.slots(Lane.scheduled) + 1))


@dataclass(frozen=True)
class Grant:
    """Permission to send one request with one client. Settle or release it exactly once.

    Attributes:
        client_id: The OAuth client.
        grant_id: A unique id.
        endpoint: The endpoint it is for.
        starts_job: Whether the request starts a job, which counts as running from then on.
    """

    client_id: str
    grant_id: str
    endpoint: str = ""
    starts_job: bool = False


@dataclass(frozen=True)
class Purpose:
    """What a request is for, as far as limits depend on it.

    Attributes:
        is_follow_up: It reads what the vendor already works on, which gets a share of its own.
        endpoint: The endpoint it is for.
        starts_job: It starts a job, which counts as running from then on.
    """

    is_follow_up: bool = False
    endpoint: str = ""
    starts_job: bool = False


@dataclass(eq=False)
class Waiter:
    """The requests of one process that wait for the same callers and purpose. They ask one after another, in the order they came.

    Attributes:
        id: A unique id.
        turn: Held by the request that asks.
        requests: Those that wait.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    requests: int = 0


@dataclass(frozen=True)
class SharedLimit:
    """A limit that is shared by several clients, or that the vendor has named for one, at one moment.

    Attributes:
        name: The vendor's name of the limit; ``declared`` if the settings declare it.
        counts: What counts: ``organisation``, ``jobs``, the id of a client, or an endpoint.
        limit: How many are allowed.
        window_seconds: Length of the window; None for jobs.
        used: How many count now.
    """

    name: str
    counts: str
    limit: int
    window_seconds: float | None
    used: int


@dataclass(frozen=True)
class ClientQuota:
    """One client's quota at one moment.

    Attributes:
        client_id: The OAuth client.
        state: Whether it can be given a request now.
        used: Slots that count as used in the window, requests in flight included.
        remaining: Requests that the interactive lane could send at once.
        in_flight: Requests granted and not settled yet.
        throttled_for_s: Seconds until the client can be given a request; 0 if it can be now.
        granted_total: Requests granted since the counters began (they expire after a day without traffic).
        rejected_total: 429 answers in the same period.
        answers_total: Answers by class in the same period: `2xx`, `3xx`, `4xx`, `429`, `5xx`, and `none` if none came.
        throttled_total_s: Seconds for which answers paused the client in the same period.
        token_age_s: Seconds since the shared access token was requested; None if there is none.
        token_life_s: Total lifetime of that token in seconds.
        login_refused: A process recently could not log in with this client, and none has succeeded since.
    """

    client_id: str
    state: ClientState
    used: int
    remaining: int
    in_flight: int
    throttled_for_s: float
    granted_total: int
    rejected_total: int
    answers_total: Mapping[str, int] = field(default_factory=dict[str, int])
    throttled_total_s: float = 0.0
    token_age_s: float | None = None
    token_life_s: float | None = None
    login_refused: bool = False


def lane_share(lane: Lane, *, is_follow_up: bool = False) -> float:
    """Return the share of a limit that may be full when a lane still gets a slot."""
    return max(_LANE_SHARES[lane], _FOLLOW_UP_SHARE) if is_follow_up else _LANE_SHARES[lane]


def bounded_pause(retry_after: float) -> float:
    """Return the seconds to pause for a Retry-After."""
    return min(retry_after, MAX_PAUSE_SECONDS) if retry_after > 0 else MIN_PAUSE_SECONDS


def answer_class(status: int | None) -> str:
    """Return the class an answer is counted under. There are few classes, so that a metric may be labelled with them."""
    if status is None:
        return "none"
    return "429" if status == 429 else f"{status // 100}xx"
