"""The quota that callers use: acquire permission to send a request, then settle it with the answer."""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from weakref import WeakValueDictionary

import redis.asyncio

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.errors import ClientUnknown, QuotaUnavailable
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.request_lane import RaisableLane, RequestLane, current_priority
from cache_pipeline.upstream.dialect import LimitScope, NamedLimit
from cache_pipeline.upstream.quota.allotment import Allotment
from cache_pipeline.upstream.quota.local_share import LocalShare
from cache_pipeline.upstream.quota.model import (
    MAX_IN_FLIGHT_SECONDS,
    MIN_REMAINING,
    ClientQuota,
    Grant,
    Purpose,
    QuotaPolicy,
    SharedLimit,
    Waiter,
    answer_class,
    bounded_pause,
)
from cache_pipeline.upstream.quota.quota_store import PROBE_INTERVAL_SECONDS, QuotaStore
from cache_pipeline.upstream.redis_keys import UpstreamKeys

logger = logging.getLogger(__name__)

NO_PURPOSE = Purpose()
# A waiter asks again at least this often, so that it notices a released grant or a throttle that an operator lifted.
_MAX_SLEEP_SECONDS = 30.0
# Spreads the moments at which several processes that wait for one slot ask again.
_MAX_JITTER_SECONDS = 0.005


