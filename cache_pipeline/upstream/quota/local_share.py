"""What this process itself was granted: its own fixed share while Redis is away, and Redis's memory when it returns."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cache_pipeline.upstream.quota.model import ClientQuota, ClientState, Grant, QuotaPolicy

_LOOK_AGAIN_SECONDS = 0.05


@dataclass
class _Ledger:
    """One client: grant id to the instant it counts from (in the future while in flight), and when its pause ends."""

    instants: dict[str, float] = field(default_factory=dict[str, float])
    paused_until: float = -math.inf
    granted: int = 0
    rejected: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    throttled_seconds: float = 0.0


@dataclass(frozen=True)
class RecentGrants:
    """One own request that still counts. `age_seconds` is since its answer; negative while it is in flight."""

    client_id: str
    grant_id: str
    age_seconds: float


class LocalShare:
    """A sliding window per client in memory, counted by the same rules as the shared one.

    Every grant of this process is noted here, also those that Redis gave: they count against its share, and a Redis that lost
    its memory can be told what was sent. What other processes sent is not known: nothing is given until a window has passed
    since they last can have been granted anything, so that the shares never come on top of a window that Redis had filled.
    """

    def __init__(self, clients: Mapping[str, int], policy: QuotaPolicy, clock: Callable[[], float]) -> None:
        self._weights = dict(clients)
        self._policy = policy
        self._clock = clock
        self._ledgers = {client_id: _Ledger() for client_id in clients}
        self._alone_since = -math.inf

    def alone_since(self, instant: float) -> None:
        """Say from when on nobody is granted anything by Redis."""
        self._alone_since = instant

    def note(self, grant: Grant) -> None:
        """Counts a grant as in flight from now on."""
        ledger, now = self._ledgers[grant.client_id], self._clock()
        self._trim(ledger, now)
        ledger.instants[grant.grant_id] = now + self._policy.in_flight_seconds
        ledger.granted += 1

    def settle(self, grant: Grant, *, pause_seconds: float | None, rejected: bool, answer: str = "none") -> None:
        """Counts the grant from now on and, if told to, pauses its client."""
        ledger = self._ledgers[grant.client_id]
        now = self._clock()
        ledger.instants[grant.grant_id] = now
        ledger.rejected += rejected
        ledger.answers[answer] += 1
        if pause_seconds is not None:
            until = max(ledger.paused_until, now + pause_seconds)
            ledger.throttled_seconds += until - max(ledger.paused_until, now)
            ledger.paused_until = until

    def forget(self, grant: Grant) -> None:
        """Takes a grant back that was never sent."""
        self._ledgers[grant.client_id].instants.pop(grant.grant_id, None)

    def take(self, candidates: Collection[str], grant_id: str) -> Grant | float:
        """Gives a grant of the least used candidate, or the seconds until the next one could come."""
        now = self._clock()
        free_at = {client_id: self._free_at(client_id, now) for client_id in candidates}
        ready = [client_id for client_id, instant in free_at.items() if instant <= now]
        if not ready:
            return min(free_at.values()) - now
        chosen = min(ready, key=lambda client_id: len(self._ledgers[client_id].instants) / self._weights[client_id])
        grant = Grant(chosen, grant_id)
        self.note(grant)
        return grant

    def recent(self) -> list[RecentGrants]:
        """Every own request that still counts against the vendor's window."""
        now = self._clock()
        for ledger in self._ledgers.values():
            self._trim(ledger, now)
        return [
            RecentGrants(client_id, grant_id, now - instant)
            for client_id, ledger in self._ledgers.items()
            for grant_id, instant in ledger.instants.items()
        ]

    def snapshot(self) -> list[ClientQuota]:
        """What this process knows by itself, for as long as Redis is away."""
        now = self._clock()
        return [self._read(client_id, ledger, now) for client_id, ledger in self._ledgers.items()]

    def _read(self, client_id: str, ledger: _Ledger, now: float) -> ClientQuota:
        wait = max(0.0, self._free_at(client_id, now) - now)
        used = len(ledger.instants)
        return ClientQuota(
            client_id=client_id,
            state=ClientState.throttled if wait > 0 else ClientState.available,
            used=used,
            remaining=0 if wait > 0 else self._policy.local_share - used,
            in_flight=sum(instant > now for instant in ledger.instants.values()),
            throttled_for_s=wait,
            granted_total=ledger.granted,
            rejected_total=ledger.rejected,
            answers_total=dict(sorted(ledger.answers.items())),
            throttled_total_s=ledger.throttled_seconds,
        )

    def _free_at(self, client_id: str, now: float) -> float:
        ledger = self._ledgers[client_id]
        self._trim(ledger, now)
        # What others send is not known, so one request at a time finds out whether the vendor takes any.
        under_way = any(instant > now for instant in ledger.instants.values())
        soonest = max(
            ledger.paused_until,
            self._alone_since + self._policy.guarded_window_seconds,
            now + _LOOK_AGAIN_SECONDS if under_way else -math.inf,
        )
        too_many = len(ledger.instants) - self._policy.local_share
        if too_many < 0:
            return soonest
        last_to_leave = sorted(ledger.instants.values())[too_many]
        return max(soonest, min(last_to_leave, now) + self._policy.guarded_window_seconds)

    def _trim(self, ledger: _Ledger, now: float) -> None:
        oldest = now - self._policy.guarded_window_seconds
        for grant_id in [grant_id for grant_id, instant in ledger.instants.items() if instant <= oldest]:
            del ledger.instants[grant_id]
