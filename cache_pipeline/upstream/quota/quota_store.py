"""Runs the quota's Lua scripts in Redis, and detects when Redis is unavailable."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import redis.asyncio

from cache_pipeline.query.lane import Lane
from cache_pipeline.redis_errors import REDIS_ERRORS
from cache_pipeline.upstream.quota.local_share import RecentGrant
from cache_pipeline.upstream.quota.model import (
    MAX_IN_FLIGHT_SECONDS,
    MIN_REMAINING,
    ClientQuota,
    ClientState,
    Grant,
    QuotaPolicy,
    lane_share,
)
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.upstream.redis_scripts import decode_text, load_scripts, run_command

logger = logging.getLogger(__name__)

# Round-robin credits, throttles and counters expire after a day without traffic; by then they mean nothing.
_IDLE_SECONDS = 86_400.0
# Prefix of the counters of answers by class, in a client's state.
_ANSWERED = "answered:"
# An unavailable Redis is probed this often, by one caller, who waits no longer than the timeout.
PROBE_INTERVAL_SECONDS = 1.0
_PROBE_TIMEOUT_SECONDS = 0.25


class QuotaStore:
    """Runs the scripts; every method returns None while Redis is unavailable.

    An outage is logged once as a warning. Before anything is granted again after an outage, or after Redis lost its data, the
    requests of this process that still count are restored in Redis.

    Needs Redis 6.2 or newer, or Valkey. All keys of an account are in one slot of a Redis Cluster. They expire, except one that
    shows whether Redis has lost its data.

    Args:
        redis: An asyncio client; it may decode answers or not.
        account: Vendor and name of the account; all keys are `cache_pipeline:quota:{account}:...`, including the braces.
        clients: OAuth client id to its weight.
        policy: The vendor's limit.
        recent_grants: Returns the requests of this process that still count.
        on_outage: Receives the instant from which Redis grants nothing to any process.
        max_in_flight_seconds: Longest time in which one request may be answered.
        timeout: Seconds without an answer after which Redis counts as unavailable.
        clock: Monotonic seconds; decides when an unavailable Redis is probed.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        account: str,
        clients: Mapping[str, int],
        policy: QuotaPolicy,
        *,
        recent_grants: Callable[[], Sequence[RecentGrant]],
        on_outage: Callable[[float], None],
        max_in_flight_seconds: float = MAX_IN_FLIGHT_SECONDS,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._account = account
        self._clients = dict(clients)
        self._policy = policy
        self._recent_grants = recent_grants
        self._on_outage = on_outage
        self._max_in_flight_seconds = max_in_flight_seconds
        self._timeout = timeout
        self._clock = clock
        self._generation = ""
        self._outage_reason: str | None = None
        self._probe_at = 0.0
        self._keys = UpstreamKeys(account)
        self._scripts = load_scripts(redis, "cache_pipeline.upstream.quota")

    @property
    def outage_reason(self) -> str | None:
        """Why Redis is unavailable; None while it is available."""
        return self._outage_reason

    async def try_acquire(
        self, candidates: Sequence[str], lane: Lane, grant_id: str, *, is_follow_up: bool = False
    ) -> Grant | float | None:
        """Return a grant of one of the candidates, or the seconds until the next one may be possible."""
        keys = [self._keys.round_robin, self._keys.generation, self._keys.cold_start]
        keys += [self._keys.organisation_log, self._keys.organisation_state]
        for client_id in candidates:
            keys += [self._keys.log(client_id), self._keys.state(client_id)]
        fixed = [
            _micros(self._policy.guarded_window_seconds),
            _micros(self._max_in_flight_seconds),
            self._policy.slots(lane, is_follow_up=is_follow_up),
            _micros(_IDLE_SECONDS),
            round(1000 * lane_share(lane, is_follow_up=is_follow_up)),
            *(self._clients[client_id] for client_id in candidates),
        ]
        while True:
            answer = await self._call("acquire", keys, [grant_id, self._generation, *fixed])
            if answer is None:
                return None
            verdict, generation = decode_text(answer[0]), decode_text(answer[-1])
            if verdict != "restore":
                self._generation = generation
                return int(answer[1]) / 1e6 if verdict == "wait" else Grant(candidates[int(answer[1]) - 1], grant_id)
            # Adopt the new generation only once the grants are restored; if that failed, the next call finds Redis unavailable.
            if await self._restore_recent_grants():
                self._generation = generation

    async def settle(
        self,
        grant: Grant,
        *,
        remaining: int | None,
        retry_after: float | None,
        rejected: bool,
        answer: str,
        organisation_limit: int | None = None,
    ) -> None:
        """Record the answer to a granted request, and count it under the class `answer`."""
        policy = self._policy
        arguments = [
            grant.grant_id,
            _micros(policy.guarded_window_seconds),
            _micros(self._max_in_flight_seconds),
            policy.limit,
            MIN_REMAINING,
            "" if remaining is None else remaining,
            "" if retry_after is None else _micros(retry_after),
            _micros(policy.default_pause_seconds),
            int(rejected),
            _micros(_IDLE_SECONDS),
            _ANSWERED + answer,
            "" if organisation_limit is None else organisation_limit,
        ]
        keys = [self._keys.log(grant.client_id), self._keys.state(grant.client_id), self._keys.cold_start]
        keys += [self._keys.organisation_log, self._keys.organisation_state]
        await self._call("settle", keys, arguments)

    async def discard(self, grant_id: str, candidates: Sequence[str]) -> None:
        """Remove a grant from the candidates' logs. Without effect while Redis is unavailable: the slot expires later."""

        async def remove() -> None:
            for client_id in candidates:
                await self._redis.zrem(self._keys.log(client_id), grant_id)
            await self._redis.zrem(self._keys.organisation_log, grant_id)

        await self._run_best_effort(remove)

    async def snapshot(self) -> list[ClientQuota] | None:
        """Return every client's quota at one moment."""
        keys = [
            key
            for client_id in self._clients
            for key in (
                self._keys.log(client_id),
                self._keys.state(client_id),
                self._keys.token(client_id),
                self._keys.login(client_id),
                self._keys.refused(client_id),
            )
        ]
        arguments = [_micros(self._policy.guarded_window_seconds), self._policy.usable_slots]
        answer = await self._call("snapshot", keys, arguments)
        if answer is None:
            return None
        return [
            _client_quota(client_id, row, self._policy) for client_id, row in zip(self._clients, answer, strict=True)
        ]

    async def _restore_recent_grants(self) -> bool:
        numbers = {client_id: number for number, client_id in enumerate(self._clients, start=1)}
        log_seconds = 2 * (self._policy.guarded_window_seconds + self._max_in_flight_seconds)
        arguments: list[str | int] = [
            _micros(self._policy.guarded_window_seconds),
            _micros(log_seconds),
            _micros(_IDLE_SECONDS),
        ]
        for grant in self._recent_grants():
            arguments += [numbers[grant.client_id], grant.grant_id, _micros(grant.age_seconds)]
        keys = [self._keys.cold_start]
        for client_id in self._clients:
            keys += [self._keys.log(client_id), self._keys.state(client_id)]
        return await self._run("restore", keys, arguments) is not None

    async def _call(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any | None:
        if self._outage_reason is not None:
            if self._clock() < self._probe_at:
                return None
            self._probe_at = self._clock() + PROBE_INTERVAL_SECONDS
            # Restore the requests sent during the outage first, so that nothing is granted on top of them.
            if not await self._restore_recent_grants():
                return None
            self._outage_reason = None
            logger.info("%s: the shared quota is available again", self._account)
        return await self._run(script, keys, arguments)

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any | None:
        timeout = self._timeout if self._outage_reason is None else _PROBE_TIMEOUT_SECONDS
        try:
            return await run_command(self._scripts[script](keys=keys, args=arguments), timeout)
        except REDIS_ERRORS as error:
            self._record_outage(error)
            return None

    def _record_outage(self, error: BaseException) -> None:
        now = self._clock()
        self._probe_at = now + PROBE_INTERVAL_SECONDS
        if self._outage_reason is not None:
            return
        self._outage_reason = f"{type(error).__name__}: {error}" if str(error) else "no answer"
        # Until this moment Redis may have granted the whole window to other processes.
        self._on_outage(now)
        logger.warning(
            "%s: the shared quota is unavailable (%s); this process sends nothing for %.0f s, then at most %d requests per %g s "
            "and client; backfill stops until Redis is back",
            self._account,
            self._outage_reason,
            self._policy.guarded_window_seconds,
            self._policy.local_share,
            self._policy.window_seconds,
        )

    async def _run_best_effort(self, command: Callable[[], Awaitable[object]]) -> None:
        # A command lost here corrects itself: a grant that was not removed expires.
        if self._outage_reason is not None:
            return
        try:
            await run_command(command(), self._timeout)
        except REDIS_ERRORS:
            logger.debug("%s: Redis did not answer", self._account, exc_info=True)


def _client_quota(client_id: str, row: Sequence[Any], policy: QuotaPolicy) -> ClientQuota:
    used, in_flight, wait_micros, foreign, token_ttl_ms, token_life_ms, renewing, refused = (
        int(value) for value in row[:8]
    )
    flat = [decode_text(each) for each in row[8]]
    counters = dict(zip(flat[::2], flat[1::2], strict=True))
    if wait_micros > 0:
        state = ClientState.throttled
    elif refused and token_ttl_ms <= 0:
        state = ClientState.refused
    else:
        state = ClientState.refreshing if renewing else ClientState.available
    return ClientQuota(
        client_id=client_id,
        state=state,
        used=used,
        remaining=0 if wait_micros > 0 else max(0, policy.usable_slots - used - foreign),
        in_flight=in_flight,
        throttled_for_s=wait_micros / 1e6,
        granted_total=int(counters.get("granted", 0)),
        rejected_total=int(counters.get("rejected", 0)),
        answers_total={
            name.removeprefix(_ANSWERED): int(value)
            for name, value in sorted(counters.items())
            if name.startswith(_ANSWERED)
        },
        throttled_total_s=int(counters.get("throttled", 0)) / 1e6,
        token_age_s=(token_life_ms - token_ttl_ms) / 1e3 if token_ttl_ms > 0 else None,
        token_life_s=token_life_ms / 1e3 if token_ttl_ms > 0 else None,
        login_refused=bool(refused),
    )


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
