"""The quota's scripts in Redis: their keys, their arguments, and whether Redis is there at all."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import redis.asyncio

from cache_pipeline.upstream.quota.local_share import RecentGrants
from cache_pipeline.upstream.quota.model import ClientQuota, ClientState, Grant, QuotaPolicy
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.upstream.redis_scripts import AWAY, read_scripts, text_of, unbroken

_log = logging.getLogger(__name__)

# Wheel, throttle and counters are forgotten after a day without traffic; by then they say nothing any more.
_IDLE_SECONDS = 86_400.0
# Counters of answers by their class, in a client's state.
_ANSWERED = "answered:"
# An absent Redis is tried again this often, by one caller, who waits only so long.
PROBE_SECONDS = 1.0
_PROBE_TIMEOUT = 0.25


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
        alone: Hears from when on Redis grants nothing to anybody.
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
        recent: Callable[[], Sequence[RecentGrants]],
        alone: Callable[[float], None],
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._platform = platform
        self._clients = dict(clients)
        self._policy = policy
        self._recent = recent
        self._alone = alone
        self._timeout = timeout
        self._clock = clock
        self._generation = ""
        self._away_because: str | None = None
        self._probe_at = 0.0
        self._keys = UpstreamKeys(platform)
        self._scripts = read_scripts(redis, "cache_pipeline.upstream.quota")

    @property
    def away_because(self) -> str | None:
        """Why Redis is away; None while it is there."""
        return self._away_because

    async def take(self, candidates: Sequence[str], slots: int, grant_id: str) -> Grant | float | None:
        """Gives a grant of one of the candidates, or the seconds until the next could come."""
        keys = [self._keys.wheel, self._keys.generation, self._keys.careful]
        for client_id in candidates:
            keys += [self._keys.log(client_id), self._keys.state(client_id)]
        fixed = [
            _micros(self._policy.guarded_window_seconds),
            _micros(self._policy.in_flight_seconds),
            slots,
            _micros(_IDLE_SECONDS),
            *(self._clients[client_id] for client_id in candidates),
        ]
        while True:
            answer = await self._call("take", keys, [grant_id, self._generation, *fixed])
            if answer is None:
                return None
            verdict, generation = text_of(answer[0]), text_of(answer[-1])
            if verdict != "restore":
                self._generation = generation
                return int(answer[1]) / 1e6 if verdict == "wait" else Grant(candidates[int(answer[1]) - 1], grant_id)
            # Only once it is told may the new generation be believed; else the next ask finds Redis away.
            if await self._tell_recent():
                self._generation = generation

    async def settle(
        self, grant: Grant, *, remaining: int | None, retry_after: float | None, rejected: bool, answer: str
    ) -> None:
        """Passes on what the answer to a granted request said, and counts it under the class `answer`."""
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
            _ANSWERED + answer,
        ]
        keys = [self._keys.log(grant.client_id), self._keys.state(grant.client_id), self._keys.careful]
        await self._call("settle", keys, arguments)

    async def forget(self, grant_id: str, candidates: Sequence[str]) -> None:
        """Takes a grant off the candidates' logs. Lost where Redis is away: the slot frees itself in the end."""

        async def remove() -> None:
            for client_id in candidates:
                await self._redis.zrem(self._keys.log(client_id), grant_id)

        await self._quietly(remove)

    async def snapshot(self) -> list[ClientQuota] | None:
        """Reads every client's quota at one moment."""
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
        arguments = [_micros(self._policy.guarded_window_seconds), self._policy.usable]
        answer = await self._call("snapshot", keys, arguments)
        if answer is None:
            return None
        return [
            _client_quota(client_id, row, self._policy) for client_id, row in zip(self._clients, answer, strict=True)
        ]

    async def _tell_recent(self) -> bool:
        numbers = {client_id: number for number, client_id in enumerate(self._clients, start=1)}
        keep = 2 * (self._policy.guarded_window_seconds + self._policy.in_flight_seconds)
        arguments: list[str | int] = [
            _micros(self._policy.guarded_window_seconds),
            _micros(keep),
            _micros(_IDLE_SECONDS),
        ]
        for entry in self._recent():
            arguments += [numbers[entry.client_id], entry.grant_id, _micros(entry.age_seconds)]
        keys = [self._keys.careful]
        for client_id in self._clients:
            keys += [self._keys.log(client_id), self._keys.state(client_id)]
        return await self._run("restore", keys, arguments) is not None

    async def _call(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any | None:
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

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any | None:
        limit = self._timeout if self._away_because is None else _PROBE_TIMEOUT
        try:
            return await unbroken(self._scripts[script](keys=keys, args=arguments), limit)
        except AWAY as error:
            self._note_away(error)
            return None

    def _note_away(self, error: BaseException) -> None:
        now = self._clock()
        self._probe_at = now + PROBE_SECONDS
        if self._away_because is not None:
            return
        self._away_because = f"{type(error).__name__}: {error}" if str(error) else "no answer"
        # Until now others may have been granted all there was.
        self._alone(now)
        _log.warning(
            "%s: the shared quota is away (%s); this process sends nothing for %.0f s, then at most %d requests per %g s and "
            "client; backfill stops until Redis is back",
            self._platform,
            self._away_because,
            self._policy.guarded_window_seconds,
            self._policy.local_share,
            self._policy.window_seconds,
        )

    async def _quietly(self, command: Callable[[], Awaitable[object]]) -> None:
        # What is lost here corrects itself: a grant not given back, or a mark not taken off, expires.
        if self._away_because is not None:
            return
        try:
            await unbroken(command(), self._timeout)
        except AWAY:
            _log.debug("%s: Redis did not answer", self._platform, exc_info=True)


def _client_quota(client_id: str, row: Sequence[Any], policy: QuotaPolicy) -> ClientQuota:
    used, in_flight, wait_micros, foreign, token_left, token_life, renewing, refused = (int(value) for value in row[:8])
    flat = [text_of(each) for each in row[8]]
    counters = dict(zip(flat[::2], flat[1::2], strict=True))
    if wait_micros > 0:
        state = ClientState.throttled
    elif refused and token_left <= 0:
        state = ClientState.refused
    else:
        state = ClientState.refreshing if renewing else ClientState.available
    return ClientQuota(
        client_id=client_id,
        state=state,
        used=used,
        remaining=0 if wait_micros > 0 else max(0, policy.usable - used - foreign),
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
        token_age_s=(token_life - token_left) / 1e3 if token_left > 0 else None,
        token_life_s=token_life / 1e3 if token_left > 0 else None,
        login_refused=bool(refused),
    )


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
