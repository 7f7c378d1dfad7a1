"""The quota as callers see it: take leave to send, settle what came of it."""

import asyncio
import logging
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import redis.asyncio

from cache_pipeline.errors import ClientUnknown, QuotaUnavailable
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.quota.local_share import LocalShare
from cache_pipeline.upstream.quota.model import ClientQuota, Grant, QuotaPolicy, answer_class
from cache_pipeline.upstream.quota.quota_store import PROBE_SECONDS, QuotaStore

_log = logging.getLogger(__name__)

# Asked again at least this often: a grant given back, or a throttle lifted by hand, is seen in time.
_LONGEST_SLEEP = 30.0
# Spread of the moments at which processes that wait for one slot ask again.
_JITTER = 0.005


class Quota:
    """Grants requests so that no OAuth client ever exceeds its vendor's window, over all processes and machines.

    Counting, choosing and waiting are decided by one script in Redis, by Redis's clock. Within a process callers of one lane
    ask in turn, so a crowd of waiters costs Redis no more than one, and is served in the order it came.

    An empty Redis may have lost its memory: it grants each client one request at a time until the vendor has told what remains
    or a window has passed. A process that knows of a loss tells what it sent, and from then on nothing is granted until a
    window has passed since Redis was there again. Before the first such process asks, one request of a client may be refused.

    When Redis goes away each process lets one window pass, which others may have filled through Redis until then, and goes on
    with a fixed conservative share (an eighth of the limit, one request of a client at a time). It says so once per outage, and
    tells Redis what it sent when it is back; the backfill lane stops instead.

    It belongs to the event loop it is first used in, as its Redis client does.

    Args:
        redis: An asyncio client of Redis 6.2 or newer, or Valkey; how its answers are decoded does not matter.
        platform: Name of the vendor; it names the keys.
        clients: OAuth client id to its weight in the round-robin (G18).
        policy: The vendor's limit.
        redis_timeout: Redis that does not answer in so many seconds is away.
        sleep: Waits so many seconds.
        clock: Seconds that only grow; only used while Redis is away.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        platform: str,
        clients: Mapping[str, int],
        policy: QuotaPolicy,
        *,
        redis_timeout: float = 2.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not clients or min(clients.values()) < 1:
            raise ValueError(f"quota of {platform}: needs at least one OAuth client, each with a weight of 1 or more")
        self.policy = policy
        self._platform = platform
        # Sorted, so that all processes break a tie in the round-robin the same way.
        self._clients = dict(sorted(clients.items()))
        self._sleep = sleep
        self._local = LocalShare(self._clients, policy, clock)
        self._store = QuotaStore(
            redis,
            platform,
            self._clients,
            policy,
            recent=self._local.recent,
            alone=self._local.alone_since,
            timeout=redis_timeout,
            clock=clock,
        )
        self._turns: defaultdict[tuple[Lane, str | None], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._jitter = random.SystemRandom()

    async def acquire(self, lane: Lane, client_id: str | None = None, *, without: Collection[str] = ()) -> Grant:
        """Waits, as long as needed, for leave to send one request. It must be settled or released.

        Args:
            lane: Who is asking.
            client_id: The one client that will do (a job is polled by the client that submitted it); any, if None.
            without: Clients not to choose.

        Raises:
            ClientUnknown: `client_id` is not of this pool.
            QuotaUnavailable: Redis is away and the lane is backfill.
            ValueError: `without` leaves no client.
        """
        if client_id is not None and client_id not in self._clients:
            raise ClientUnknown(client_id=client_id, platform=self._platform, known=list(self._clients))
        candidates = [client_id] if client_id else [each for each in self._clients if each not in without]
        if not candidates:
            raise ValueError(f"quota of {self._platform}: every OAuth client is left out, none can be chosen")
        grant_id = uuid.uuid4().hex
        try:
            async with self._turns[lane, client_id]:
                while True:
                    answer = await self._ask(lane, candidates, grant_id)
                    if isinstance(answer, Grant):
                        return answer
                    await self._sleep(min(answer, _LONGEST_SLEEP) + self._jitter.uniform(0, _JITTER))
        except asyncio.CancelledError:
            # The script may have granted although its answer was never read.
            await self._forget(grant_id, candidates)
            raise

    async def settle(
        self,
        grant: Grant,
        *,
        remaining: int | None,
        retry_after: float | None,
        rejected: bool,
        status: int | None = None,
    ) -> None:
        """Tells what the answer to a granted request said. The request counts for one window from now on.

        Args:
            grant: What `acquire` gave.
            remaining: The vendor's remaining header; below the policy's low water its client pauses (G16).
            retry_after: Seconds of the vendor's Retry-After; the pause is exactly that long, within the policy's bounds, or
                the policy's default.
            rejected: The answer was a 429: the client pauses, and the request stays counted.
            status: HTTP status of the answer, for the counters; None where no answer came.
        """
        low = remaining is not None and remaining < self.policy.low_water
        retry_after = None if retry_after is None else self.policy.bounded_pause(retry_after)
        pause = (self.policy.default_pause_seconds if retry_after is None else retry_after) if rejected or low else None
        answer = answer_class(status)
        self._local.settle(grant, pause_seconds=pause, rejected=rejected, answer=answer)
        await self._store.settle(grant, remaining=remaining, retry_after=retry_after, rejected=rejected, answer=answer)
        if pause is not None:
            why = "was answered 429" if rejected else f"has {remaining} requests remaining"
            _log.warning("%s: OAuth client %s %s, paused for %.1f s", self._platform, grant.client_id, why, pause)

    async def release(self, grant: Grant) -> None:
        """Gives a grant back whose request was never sent."""
        await self._forget(grant.grant_id, [grant.client_id])

    async def snapshot(self) -> list[ClientQuota]:
        """Reads every client's quota at one moment; what this process knows by itself while Redis is away."""
        shared = await self._store.snapshot()
        return self._local.snapshot() if shared is None else shared

    async def _ask(self, lane: Lane, candidates: Sequence[str], grant_id: str) -> Grant | float:
        answer = await self._store.take(candidates, self.policy.slots(lane), grant_id)
        if isinstance(answer, Grant):
            self._local.note(answer)
        if answer is not None:
            return answer
        if lane is Lane.backfill:
            reason = self._store.away_because or "Redis is away"
            raise QuotaUnavailable(platform=self._platform, lane=lane, reason=reason)
        local = self._local.take(candidates, grant_id)
        # Slept in short steps: Redis may be back, with more to give, before the local window moves.
        return local if isinstance(local, Grant) else min(local, PROBE_SECONDS)

    async def _forget(self, grant_id: str, candidates: Sequence[str]) -> None:
        for client_id in candidates:
            self._local.forget(Grant(client_id, grant_id))
        await self._store.forget(grant_id, candidates)
