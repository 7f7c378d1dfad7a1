"""Four processes with three OAuth clients at full load, against a vendor that enforces its window exactly."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from cache_pipeline.simulator import running_simulator
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.http import httpx
from cache_pipeline_tests.upstream import load
from cache_pipeline_tests.upstream.vendor import Valkey

pytestmark = pytest.mark.serial

PROCESSES = 4
REQUESTS_PER_WINDOW = load.LIMIT * len(load.CLIENTS)


class Load:
    """Processes that are ready to begin, and the vendor's own counters."""

    def __init__(self, processes: list[asyncio.subprocess.Process], admin: httpx.AsyncClient) -> None:
        self.processes = processes
        self.admin = admin

    def begin(self, *numbers: int) -> None:
        for number in numbers:
            pipe = self.processes[number].stdin
            assert pipe is not None
            pipe.write(b"go\n")

    async def counters(self) -> dict[str, Any]:
        return (await self.admin.get("/simulator/counters")).json()

    async def wait_until_answered(self, count: int, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while (await self.counters())["summary"]["polls"] < count:  # noqa: ASYNC110 - the simulator sends no event
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running_load(redis_url: str, vendor: str) -> AsyncIterator[Load]:
    with running_simulator(load.VENDOR) as url:
        async with httpx.AsyncClient(base_url=url) as admin, redis.asyncio.Redis.from_url(redis_url) as shared:
            api = load.APIS[vendor]
            async with create_upstream_client(load.config(url, api), shared) as client:
                submitted = await client.post(api.submit, json=api.body)
                path = f"{api.job}/{submitted.json()[api.id_field]}"
            processes = [
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    load.__name__,
                    url,
                    redis_url,
                    path,
                    "20",
                    vendor,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                for _ in range(PROCESSES)
            ]
            try:
                for process in processes:
                    assert process.stdout is not None
                    assert await process.stdout.readline() == b"ready\n"
                yield Load(processes, admin)
                assert [process.returncode for process in processes] == [None] * PROCESSES, "no process ended early"
            finally:
                for process in processes:
                    if process.returncode is None:
                        process.kill()
                    await process.communicate()


@pytest.mark.parametrize("vendor", load.APIS)
async def test_full_load_gets_no_429_in_three_windows(redis_database: str, vendor: str):
    async with running_load(redis_database, vendor) as running:
        running.begin(*range(PROCESSES))
        await running.wait_until_answered(3 * REQUESTS_PER_WINDOW)
        counters = await running.counters()
    assert counters["rejected_429"] == {}
    assert set(counters["logins"].values()) == {1}, "each client logs in once for all processes"


@pytest.mark.parametrize(
    ("vendor", "busy_before"), [("reports nothing", (0, 1, 2, 3)), ("reports remaining", (0,))], ids=["all", "some"]
)
async def test_emptied_redis_causes_at_most_one_429_per_client(busy_before: tuple[int, ...], vendor: str):
    server = Valkey()
    server.start()
    try:
        async with running_load(server.url, vendor) as running:
            running.begin(*busy_before)
            await running.wait_until_answered(round(1.4 * REQUESTS_PER_WINDOW))
            server.stop()
            server.start()
            running.begin(*({*range(PROCESSES)} - {*busy_before}))
            await running.wait_until_answered(round(3.4 * REQUESTS_PER_WINDOW))
            counters = await running.counters()
    finally:
        server.stop()
    assert all(count <= 1 for count in counters["rejected_429"].values()), counters["rejected_429"]
