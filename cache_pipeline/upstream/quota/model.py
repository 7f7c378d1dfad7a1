"""The quota's words: lanes, the vendor's limit, a grant, and what can be read of a client."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cache_pipeline.query.lane import Lane


class ClientState(StrEnum):
    """Whether an OAuth client can be given a request now (G18); `refused` is one that cannot log in."""

    available = "available"
    throttled = "throttled"
    refreshing = "refreshing"
    refused = "refused"


@dataclass(frozen=True)
class QuotaPolicy:
    """What the vendor allows one OAuth client, and how close we go to it.

    Attributes:
        limit: Requests the vendor takes in any window (G17).
        window_seconds: Length of that sliding window.
        reserve: Requests of the limit never used, so that the vendor's own remaining count stays at or above
            `low_water` by our count alone. 0 where the vendor sends no remaining header.
        low_water: A client pauses when the vendor says that fewer than this remain (G16).
        default_pause_seconds: That pause where the vendor gives no Retry-After (G16).
        shortest_pause_seconds: A Retry-After of 0, which a vendor may have rounded or taken from a date gone by, pauses for so
            long: a client that was just told off does not come back at once.
        longest_pause_seconds: A Retry-After of more, which may be a mistake, is looked into after so long.
        guard: Share by which our window is longer than the vendor's, against clocks that run at different speeds.
        in_flight_seconds: The longest one request may take to be answered. Until then it counts as used even if its
            sender died, since it may still arrive.
        scheduled_share: Share of the usable slots that may be full when a scheduled request still goes out.
        backfill_share: The same for backfill; the rest stays free for those who wait in front of a screen.
    """

    limit: int
    window_seconds: float
    reserve: int = 3
    low_water: int = 3
    default_pause_seconds: float = 60.0
    shortest_pause_seconds: float = 1.0
    longest_pause_seconds: float = 900.0
    guard: float = 0.02
    in_flight_seconds: float = 120.0
    scheduled_share: float = 0.9
    backfill_share: float = 0.8

    def __post_init__(self) -> None:
        """Refuses a policy under which nothing, or too much, could ever be sent."""
        if self.limit < 1 or self.reserve < 0 or self.reserve >= self.limit:
            raise ValueError(
                f"quota policy: reserve {self.reserve} must be 0 or more and below limit {self.limit}, "
                f"or nothing could ever be sent; lower reserve"
            )
        if self.window_seconds <= 0 or self.in_flight_seconds <= 0 or self.default_pause_seconds < 0 or self.guard < 0:
            raise ValueError("quota policy: window and in-flight seconds must be above 0, pause and guard 0 or more")
        if not 0 <= self.shortest_pause_seconds <= self.longest_pause_seconds:
            raise ValueError("quota policy: the shortest pause must be 0 or more and no longer than the longest")
        if not (0 < self.backfill_share <= 1 and 0 < self.scheduled_share <= 1):
            raise ValueError("quota policy: lane shares must be above 0 and at most 1")

    @property
    def usable(self) -> int:
        """Slots of one client in one window that are ever filled."""
        return self.limit - self.reserve

    @property
    def guarded_window_seconds(self) -> float:
        """How long an answered request counts as used."""
        return self.window_seconds * (1 + self.guard)

    @property
    def local_share(self) -> int:
        """Slots of one client in one window that a process allows itself while Redis is away."""
        return max(1, self.limit // 8)

    def bounded_pause(self, retry_after: float) -> float:
        """Seconds that a Retry-After pauses for."""
        return min(retry_after, self.longest_pause_seconds) if retry_after > 0 else self.shortest_pause_seconds

    def slots(self, lane: Lane) -> int:
        """How many of a client's slots may be filled, by all lanes together, for `lane` still to get one."""
        share = {Lane.interactive: 1.0, Lane.scheduled: self.scheduled_share, Lane.backfill: self.backfill_share}[lane]
        return max(1, math.floor(self.usable * share + 1e-9))


@dataclass(frozen=True)
class Grant:
    """Leave to send one request with one client. To be settled or released, once."""

    client_id: str
    grant_id: str


@dataclass(frozen=True)
class ClientQuota:
    """One client's quota at one moment.

    Attributes:
        client_id: The OAuth client.
        state: Whether it can be given a request now.
        used: Slots that count as used in the window, requests in flight among them.
        remaining: Requests that the interactive lane could send at once.
        in_flight: Requests granted and not settled yet.
        throttled_for_s: Seconds until the client can be given a request; 0 where it can now.
        granted_total: Requests granted since the counters began (they expire after a day without traffic).
        rejected_total: 429 answers over the same time.
        answers_total: Answers by class over the same time: `2xx`, `3xx`, `4xx`, `429`, `5xx`, and `none` where none came.
        throttled_total_s: Seconds that answers paused the client for over the same time.
        token_age_s: Seconds since the shared access token was asked for; None where there is none.
        token_life_s: Seconds that token lives in all.
        login_refused: A process could not log in with this client lately, and none could since.
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


def answer_class(status: int | None) -> str:
    """What an answer is counted as; few, so that a metric may be labelled with it."""
    if status is None:
        return "none"
    return "429" if status == 429 else f"{status // 100}xx"
