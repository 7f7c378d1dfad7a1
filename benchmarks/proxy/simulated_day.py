"""A day of ten scripts through the service, on a clock that stands still at each request and then moves on to the next.

Scripts, API, worker, PostgreSQL, Redis and the simulated vendor are real; API, worker and vendor run in this process and share the
clock. What is kept for a time of the machine's own clock (answers in Redis, the outcomes of jobs) ages by as much as the clock moves on.
"""

import asyncio
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
import uvicorn
from redis import Redis

from benchmarks.api.benchmark import create_key, deployment
from benchmarks.proxy.day import DAY, count_scripts, least_calls, requests
from benchmarks.proxy.scripts import running_script
from benchmarks.result import BenchmarkError, Row, Target
from cache_pipeline.api.app import create_app
from cache_pipeline.api.jobs.worker_process import run_worker
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.settings import Settings
from cache_pipeline.simulator import SimulatorSettings, running_simulator

_START_SECONDS = 30.0
_AGE_JOBS = "UPDATE cache_pipeline_state.job SET finished_at = finished_at - %s WHERE finished_at IS NOT NULL"


class _SteppedClock:
    """A clock that stands still until it is moved."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return self.at.timestamp()

    def utc(self) -> datetime:
        """Return the same as an instant."""
        return self.at


def measure_day(folder: Path, straight: str) -> Row:
    """Run the day with empty stores and return the vendor calls that it took.

    Args:
        folder: A folder that has `reports`.
        straight: The name of the peer, which sends each request to the vendor.

    Raises:
        BenchmarkError: A request was refused, or fewer calls were sent than the least possible, so one of the two is wrong.
    """
    clock, asked = _SteppedClock(DAY), requests()
    simulated = SimulatorSettings(
        genesys_rate_limit=1_000_000, conversations_per_working_day=3000, token_lifetime_seconds=10_000_000
    )
    with ExitStack() as stack:
        stores = stack.enter_context(embedded_servers(folder / "day-servers"))
        vendor = stack.enter_context(running_simulator(simulated, clock=clock))
        settings = deployment(stores.postgres_url, stores.redis_url, vendor, folder, "genesys")
        migrate_history(settings, load_reports(settings))
        prefix, key_id, secret = create_key(settings).split("_", 2)
        host = {"url": stack.enter_context(_service(settings, clock)), "id": f"{prefix}_{key_id}", "secret": secret}
        scripts = [stack.enter_context(running_script(host, folder)) for _ in range(count_scripts())]
        redis = stack.enter_context(Redis.from_url(settings.required_redis_url()))
        database = stack.enter_context(psycopg.connect(settings.required_postgres_url(), autocommit=True))
        for request in asked:
            if request.at > clock.at:
                _age(redis, database, request.at - clock.at)
                clock.at = request.at
            answer = scripts[request.script].call(request.method, request.body)
            if answer.status != 200:
                raise BenchmarkError(f"script {request.script} was answered {answer.status} at {request.at:%H:%M:%S}")
        calls = httpx.get(f"{vendor}/simulator/counters").json()["summary"]["requests"]
    least = least_calls(asked)
    if calls < least:
        raise BenchmarkError(f"{calls} calls were sent, but {least} are the least possible")
    return Row(
        f"a day of {count_scripts()} scripts, {len(asked)} requests: calls of the vendor",
        calls,
        "calls",
        {straight: len(asked)},
        least,
        Target("ratio", "<=", 1.05),
    )


def _age(redis: Redis, database: psycopg.Connection, by: timedelta) -> None:
    """Let what is kept for a time of the machine's own clock get older."""
    milliseconds = int(by / timedelta(milliseconds=1))
    for key in cast("list[bytes]", redis.keys("analytics:*")):
        left = redis.pttl(key) - milliseconds
        if left > 0:
            redis.pexpire(key, left)
        else:
            redis.delete(key)
    database.execute(_AGE_JOBS, [by])


@contextmanager
def _service(settings: Settings, clock: _SteppedClock) -> Generator[str]:
    """Run the API and a worker in a thread while the block lasts, and yield the URL."""
    started, stopped = threading.Event(), threading.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        server = uvicorn.Server(
            uvicorn.Config(create_app(settings, clock=clock.utc), port=0, log_level="error", access_log=False)
        )
        stop = asyncio.Event()
        working = asyncio.create_task(run_worker(settings, stop, lambda _name: None, clock=clock.utc))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        state["port"] = server.servers[0].sockets[0].getsockname()[1]
        started.set()
        await asyncio.to_thread(stopped.wait)
        stop.set()
        await working
        server.should_exit = True
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="service", daemon=True)
    thread.start()
    if not started.wait(_START_SECONDS):
        raise BenchmarkError("the API did not start; see its output above")
    try:
        yield f"http://127.0.0.1:{state['port']}"
    finally:
        stopped.set()
        thread.join()