class Quota:
    """Grants requests so that no OAuth client ever exceeds its vendor's window, across all processes and machines.

    One script in Redis counts, chooses and decides how long to wait, by Redis's clock. Within a process the requests of one caller
    ask one after another. So many waiters cost Redis no more than one, and they are served in the order they came. The callers of a
    lane are served in turn, across all processes: one that sends many requests does not delay the others.

    An empty Redis may have lost its data. It grants each client one request at a time until the vendor has reported what remains
    or a window has passed. A process that knows of a loss restores the requests it sent. From then on nothing is granted until a
    window has passed since Redis returned. Before the first such process asks, one request of a client may be refused.

    When Redis becomes unavailable, each process lets one window pass, which others may have filled through Redis until then. It
    then continues with a fixed conservative share: an eighth of the limit, one request of a client at a time. It logs one warning
    per outage, and restores the requests it sent when Redis is back. The backfill lane stops instead.

    A quota belongs to the event loop it is first used in, as its Redis client does.

    Args:
        redis: An asyncio client of Redis 6.2 or newer, or Valkey; it may decode answers or not.
        account: Vendor and name of the account, for messages; also for the keys if `keys` is not given.
        clients: OAuth client id to its weight in the round-robin (G18).
        policy: The vendor's limit.
        redis_timeout: Seconds without an answer after which Redis counts as unavailable.
        max_in_flight_seconds: Longest time in which one request may be answered.
        sleep: Waits for the given seconds.
        clock: Monotonic seconds; only used while Redis is unavailable.
        keys: The names of its keys.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        account: str,
        clients: Mapping[str, int],
        policy: QuotaPolicy,
        *,
        redis_timeout: float = 2.0,
        max_in_flight_seconds: float = MAX_IN_FLIGHT_SECONDS,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        keys: UpstreamKeys | None = None,
    ) -> None:
        if not clients or min(clients.values()) < 1:
            raise ValueError(f"quota of {account}: needs at least one OAuth client, each with a weight of 1 or more")
        self.max_in_flight_seconds = max_in_flight_seconds
        self._policy = policy
        self._account = account
        # Sorted, so that all processes break a tie in the round-robin the same way.
        self._clients = dict(sorted(clients.items()))
        self._sleep = sleep
        self._local = LocalShare(self._clients, policy, clock, max_in_flight_seconds)
        self._store = QuotaStore(
            redis,
            account,
            keys or UpstreamKeys(account),
            self._clients,
            policy,
            recent_grants=self._local.recent_grants,
            on_outage=self._local.begin_outage,
            max_in_flight_seconds=max_in_flight_seconds,
            timeout=redis_timeout,
            clock=clock,
        )
        self._waiters = WeakValueDictionary[tuple[Priority, str | None, Purpose], Waiter]()
        self._jitter = random.SystemRandom()

    async def acquire(
        self,
        lane: RequestLane,
        client_id: str | None = None,
        *,
        exclude: Collection[str] = (),
        purpose: Purpose = NO_PURPOSE,
    ) -> Grant:
        """Wait, as long as needed, for permission to send one request, and return it. Settle or release it afterwards.

        Args:
            lane: Priority of the request. If it is raised meanwhile, the request continues to wait with the new one.
            client_id: The only client to use (a job is polled by the client that submitted it); any client if None.
            exclude: Clients not to choose.
            purpose: What the request is for, as far as limits depend on it.

        Raises:
            ClientUnknown: `client_id` is not in this pool.
            QuotaUnavailable: Redis is unavailable and the lane is backfill.
            ValueError: `exclude` leaves no client.
        """
        if client_id is not None and client_id not in self._clients:
            raise ClientUnknown(client_id=client_id, account=self._account, known=list(self._clients))
        candidates = [client_id] if client_id else [each for each in self._clients if each not in exclude]
        if not candidates:
            raise ValueError(f"quota of {self._account}: every OAuth client is excluded, so none can be chosen")
        if not isinstance(lane, RaisableLane):
            return await self._acquire(current_priority(lane), client_id, candidates, purpose)
        while True:
            waiting = asyncio.create_task(self._acquire(lane.current, client_id, candidates, purpose))
            raised = asyncio.ensure_future(lane.wait_until_raised())
            try:
                await asyncio.wait({waiting, raised}, return_when=asyncio.FIRST_COMPLETED)
                await cancel_and_wait([waiting, raised])
            except asyncio.CancelledError:
                await cancel_and_wait([waiting, raised])
                if not waiting.cancelled() and waiting.exception() is None:
                    await self.release(waiting.result())
                raise
            if not waiting.cancelled():
                return waiting.result()

    async def _acquire(
        self, priority: Priority, client_id: str | None, candidates: Sequence[str], purpose: Purpose
    ) -> Grant:
        grant_id = uuid.uuid4().hex
        waiter = self._waiters.setdefault((priority, client_id, purpose), Waiter())
        waiter.requests += 1
        try:
            async with waiter.turn:
                while True:
                    answer = await self._try_acquire(priority, candidates, grant_id, purpose, waiter)
                    if isinstance(answer, Grant):
                        return answer
                    await self._sleep(min(answer, _MAX_SLEEP_SECONDS) + self._jitter.uniform(0, _MAX_JITTER_SECONDS))
        except asyncio.CancelledError:
            # The script may have granted the request although its answer was never read.
            await self._discard(grant_id, candidates, purpose)
            raise
        finally:
            waiter.requests -= 1

    async def settle(
        self,
        grant: Grant,
        *,
        remaining: int | None,
        retry_after: float | None,
        rejected: bool,
        status: int | None = None,
        limit: NamedLimit | None = None,
    ) -> None:
        """Record the answer to a granted request. The request counts for one window from now on.

        Args:
            grant: The result of `acquire`.
            remaining: The vendor's remaining header; below `MIN_REMAINING` the client pauses (G16).
            retry_after: Seconds of the vendor's Retry-After. The pause is exactly that long, bounded by `MIN_PAUSE_SECONDS` and
                `MAX_PAUSE_SECONDS`, or the policy's default if None.
            rejected: The answer was a 429: the client pauses, and the request stays counted.
            status: HTTP status of the answer, for the counters; None if no answer came.
            limit: The limit that a 429 named as the one that was reached. Only requests that count against it pause, and from
                then on they keep to it; other limits stay as they are. A limit of jobs says nothing of a request that starts none.
        """
        if limit is not None and limit.scope is LimitScope.jobs and not grant.starts_job:
            # Otherwise nothing would pause, and the same request would be sent and refused again at once.
            limit = None
        is_low = remaining is not None and remaining < MIN_REMAINING
        retry_after = None if retry_after is None else bounded_pause(retry_after)
        default_pause = self._policy.default_pause_seconds
        pause = (default_pause if retry_after is None else retry_after) if rejected or is_low else None
        answer = answer_class(status)
        # While Redis is unavailable only clients can pause, whatever the limit is for.
        self._local.settle(grant, pause_seconds=pause, rejected=rejected, answer=answer)
        await self._store.settle(
            grant,
            remaining=remaining,
            retry_after=retry_after,
            rejected=rejected,
            answer=answer,
            limit=limit,
        )
        if pause is not None and limit is not None:
            logger.warning(
                "%s: the limit %s of %d was reached (%s); what counts against it pauses for %.1f s and keeps to it",
                self._account,
                limit.name,
                limit.value,
                grant.client_id if limit.scope is LimitScope.client else limit.scope,
                pause,
            )
        elif pause is not None:
            reason = "was answered 429" if rejected else f"has {remaining} requests remaining"
            logger.warning("%s: OAuth client %s %s, paused for %.1f s", self._account, grant.client_id, reason, pause)

    async def release(self, grant: Grant) -> None:
        """Return a grant whose request was never sent."""
        purpose = Purpose(endpoint=grant.endpoint, starts_job=grant.starts_job)
        await self._discard(grant.grant_id, [grant.client_id], purpose)

    async def learn(self, limits: Iterable[NamedLimit]) -> None:
        """Keep to limits that the vendor's own list names."""
        await self._store.learn(limits)

    async def name_job(self, grant: Grant, job_id: str) -> None:
        """Count the job that a granted request started under its own id, so that any process can report its end."""
        await self._store.name_job(grant, job_id)

    async def end_job(self, job_id: str) -> None:
        """Count a job no longer."""
        await self._store.end_job(job_id)

    async def allotment(self, now: datetime) -> Allotment | None:
        """Return the state of the month's allotment; None if none is declared."""
        monthly = self._policy.monthly_requests
        return None if monthly is None else Allotment.of(monthly, await self._store.usage(), now)

    async def shared_limits(self) -> list[SharedLimit]:
        """Return the limits beyond the clients' own ones; none while Redis is unavailable."""
        return await self._store.shared_limits()

    @property
    def outage_reason(self) -> str | None:
        """Why Redis is unavailable, as far as this process knows; None while it is available."""
        return self._store.outage_reason

    async def snapshot(self) -> list[ClientQuota]:
        """Return every client's quota at one moment; while Redis is unavailable, what this process alone knows."""
        shared = await self._store.snapshot()
        return self._local.snapshot() if shared is None else shared

    async def _try_acquire(
        self, priority: Priority, candidates: Sequence[str], grant_id: str, purpose: Purpose, waiter: Waiter
    ) -> Grant | float:
        answer = await self._store.try_acquire(candidates, priority, grant_id, purpose, waiter)
        if isinstance(answer, Grant):
            self._local.record(answer)
        if answer is not None:
            return answer
        if priority.lane is Lane.backfill:
            reason = self.outage_reason or "Redis is unavailable"
            raise QuotaUnavailable(account=self._account, lane=priority.lane, reason=reason)
        local = self._local.try_acquire(candidates, grant_id)
        # Sleep in short steps: Redis may be back, with more to give, before the local window moves.
        return local if isinstance(local, Grant) else min(local, PROBE_INTERVAL_SECONDS)

    async def _discard(self, grant_id: str, candidates: Sequence[str], purpose: Purpose) -> None:
        for client_id in candidates:
            self._local.discard(Grant(client_id, grant_id))
        await self._store.discard(grant_id, candidates, purpose)
