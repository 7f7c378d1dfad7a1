"""`live`: what 40 wallboards of 60 queues cost the vendor in an hour, and how old their figures are.

Four services stand for four processes: each has its own connections and reads as a process with pages open does, twice a second, for its
ten wallboards. They share PostgreSQL, Redis and a simulated centre in its busiest hour, which runs in a process of its own. Peer: each
wallboard asks the vendor every five seconds, which needs no measuring.

Asking: an hour, thirty times as fast: lifetimes in Redis are a thirtieth, and the clocks of services and simulator run ahead. Push: two
minutes in real time, because its delays are not lifetimes; the requests of a connection, which lasts ten minutes, are counted six times.
The age is that of the answer that a wallboard reads, by its own `observedAt`.

Not measured: browsers, and the vendor's own delay before it reports a change.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.aio import run_in_background
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.service.live_answers import LiveAnswers
from cache_pipeline.service.live_push import LivePush
from cache_pipeline.settings import Settings, StandaloneSettings, VendorAccount
from cache_pipeline.simulator import SimulatorError, SimulatorSettings, running_simulator
from cache_pipeline.storage.answer import Answer
from cache_pipeline.storage.ports.hot import HotEntry, HotTier
from cache_pipeline.upstream.http import httpx

_PROCESSES, _WALLBOARDS, _QUEUES, _PEER_SECONDS = 4, 40, 60, 5
_SCALE, _HOUR, _PUSH_SECONDS, _CONNECTIONS_PER_HOUR = 30, 3600.0, 120.0, 6
_READ_SECONDS = 0.5
_BUSY = datetime(2026, 1, 6, 9, 30, tzinfo=UTC)
_TENANT = "default"
_REPORT = LiveReport.model_validate(
    {
        "name": "queue_now",
        "description": "Now",
        "platform": "genesys",
        "query_type": "queueObservations",
        "group_by": ["queueId"],
        "metrics": ["oWaiting", "oLongestWaiting", "oInteracting", "oMemberUsers", "oUserRoutingStatuses"],
    }
)


class _FastClock:
    """A clock that runs so many times as fast, from a busy hour on."""

    def __init__(self, scale: int) -> None:
        self._scale, self._started = scale, time.monotonic()

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return _BUSY.timestamp() + (time.monotonic() - self._started) * self._scale

    def utc(self) -> datetime:
        """Return the same as an instant."""
        return datetime.fromtimestamp(self.now(), UTC)


@dataclass(frozen=True)
class _FastHotTier:
    """A hot tier whose lifetimes are as much shorter as the clock is faster."""

    hot: HotTier
    scale: int

    async def get_entry(self, key: str) -> HotEntry | None:
        return await self.hot.get_entry(key)

    async def put_for(self, key: str, answer: Answer, life: timedelta, cost: float = 0.0) -> None:
        await self.hot.put_for(key, answer, life / self.scale, cost)


@dataclass(frozen=True)
class _Measured:
    calls: int
    ages: Sequence[float]

    @property
    def p95(self) -> float:
        """The age in seconds that 95 of 100 answers do not exceed."""
        return sorted(self.ages)[int(0.95 * (len(self.ages) - 1))]


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A server does not start, or nothing was read.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder) / "servers") as servers:
            progress("an hour of asking, thirty times as fast")
            redis_url = SecretStr(servers.redis_url)
            postgres_url = SecretStr(servers.postgres_url)
            asking = _run(postgres_url, redis_url, _SCALE, _HOUR / _SCALE, push=False)
            progress("two minutes of push")
            pushed = _run(postgres_url, redis_url, 1, _PUSH_SECONDS, push=True)
    except (EmbeddedServerError, SimulatorError) as error:
        raise BenchmarkError(str(error)) from error
    peer = {f"each every {_PEER_SECONDS} s": _WALLBOARDS * _HOUR / _PEER_SECONDS}
    what = f"{_WALLBOARDS} wallboards of {_QUEUES} queues"
    pushed_calls = pushed.calls * _CONNECTIONS_PER_HOUR
    return Result(
        "live",
        (
            Row(
                f"{what}: vendor requests in an hour, asking",
                asking.calls,
                "requests",
                peer,
                target=Target("ratio", "<=", 0.01),
            ),
            Row("age of what they read, asking (95th percentile)", asking.p95, "s", target=Target("ours", "<=", 30)),
            Row(
                f"{what}: vendor requests in an hour, push",
                pushed_calls,
                "requests",
                peer,
                target=Target("ratio", "<=", 0.01),
            ),
            Row("age of what they read, push (95th percentile)", pushed.p95, "s", target=Target("ours", "<=", 2)),
        ),
    )


def _run(postgres_url: SecretStr, redis_url: SecretStr, scale: int, seconds: float, *, push: bool) -> _Measured:
    clock = _FastClock(scale)
    settings = SimulatorSettings(queues=_QUEUES, agents=300, conversations_per_working_day=20_000)
    with running_simulator(settings, clock=clock) as url:
        return asyncio.run(_measure(_deployment(postgres_url, redis_url, url), url, clock, scale, seconds, push=push))


async def _measure(
    settings: Settings, url: str, clock: _FastClock, scale: int, seconds: float, *, push: bool
) -> _Measured:
    await asyncio.to_thread(migrate_history, settings, {})
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(_service(settings, clock, scale)) for _ in range(_PROCESSES)]
        admin = await stack.enter_async_context(httpx.AsyncClient(base_url=url))
        # Log in and read the ids before the hour begins.
        await services[0].ask(_REPORT, _TENANT)
        await asyncio.sleep(0)
        await admin.delete("/simulator/counters")
        ages: list[float] = []
        followers = [LivePush(each, _REPORT, _TENANT).run() for each in services] if push else []
        async with run_in_background(*followers):
            if push:
                await asyncio.sleep(3)
            ends_at = time.monotonic() + seconds
            await asyncio.gather(*(_read(each, clock, scale, ends_at, ages) for each in services))
        calls = (await admin.get("/simulator/counters")).json()["summary"]["requests"]
    if not ages:
        raise BenchmarkError("no wallboard has read anything")
    return _Measured(calls, ages)


@asynccontextmanager
async def _service(settings: Settings, clock: _FastClock, scale: int) -> AsyncGenerator[LiveAnswers]:
    async with open_service(settings) as service:
        if service.live is None:
            raise BenchmarkError("the service has no live reports")
        yield replace(service.live, clock=clock.utc, hot=_FastHotTier(service.live.hot, scale))  # pyright: ignore[reportArgumentType]


async def _read(live: LiveAnswers, clock: _FastClock, scale: int, ends_at: float, ages: list[float]) -> None:
    """Read as a process does for its wallboards, until the end."""
    while time.monotonic() < ends_at:
        answer, _ = await live.answer(_REPORT, _TENANT)
        observed_at = answer.completeness.fetched_at
        if observed_at is not None:
            ages.append((clock.utc() - observed_at).total_seconds())
        await asyncio.sleep(_READ_SECONDS / scale)


def _deployment(postgres_url: SecretStr, redis_url: SecretStr, vendor_url: str) -> Settings:
    account = VendorAccount.model_validate(
        {
            "base_url": vendor_url,
            "login_url": f"{vendor_url}/oauth/token",
            "clients": [{"client_id": "demo-client", "client_secret": "demo-secret"}],
        }
    )
    return StandaloneSettings(postgres_url=postgres_url, redis_url=redis_url, accounts={"genesys": {"main": account}})
