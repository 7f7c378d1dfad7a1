"""Queries whose caller is cancelled while a request is being sent are recorded in the ledger and not sent again."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from cache_pipeline.fetch import upstream_jobs as jobs
from cache_pipeline.query.interval import Interval
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.answer import Answer
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.redis.single_flight import RedisSingleFlight
from cache_pipeline_tests.fetch.test_crashes import entries
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import REPORT, OpenWorld, World

#: A report of a vendor whose jobs can be cancelled.
CANCELLABLE = declared(
    platform="genesys",
    query_type="conversations",
    delivery="async",
    time_zone="UTC",
    group_by=["queueId"],
    metrics=["nOffered"],
    volume_metric="nOffered",
    expected_groups=8,
)
MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")


@asynccontextmanager
async def another_process(world: World) -> AsyncIterator[ReportService]:
    """Open a service that shares only the servers with the other, as another process would."""
    async with AsyncExitStack() as stack:
        single_flight = await stack.enter_async_context(RedisSingleFlight(world.redis, look_seconds=0.2))
        coalescer = await stack.enter_async_context(Coalescer())
        yield replace(world.service, single_flight=single_flight, coalescer=coalescer)


async def start_submit(world: World, seconds: float) -> "asyncio.Task[object]":
    """Start a query whose submit the vendor has accepted, and whose response takes `seconds`."""
    await world.faults(slow_bodies=1, slow_seconds=seconds)
    query = asyncio.create_task(world.service.answer(REPORT, MONDAY))
    async with asyncio.timeout(20):
        while await world.submits() == 0:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)
    return query


async def cancel(query: "asyncio.Task[object]", *, times: int = 1) -> None:
    """Cancel a query, possibly several times, as nested task groups do."""
    for _ in range(times):
        query.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await query


async def is_true(answer: Answer, world: World) -> bool:
    """Return whether the answer has the vendor's rows."""
    return sorted(json.loads(answer.body)["rows"]) == await world.truth(REPORT, MONDAY)


@pytest.mark.parametrize("times", [1, 5])
async def test_waiting_caller_resumes_the_cancelled_submit(open_world: OpenWorld, times: int):
    async with open_world() as world, another_process(world) as other:
        query = await start_submit(world, 1.0)
        successor = asyncio.create_task(other.answer(REPORT, MONDAY))
        await asyncio.sleep(0.2)
        await cancel(query, times=times)
        assert await is_true(await successor, world)
        assert [state for state, _ in entries(world)] == ["stored"]
        assert await world.submits() == 1


async def test_unanswered_submit_is_recorded_as_ambiguous(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "_SUBMIT_TIMEOUT_SECONDS", 0.2)
    async with open_world() as world, another_process(world) as other:
        await cancel(await start_submit(world, 2.0))
        assert entries(world) == [("ambiguous", True)]
        assert await is_true(await other.answer(REPORT, MONDAY), world)
        assert [state for state, _ in entries(world)] == ["lost", "stored"]


@pytest.mark.parametrize(
    ("has_other_requesters", "entry", "cancels"), [(False, ("abandoned", False), 1), (True, ("submitted", True), 0)]
)
async def test_cancelled_job_is_kept_only_for_other_requesters(
    open_world: OpenWorld, *, has_other_requesters: bool, entry: tuple[str, bool], cancels: int
):
    async with open_world(CANCELLABLE, job_seconds_base=3600.0) as world:
        service = replace(world.service, has_other_requesters=lambda: has_other_requesters)
        query = asyncio.create_task(service.answer(CANCELLABLE, MONDAY))
        async with asyncio.timeout(20):
            while ("submitted", True) not in entries(world):  # noqa: ASYNC110 - PostgreSQL sends no event
                await asyncio.sleep(0.02)
        await cancel(query)
        assert entries(world) == [entry]
        calls = (await world.admin.get("/simulator/counters")).json()["calls"]
        assert sum(call["count"] for call in calls if call["call"].startswith("DELETE")) == cancels
