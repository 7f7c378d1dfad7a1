"""Runs the quota's Lua scripts in Redis, and detects when Redis is unavailable."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, cast

import redis.asyncio
from redis.typing import EncodableT, FieldT

from cache_pipeline.query.lane import Priority
from cache_pipeline.redis_connection import server_time
from cache_pipeline.redis_errors import REDIS_ERRORS
from cache_pipeline.upstream.dialect import LimitScope, NamedLimit
from cache_pipeline.upstream.quota.local_share import RecentGrant
from cache_pipeline.upstream.quota.model import (
    MAX_IN_FLIGHT_SECONDS,
    MIN_REMAINING,
    WINDOW_GUARD,
    ClientQuota,
    ClientState,
    Grant,
    Purpose,
    QuotaPolicy,
    SharedLimit,
    Waiter,
    lane_share,
)
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.upstream.redis_scripts import decode_text, load_scripts, run_command

logger = logging.getLogger(__name__)

# Round-robin credits, throttles and counters expire after a day without traffic; by then they mean nothing.
_IDLE_SECONDS = 86_400.0
# The deployment's own work takes turns with the callers.
_NO_CALLER = "-"
# Prefix of the counters of answers by class, in a client's state.
_ANSWERED = "answered:"
#: How long a limit of the vendor's own list is kept to, if the list is not read again.
_LISTED_SECONDS = 7 * 86_400.0
_EPOCH = date(1970, 1, 1)
#: A longer window is not counted.
_LONGEST_WINDOW_SECONDS = 3600.0
#: The number of the log of each kind of limit among the keys of settle.lua.
_SETTLED_LOGS = {LimitScope.client: 3, LimitScope.organisation: 5, LimitScope.endpoint: 7, LimitScope.jobs: 9}
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
        account: Vendor and name of the account, for messages.
        keys: The names of its keys.
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
        keys: UpstreamKeys,
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
        self._keys = keys
        self._scripts = load_scripts(redis, "cache_pipeline.upstream.quota")

    @property
    def outage_reason(self) -> str | None:
        """Why Redis is unavailable; None while it is available."""
        return self._outage_reason

    async def try_acquire(
        self, candidates: Sequence[str], priority: Priority, grant_id: str, purpose: Purpose, waiter: Waiter
    ) -> Grant | float | None:
        """Return a grant of one of the candidates, or the seconds until the next one may be possible.

        Args:
            candidates: Clients to choose from.
            priority: The lane, and the callers whose turn it has to be.
            grant_id: The id of the grant.
            purpose: What the request is for.
            waiter: Who asks.
        """
        lane = priority.lane
        keys = [self._keys.round_robin, self._keys.generation, self._keys.cold_start, self._keys.limits]
        keys += [*self._shared_keys(purpose.endpoint), self._keys.turns(lane), self._keys.waiting(lane)]
        for client_id in candidates:
            keys += [self._keys.log(client_id), self._keys.state(client_id)]
        fixed = [
            _micros(self._policy.guarded_window_seconds),
            _micros(self._max_in_flight_seconds),
            self._policy.slots(lane, is_follow_up=purpose.is_follow_up),
            _micros(_IDLE_SECONDS),
            round(1000 * lane_share(lane, is_follow_up=purpose.is_follow_up)),
            self._policy.reserve,
            self._policy.organisation_limit or 0,
            self._policy.concurrent_jobs or 0,
            _micros(self._policy.job_seconds) if purpose.starts_job else 0,
            waiter.id,
            " ".join(sorted(priority.callers)) or _NO_CALLER,
            int(waiter.requests > 1),
            *(self._clients[client_id] for client_id in candidates),
        ]
        while True:
            answer = await self._call("acquire", keys, [grant_id, self._generation, *fixed])
            if answer is None:
                return None
            verdict, generation = decode_text(answer[0]), decode_text(answer[-1])
            if verdict != "restore":
                self._generation = generation
                if verdict == "wait":
                    return int(answer[1]) / 1e6
                return Grant(candidates[int(answer[1]) - 1], grant_id, purpose.endpoint, purpose.starts_job)
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
        limit: NamedLimit | None = None,
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
            int(answer == "2xx"),
            "" if limit is None else _SETTLED_LOGS[limit.scope],
            "" if limit is None else _field_name(limit),
            "" if limit is None else limit.value,
            "" if limit is None else _micros(self._window_seconds(limit)),
        ]
        keys = [self._keys.cold_start, self._keys.limits]
        keys += [self._keys.log(grant.client_id), self._keys.state(grant.client_id), *self._shared_keys(grant.endpoint)]
        keys.append(self._keys.usage)
        await self._call("settle", keys, arguments)

    async def learn(self, limits: Iterable[NamedLimit]) -> None:
        """Keep to limits that the vendor's own list names."""

        async def store() -> None:
            known_until = round((await self._now() + _LISTED_SECONDS) * 1_000_000)
            fields: dict[FieldT, EncodableT] = {
                f"{log} {_field_name(limit)}": f"{limit.value}:{_micros(self._window_seconds(limit))}:{known_until}"
                for limit in limits
                for log in self._logs(limit)
            }
            if fields:
                await self._redis.hset(self._keys.limits, mapping=fields)
                await self._redis.pexpire(self._keys.limits, round(_LISTED_SECONDS * 1000))

        await self._run_best_effort(store)

    async def shared_limits(self) -> list[SharedLimit]:
        """Return the limits beyond the clients' own ones, with what counts against each now; none while Redis is unavailable."""
        found: list[SharedLimit] = []

        async def read() -> None:
            now = await self._now()
            stored = await cast("Awaitable[dict[Any, Any]]", self._redis.hgetall(self._keys.limits))
            named = {decode_text(field): decode_text(value) for field, value in stored.items()}
            for declared, log in (
                (self._policy.organisation_limit, self._keys.organisation_log),
                (self._policy.concurrent_jobs, self._keys.jobs_log),
            ):
                if declared is not None:
                    named[f"{log} declared"] = f"{declared}:{_micros(self._policy.guarded_window_seconds)}:{2**53}"
            for field, value in sorted(named.items()):
                log, _, name = field.rpartition(" ")
                limit, window, known_until = (int(part) for part in value.split(":"))
                counts = self._counted(log)
                if counts is None or known_until <= now * 1_000_000:
                    continue
                is_of_jobs = log == self._keys.jobs_log
                since = now if is_of_jobs else now - window / 1e6
                used = int(await self._redis.zcount(log, f"({since * 1_000_000:.0f}", "+inf"))
                seconds = None if is_of_jobs else round(window / 1e6 / (1 + WINDOW_GUARD), 3)
                found.append(SharedLimit(name, counts, limit, seconds, used))

        await self._run_best_effort(read)
        return found

    async def usage(self) -> dict[date, int]:
        """Return the requests of the organisation by day, in UTC; none while Redis is unavailable."""
        found: dict[date, int] = {}

        async def read() -> None:
            stored = await cast("Awaitable[dict[Any, Any]]", self._redis.hgetall(self._keys.usage))
            found.update({_EPOCH + timedelta(days=int(day)): int(count) for day, count in stored.items()})

        await self._run_best_effort(read)
        return found

    async def name_job(self, grant: Grant, job_id: str) -> None:
        """Count the job that a granted request started under its own id, so that any process can report its end."""

        async def name() -> None:
            until = await self._now() + self._policy.job_seconds
            arguments = [grant.grant_id, job_id, round(until * 1_000_000)]
            await self._scripts["name_job"](keys=[self._keys.jobs_log], args=arguments)

        await self._run_best_effort(name)

    async def end_job(self, job_id: str) -> None:
        """Count a job no longer."""

        async def remove() -> None:
            await self._redis.zrem(self._keys.jobs_log, job_id)

        await self._run_best_effort(remove)

    async def discard(self, grant_id: str, candidates: Sequence[str], purpose: Purpose) -> None:
        """Remove a grant from all logs. Without effect while Redis is unavailable: the slot expires later."""

        async def remove() -> None:
            for client_id in candidates:
                await self._redis.zrem(self._keys.log(client_id), grant_id)
            await self._redis.zrem(self._keys.organisation_log, grant_id)
            await self._redis.zrem(self._keys.endpoint_log(purpose.endpoint), grant_id)
            if purpose.starts_job:
                await self._redis.zrem(self._keys.jobs_log, grant_id)

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

    def _shared_keys(self, endpoint: str) -> list[str]:
        keys = self._keys
        return [
            *(keys.organisation_log, keys.organisation_state),
            *(keys.endpoint_log(endpoint), keys.endpoint_state(endpoint)),
            *(keys.jobs_log, keys.jobs_state),
        ]

    def _logs(self, limit: NamedLimit) -> list[str]:
        """Return the logs of the requests that a limit counts; none if it does not say of which endpoint it is."""
        match limit.scope:
            case LimitScope.client:
                return [self._keys.log(client_id) for client_id in self._clients]
            case LimitScope.organisation:
                return [self._keys.organisation_log]
            case LimitScope.jobs:
                return [self._keys.jobs_log]
            case LimitScope.endpoint:
                return [self._keys.endpoint_log(limit.endpoint)] if limit.endpoint else []

    def _window_seconds(self, limit: NamedLimit) -> float:
        seconds = self._policy.window_seconds if limit.window_seconds is None else limit.window_seconds
        # A log of a whole day would be long. A longer window only pauses, by the vendor's own Retry-After.
        return seconds * (1 + WINDOW_GUARD) if seconds <= _LONGEST_WINDOW_SECONDS else 0.0

    def _counted(self, log: str) -> str | None:
        """Return what a log of this account counts; None for one of another account."""
        if log == self._keys.organisation_log:
            return LimitScope.organisation
        if log == self._keys.jobs_log:
            return LimitScope.jobs
        for client_id in self._clients:
            if log == self._keys.log(client_id):
                return client_id
        before, _, after = self._keys.endpoint_log("\0").partition("\0")
        return log.removeprefix(before).removesuffix(after) if log.startswith(before) and log.endswith(after) else None

    async def _now(self) -> float:
        return await server_time(self._redis, self._keys.generation)

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
        keys = [self._keys.cold_start, self._keys.organisation_log]
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


def _field_name(limit: NamedLimit) -> str:
    return "".join(each if each.isprintable() and not each.isspace() else "_" for each in limit.name[:100]) or "unnamed"


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
