"""The quota's scripts in Redis: their keys, their arguments, and whether Redis is there at all."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, TypeVar

import redis.asyncio
import redis.exceptions

from cache_pipeline.upstream.quota.local import Recent
from cache_pipeline.upstream.quota.model import ClientQuota, ClientState, Grant, QuotaPolicy

_log = logging.getLogger(__name__)

# Wheel, throttle and counters are forgotten after a day without traffic; by then they say nothing any more.
_IDLE_SECONDS = 86_400.0
# A login that takes longer than this has failed; its mark must not outlive it.
_REFRESHING_SECONDS = 30
# An absent Redis is tried again this often, by one caller, who waits only so long.
PROBE_SECONDS = 1.0
_PROBE_TIMEOUT = 0.25

T = TypeVar("T")

_AWAY = (redis.exceptions.RedisError, OSError, TimeoutError)


class QuotaStore:
    """Runs the scripts; every answer is None while Redis is away.

    An outage is warned of once. Before anything is granted again after it, or after Redis lost its memory, Redis is told
    what this process sent, as far as that still counts.

    Needs Redis 6.2 or newer, or Valkey. All keys of a platform lie in one slot of a Redis Cluster, and expire.

    Args:
        redis: An asyncio client; how its answers are decoded does not matter.
        platform: Name of the vendor; all keys are `cache_pipeline:quota:{platform}:...`, braces and all.
        clients: OAuth client id to its weight.
        policy: The vendor's limit.
        recent: Gives what this process sent and still counts.
        timeout: Redis that does not answer in so many seconds is away.
        clock: Seconds that only grow; says when an absent Redis is tried again.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        platform: str,
        clients: Mapping[str, int],
        policy: QuotaPolicy,
        *,
        recent: Callable[[], Sequence[Recent]],
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._platform = platform
        self._clients = dict(clients)
        self._policy = policy
        self._recent = recent
        self._timeout = timeout
        self._clock = clock
        self._generation = ""
        self._away_because: str | None = None
        self._probe_at = 0.0
        scripts = files("cache_pipeline.upstream.quota")
        self._take, self._settle, self._restore, self._snapshot = (
            redis.register_script(scripts.joinpath(f"{name}.lua").read_text("utf-8"))
            for name in ("take", "settle", "restore", "snapshot")
        )

    @property
    def away_because(self) -> str | None:
        """Why Redis is away; None while it is there."""
        return self._away_because

    async def take(self, candidates: Sequence[str], slots: int, grant_id: str) -> Grant | float | None:
        """Gives a grant of one of the candidates, or the seconds until the next could come."""
        keys = [self._key("wheel"), self._key("generation")]
        for client_id in candidates:
            keys += [self._log_of(client_id), self._state_of(client_id)]
        fixed = [
            _micros(self._policy.guarded_window_seconds),
            _micros(self._policy.in_flight_seconds),
            slots,
            _micros(_IDLE_SECONDS),
            *(self._clients[client_id] for client_id in candidates),
        ]
        while True:
            answer = await self._call(self._take, keys, [grant_id, self._generation, *fixed])
            if answer is None:
                return None
            verdict, generation = _text(answer[0]), _text(answer[-1])
            if verdict != "restore":
                self._generation = generation
                return int(answer[1]) / 1e6 if verdict == "wait" else Grant(candidates[int(answer[1]) - 1], grant_id)
            # Only once it is told may the new generation be believed; else the next ask finds Redis away.
            if await self._tell_recent():
                self._generation = generation

    async def settle(self, grant: Grant, *, remaining: int | None, retry_after: float | None, rejected: bool) -> None:
        """Passes on what the answer to a granted request said."""
        policy = self._policy
        arguments = [
            grant.grant_id,
            _micros(policy.guarded_window_seconds),
            _micros(policy.in_flight_seconds),
            policy.limit,
            policy.low_water,
            "" if remaining is None else remaining,
            "" if retry_after is None else _micros(retry_after),
            _micros(policy.default_pause_seconds),
            int(rejected),
            _micros(_IDLE_SECONDS),
        ]
        await self._call(self._settle, [self._log_of(grant.client_id), self._state_of(grant.client_id)], arguments)

    async def forget(self, grant_id: str, candidates: Sequence[str]) -> None:
        """Takes a grant off the candidates' logs. Lost where Redis is away: the slot frees itself in the end."""

        async def remove() -> None:
            for client_id in candidates:
                await self._redis.zrem(self._log_of(client_id), grant_id)

        await self._quietly(remove)

    async def mark_refreshing(self, client_id: str, *, on: bool) -> None:
        """Shows a client as refreshing, or no longer."""
        key = self._refreshing_of(client_id)
        await self._quietly(
            lambda: self._redis.set(key, "1", ex=_REFRESHING_SECONDS) if on else self._redis.delete(key)
        )

    async def snapshot(self) -> list[ClientQuota] | None:
        """Reads every client's quota at one moment."""
        keys = [
            key
            for client_id in self._clients
            for key in (self._log_of(client_id), self._state_of(client_id), self._refreshing_of(client_id))
        ]
        arguments = [_micros(self._policy.guarded_window_seconds), self._policy.usable]
        answer = await self._call(self._snapshot, keys, arguments)
        if answer is None:
            return None
        return [
            self._client_quota(client_id, [int(value) for value in row])
            for client_id, row in zip(self._clients, answer, strict=True)
        ]

    async def _tell_recent(self) -> bool:
        numbers = {client_id: number for number, client_id in enumerate(self._clients, start=1)}
        keep = 2 * (self._policy.guarded_window_seconds + self._policy.in_flight_seconds)
        arguments: list[str | int] = [_micros(keep)]
        for entry in self._recent():
            arguments += [numbers[entry.client_id], entry.grant_id, _micros(entry.age_seconds)]
        keys = [self._log_of(client_id) for client_id in self._clients]
        return await self._run(self._restore, keys, arguments) is not None

    async def _call(self, script: Any, keys: Sequence[str], arguments: Sequence[str | int]) -> Any | None:
        if self._away_because is not None:
            if self._clock() < self._probe_at:
                return None
            self._probe_at = self._clock() + PROBE_SECONDS
            # What was sent meanwhile is told first, so that nothing is granted on top of it.
            if not await self._tell_recent():
                return None
            self._away_because = None
            _log.info("%s: the shared quota is back", self._platform)
        return await self._run(script, keys, arguments)

    async def _run(self, script: Any, keys: Sequence[str], arguments: Sequence[str | int]) -> Any | None:
        limit = self._timeout if self._away_because is None else _PROBE_TIMEOUT
        try:
            return await _unbroken(script(keys=keys, args=arguments), limit)
        except _AWAY as error:
            self._note_away(error)
            return None

    def _note_away(self, error: BaseException) -> None:
        self._probe_at = self._clock() + PROBE_SECONDS
        if self._away_because is not None:
            return
        self._away_because = f"{type(error).__name__}: {error}" if str(error) else "no answer"
        _log.warning(
            "%s: the shared quota is away (%s); this process goes on with at most %d requests per %g s and client, "
            "backfill stops until Redis is back",
            self._platform,
            self._away_because,
            self._policy.local_share,
            self._policy.window_seconds,
        )

    async def _quietly(self, command: Callable[[], Awaitable[object]]) -> None:
        # What is lost here corrects itself: a grant not given back, or a mark not taken off, expires.
        if self._away_because is not None:
            return
        try:
            await _unbroken(command(), self._timeout)
        except _AWAY:
            _log.debug("%s: Redis did not answer", self._platform, exc_info=True)

    def _client_quota(self, client_id: str, row: Sequence[int]) -> ClientQuota:
        used, in_flight, wait_micros, granted, rejected, refreshing, foreign = row
        state = ClientState.refreshing if refreshing else ClientState.available
        if wait_micros > 0:
            state = ClientState.throttled
        return ClientQuota(
            client_id=client_id,
            state=state,
            used=used,
            remaining=0 if wait_micros > 0 else max(0, self._policy.usable - used - foreign),
            in_flight=in_flight,
            throttled_for_s=wait_micros / 1e6,
            granted_total=granted,
            rejected_total=rejected,
        )

    def _key(self, name: str) -> str:
        return f"cache_pipeline:quota:{{{self._platform}}}:{name}"

    def _log_of(self, client_id: str) -> str:
        return self._key(f"log:{client_id}")

    def _state_of(self, client_id: str) -> str:
        return self._key(f"state:{client_id}")

    def _refreshing_of(self, client_id: str) -> str:
        return self._key(f"refreshing:{client_id}")


async def _unbroken(command: Awaitable[T], limit: float) -> T:
    """Waits for a command; a caller who is cancelled leaves only once it has ended.

    A cancellation inside redis-py may be swallowed or break a connection that others share, and until the command has ended
    nobody can say what it did.

    Raises:
        TimeoutError: No answer within `limit` seconds.
    """

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await command

    running = asyncio.ensure_future(bounded())
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # Cancelled again while it waits here, as nested task groups do, it would leave the command behind after all.
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
