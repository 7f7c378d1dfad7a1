"""This process's own grants: they bound it to a fixed share while Redis is unavailable, and rebuild Redis's log afterwards."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cache_pipeline.upstream.quota.model import MAX_IN_FLIGHT_SECONDS, ClientQuota, ClientState, Grant, QuotaPolicy

_RECHECK_SECONDS = 0.05


@dataclass
class _ClientWindow:
    """One client's own requests.

    Attributes:
        counted_from: Grant id to the instant its request counts from; in the future while the request is in flight.
        paused_until: When the client's pause ends.
        granted: Requests granted.
        rejected: 429 answers.
        answers: Answers by class.
        throttled_seconds: Seconds for which answers paused the client.
    """

    counted_from: dict[str, float] = field(default_factory=dict[str, float])
    paused_until: float = -math.inf
    granted: int = 0
    rejected: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    throttled_seconds: float = 0.0


@dataclass(frozen=True)
class RecentGrant:
    """One request of this process that still counts. `age_seconds` is since its answer; negative while it is in flight."""

    client_id: str
    grant_id: str
    age_seconds: float


class LocalShare:
    """A sliding window per client in memory, counted by the same rules as the shared one.

    Every grant of this process is recorded here, including those from Redis. They count against the process's local share, and a
    Redis that lost its data can be given them again. The requests of other processes are not known. So nothing is granted until a
    full window has passed since Redis could last grant anything to any process; otherwise the local shares would come on top of a
    window that Redis had filled.

    Args:
        clients: OAuth client id to its weight.
        policy: The vendor's limit.
        clock: Monotonic seconds.
        max_in_flight_seconds: Longest time in which one request may be answered.
    """

    def __init__(
        self,
        clients: Mapping[str, int],
        policy: QuotaPolicy,
        clock: Callable[[], float],
        max_in_flight_seconds: float = MAX_IN_FLIGHT_SECONDS,
    ) -> None:
        self._weights = dict(clients)
        self._policy = policy
        self._clock = clock
        self._max_in_flight_seconds = max_in_flight_seconds
        self._windows = {client_id: _ClientWindow() for client_id in clients}
        self._outage_began = -math.inf

    def begin_outage(self, instant: float) -> None:
        """Record the instant from which Redis grants nothing to any process."""
        self._outage_began = instant

    def record(self, grant: Grant) -> None:
        """Count a grant as in flight from now on."""
        window, now = self._windows[grant.client_id], self._clock()
        self._trim(window, now)
        window.counted_from[grant.grant_id] = now + self._max_in_flight_seconds
        window.granted += 1

    def settle(self, grant: Grant, *, pause_seconds: float | None, rejected: bool, answer: str = "none") -> None:
        """Count the grant from now on and, if `pause_seconds` is given, pause its client."""
        window = self._windows[grant.client_id]
        now = self._clock()
        window.counted_from[grant.grant_id] = now
        window.rejected += rejected
        window.answers[answer] += 1
        if pause_seconds is not None:
            until = max(window.paused_until, now + pause_seconds)
            window.throttled_seconds += until - max(window.paused_until, now)
            window.paused_until = until

    def discard(self, grant: Grant) -> None:
        """Remove a grant whose request was never sent."""
        self._windows[grant.client_id].counted_from.pop(grant.grant_id, None)

    def try_acquire(self, candidates: Collection[str], grant_id: str) -> Grant | float:
        """Return a grant of the least used candidate, or the seconds until the next one may be possible."""
        now = self._clock()
        free_at = {client_id: self._free_at(client_id, now) for client_id in candidates}
        ready = [client_id for client_id, instant in free_at.items() if instant <= now]
        if not ready:
            return min(free_at.values()) - now
        chosen = min(ready, key=lambda client_id: len(self._windows[client_id].counted_from) / self._weights[client_id])
        grant = Grant(chosen, grant_id)
        self.record(grant)
        return grant

    def recent_grants(self) -> list[RecentGrant]:
        """Return every request of this process that still counts against the vendor's window."""
        now = self._clock()
        for window in self._windows.values():
            self._trim(window, now)
        return [
            RecentGrant(client_id, grant_id, now - instant)
            for client_id, window in self._windows.items()
            for grant_id, instant in window.counted_from.items()
        ]

    def snapshot(self) -> list[ClientQuota]:
        """Return what this process alone knows of every client, for use while Redis is unavailable."""
        now = self._clock()
        return [self._client_quota(client_id, window, now) for client_id, window in self._windows.items()]

    def _client_quota(self, client_id: str, window: _ClientWindow, now: float) -> ClientQuota:
        wait = max(0.0, self._free_at(client_id, now) - now)
        used = len(window.counted_from)
        return ClientQuota(
            client_id=client_id,
            state=ClientState.throttled if wait > 0 else ClientState.available,
            used=used,
            remaining=0 if wait > 0 else self._policy.local_share - used,
            in_flight=sum(instant > now for instant in window.counted_from.values()),
            throttled_for_s=wait,
            granted_total=window.granted,
            rejected_total=window.rejected,
            answers_total=dict(sorted(window.answers.items())),
            throttled_total_s=window.throttled_seconds,
        )

    def _free_at(self, client_id: str, now: float) -> float:
        window = self._windows[client_id]
        self._trim(window, now)
        # The requests of other processes are not known, so one request at a time tests whether the vendor accepts any.
        has_request_in_flight = any(instant > now for instant in window.counted_from.values())
        earliest = max(
            window.paused_until,
            self._outage_began + self._policy.guarded_window_seconds,
            now + _RECHECK_SECONDS if has_request_in_flight else -math.inf,
        )
        excess = len(window.counted_from) - self._policy.local_share
        if excess < 0:
            return earliest
        blocking = sorted(window.counted_from.values())[excess]
        return max(earliest, min(blocking, now) + self._policy.guarded_window_seconds)

    def _trim(self, window: _ClientWindow, now: float) -> None:
        oldest = now - self._policy.guarded_window_seconds
        for grant_id in [grant_id for grant_id, instant in window.counted_from.items() if instant <= oldest]:
            del window.counted_from[grant_id]
