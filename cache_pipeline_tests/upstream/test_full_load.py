"""Four processes with three OAuth clients at full load, against a vendor that enforces its window to the instant."""

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
A_WINDOW = load.LIMIT * len(load.CLIENTS)


class Load:
    """Processes that are ready, the vendor's own count, and their begin."""

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

    async def until_answered(self, count: int, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while (await self.counters())["summary"]["polls"] < count:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)


@asynccontextmanager
async def loaded(redis_url: str, vendor: str) -> AsyncIterator[Load]:
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
                assert [process.returncode for process in processes] == [None] * PROCESSES, "none ended before its time"
            finally:
                for process in processes:
                    if process.returncode is None:
                        process.kill()
                    await process.communicate()


@pytest.mark.parametrize("vendor", load.APIS)
async def test_three_windows_at_full_load_see_no_429(redis_database: str, vendor: str):
    async with loaded(redis_database, vendor) as load_:
        load_.begin(*range(PROCESSES))
        await load_.until_answered(3 * A_WINDOW)
        counters = await load_.counters()
    assert counters["rejected_429"] == {}
    assert set(counters["logins"].values()) == {1}, "one login of each client for all processes"


@pytest.mark.parametrize(
    ("vendor", "busy_before"), [("tells nothing", (0, 1, 2, 3)), ("tells what remains", (0,))], ids=["all", "some"]
)
async def test_a_redis_that_comes_back_empty_costs_no_client_more_than_one_429(
    busy_before: tuple[int, ...], vendor: str
):
    server = Valkey()
    server.start()
    try:
        async with loaded(server.url, vendor) as load_:
            load_.begin(*busy_before)
            await load_.until_answered(round(1.4 * A_WINDOW))
            server.stop()
            server.start()
            load_.begin(*({*range(PROCESSES)} - {*busy_before}))
            await load_.until_answered(round(3.4 * A_WINDOW))
            counters = await load_.counters()
    finally:
        server.stop()
    assert all(count <= 1 for count in counters["rejected_429"].values()), counters["rejected_429"]
