"""A query whose caller goes away while it is on the wire: the ledger knows what became of it, and nobody sends it again."""

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
from cache_pipeline.storage.redis.single_flight import SingleFlight
from cache_pipeline_tests.fetch.test_crashes import entries
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import REPORT, OpenWorld, World

#: Its vendor's jobs can be given up.
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
    """As far as the engine goes: nothing is shared but the servers."""
    async with AsyncExitStack() as stack:
        flights = await stack.enter_async_context(SingleFlight(world.service.redis, look_seconds=0.2))
        sharing = await stack.enter_async_context(Coalescer())
        yield replace(world.service, single_flight=flights, coalescer=sharing)


async def submitting(world: World, seconds: float) -> "asyncio.Task[object]":
    """A question whose submit the vendor has taken, and whose answer is on its way for so long."""
    await world.faults(slow_bodies=1, slow_seconds=seconds)
    asking = asyncio.create_task(world.service.answer(REPORT, MONDAY))
    async with asyncio.timeout(20):
        while await world.submits() == 0:  # noqa: ASYNC110 - the vendor's doing
            await asyncio.sleep(0.02)
    return asking


async def gone(asking: "asyncio.Task[object]", *, times: int = 1) -> None:
    """Cancel a question, as nested task groups and impatient callers do: more than once."""
    for _ in range(times):
        asking.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await asking


async def truly(answer: Answer, world: World) -> bool:
    """Whether it says what the vendor knows."""
    return sorted(json.loads(answer.body)["rows"]) == await world.truth(REPORT, MONDAY)


@pytest.mark.parametrize("times", [1, 5])
async def test_whoever_waits_reads_what_was_on_the_wire_and_sends_nothing(open_world: OpenWorld, times: int):
    async with open_world() as world, another_process(world) as other:
        asking = await submitting(world, 1.0)
        successor = asyncio.create_task(other.answer(REPORT, MONDAY))
        await asyncio.sleep(0.2)
        await gone(asking, times=times)
        assert await truly(await successor, world)
        assert [state for state, _ in entries(world)] == ["stored"]
        assert await world.submits() == 1


async def test_a_submit_that_is_not_answered_in_time_stands_in_the_ledger_as_one_of_which_nobody_knows(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "_SUBMIT_TIMEOUT_SECONDS", 0.2)
    async with open_world() as world, another_process(world) as other:
        await gone(await submitting(world, 2.0))
        assert entries(world) == [("ambiguous", True)]
        assert await truly(await other.answer(REPORT, MONDAY), world)
        assert [state for state, _ in entries(world)] == ["lost", "stored"]


@pytest.mark.parametrize(
    ("has_other_requesters", "entry", "given_up"), [(False, ("abandoned", False), 1), (True, ("submitted", True), 0)]
)
async def test_a_vendors_job_is_given_up_where_nobody_wants_it_and_left_where_somebody_goes_on(
    open_world: OpenWorld, *, has_other_requesters: bool, entry: tuple[str, bool], given_up: int
):
    async with open_world(CANCELLABLE, job_seconds_base=3600.0) as world:
        service = replace(world.service, has_other_requesters=lambda: has_other_requesters)
        asking = asyncio.create_task(service.answer(CANCELLABLE, MONDAY))
        async with asyncio.timeout(20):
            while ("submitted", True) not in entries(world):  # noqa: ASYNC110 - PostgreSQL tells nobody
                await asyncio.sleep(0.02)
        await gone(asking)
        assert entries(world) == [entry]
        calls = (await world.admin.get("/simulator/counters")).json()["calls"]
        assert sum(call["count"] for call in calls if call["call"].startswith("DELETE")) == given_up
