"""Overlapping queries fetch nothing twice, and separate queries do not wait for each other."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from cache_pipeline.errors import UpstreamJobOverdue
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.request_lane import current_priority
from cache_pipeline.storage.ports.ledger import JobHandle, LedgerRequest
from cache_pipeline.upstream.polling import GuideSchedule, JobPoller, PollPolicy
from cache_pipeline.vendors.base import VendorJob, VendorJobStatus
from cache_pipeline_tests.query.declared import with_changes
from cache_pipeline_tests.world import REPORT, OpenWorld, World, partitions_of

MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
#: No answer is doubted, so that none is split.
TRUSTING = with_changes(REPORT, expected_groups=1)
#: Every answer has too few rows, so that each is split.
DOUBTING = with_changes(REPORT, expected_groups=16)


def hours(first: int, last: int) -> Interval:
    return Interval(MONDAY.start + timedelta(hours=first), MONDAY.start + timedelta(hours=last))


async def check_answers(world: World, *intervals: Interval) -> None:
    answers = await asyncio.gather(*(world.service.answer(TRUSTING, each) for each in intervals))
    for interval, answer in zip(intervals, answers, strict=True):
        assert sorted(json.loads(answer.body)["rows"]) == await world.truth(TRUSTING, interval)


async def wait_for_submits(world: World, submits: int) -> None:
    while await world.submits() < submits:  # noqa: ASYNC110 - another process changes it
        await asyncio.sleep(0.05)


async def test_separate_hours_of_one_day_are_fetched_concurrently(open_world: OpenWorld):
    async with open_world(job_seconds_base=20.0) as world:
        query = asyncio.create_task(check_answers(world, *(hours(each, each + 1) for each in range(8))))
        # The clock is stopped, so none of them finishes before all have been sent.
        await asyncio.wait_for(wait_for_submits(world, 8), 30)
        world.clock.move(seconds=60)
        await query
        assert await world.submits() == 8


async def test_day_waits_for_its_hours_and_fetches_the_rest(open_world: OpenWorld):
    async with open_world(job_seconds_base=20.0) as world:
        first = asyncio.create_task(check_answers(world, hours(6, 8), hours(12, 13)))
        await asyncio.wait_for(wait_for_submits(world, 2), 30)
        day = asyncio.create_task(check_answers(world, MONDAY))
        inside = asyncio.create_task(check_answers(world, hours(7, 9)))
        await asyncio.sleep(0.3)
        assert await world.submits() == 2

        async def advance_clock() -> None:
            while True:
                await asyncio.sleep(0.1)
                world.clock.move(seconds=20)

        clock_task = asyncio.create_task(advance_clock())
        await asyncio.gather(first, day, inside)
        clock_task.cancel()
        with world.service.ledger._pool.connection() as connection:
            rows = connection.execute(
                "SELECT lower(interval), upper(interval) FROM cache_pipeline_state.upstream_query"
            )
            sent = [Interval(start, end) for start, end in rows.fetchall()]
        assert IntervalSet(sent) == IntervalSet([MONDAY])
        assert sum((each.length for each in sent), timedelta(0)) == MONDAY.length
        assert await world.submits() == len(sent)


async def test_abandoned_job_is_resumed_once_for_all_its_hours(
    open_world: OpenWorld,
):
    async with open_world() as world:
        async for _ in world.service.fetch(TRUSTING, {"monday": MONDAY}, Lane.scheduled):
            pass
        assert await world.submits() == 1
        await asyncio.wait_for(check_answers(world, *(hours(each, each + 2) for each in range(0, 12, 2))), 60)
        assert await world.submits() == 1
        series = world.service.series(TRUSTING)
        assert world.service.history.coverage(series).final == IntervalSet([MONDAY])


async def test_doubtful_answer_stored_elsewhere_is_not_split(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch):
    async with open_world() as world:
        service, platform = world.service, world.service.accounts["reportdata/main"]
        # Like a Dagster run, this stores verified rows later; until then its jobs may be read by others.
        fetching = service.fetch(DOUBTING, {"monday": MONDAY}, Lane.scheduled)
        verified = [each async for each in partitions_of(fetching)]
        submits, read = await world.submits(), platform.pages
        assert submits > 1

        async def pages(job, report):
            async for page in read(job, report):
                yield page
            await service.store(DOUBTING, verified)

        monkeypatch.setattr(platform, "pages", pages)
        answer = await service.answer(DOUBTING, MONDAY)
        assert sorted(json.loads(answer.body)["rows"]) == await world.truth(DOUBTING, MONDAY)
        assert await world.submits() == submits
        assert not service.ledger.open_by_state()


async def test_abandoned_job_at_a_known_limit_is_not_resumed(
    open_world: OpenWorld,
):
    async with open_world() as world:
        service, series = world.service, world.service.series(REPORT)
        await service.answer(REPORT, MONDAY)
        friday = Interval(MONDAY.start - timedelta(days=3), MONDAY.end - timedelta(days=3))
        for first in (0, 8):
            start = friday.start + timedelta(hours=first)
            await service.answer(REPORT, Interval(start, start + timedelta(hours=8)))
        with service.ledger._pool.connection() as connection:
            # The length at which the vendor truncates has become known.
            connection.execute(
                "UPDATE cache_pipeline_state.truncation_stats SET longest_complete = 99, shortest_truncated = 100, truncated_at = %s",
                [world.clock()],
            )
        request = LedgerRequest(series, friday, Lane.scheduled, world.clock(), friday.end)
        claim = service.ledger.claim(request)
        handle = JobHandle("abandoned-job", "demo-client")
        service.ledger.mark_submitted(claim, handle)
        service.ledger.release([replace(claim, handle=handle)])
        with service.ledger._pool.connection() as connection:
            before = connection.execute("SELECT max(id) FROM cache_pipeline_state.upstream_query").fetchone()
            answer = await asyncio.wait_for(service.answer(REPORT, friday), 60)
            rows = connection.execute(
                "SELECT lower(interval), upper(interval) FROM cache_pipeline_state.upstream_query WHERE id > %s", before
            ).fetchall()
        assert sorted(json.loads(answer.body)["rows"]) == await world.truth(REPORT, friday)
        missing = Interval(friday.start + timedelta(hours=16), friday.end)
        assert rows
        queried = [str(Interval(start, end)) for start, end in rows]
        assert all(missing.contains(Interval(start, end)) for start, end in rows), queried


@pytest.mark.parametrize("is_resumed", [False, True])
async def test_hanging_job_is_cancelled_and_submitted_again(open_world: OpenWorld, is_resumed: bool):
    async with open_world() as world:
        poller = JobPoller(
            PollPolicy.guide, guide=GuideSchedule(first_seconds=0.01, max_seconds=0.05), deadline_seconds=0.2
        )
        world.service = replace(world.service, job_pollers={"reportdata/main": poller})
        await world.faults(hang_jobs=1)
        if is_resumed:
            query = asyncio.create_task(world.service.answer(TRUSTING, MONDAY))
            await wait_for_submits(world, 1)
            await asyncio.sleep(0.1)
            # Its process dies, and the lease of the job expires.
            query.cancel()
            await asyncio.gather(query, return_exceptions=True)
            world.clock.move(seconds=60)
        with pytest.raises(UpstreamJobOverdue):
            await world.service.answer(TRUSTING, MONDAY)
        await check_answers(world, MONDAY)
        assert await world.submits() == 2
        assert not world.service.ledger.open_by_state()


@pytest.mark.parametrize("is_same_question", [True, False])
async def test_waiting_dashboard_raises_the_lane_of_a_backfill(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, *, is_same_question: bool
):
    lanes: list[Lane] = []
    async with open_world(job_seconds_base=20.0) as world:
        adapter = world.service.accounts["reportdata/main"]
        read_status = adapter.status

        async def status(job: VendorJob) -> VendorJobStatus:
            lanes.append(current_priority(job.lane).lane)
            return await read_status(job)

        monkeypatch.setattr(adapter, "status", status)
        backfill = asyncio.create_task(world.service.answer(TRUSTING, MONDAY, Lane.backfill))
        async with asyncio.timeout(30):
            while not lanes:  # noqa: ASYNC110 - another task changes it
                await asyncio.sleep(0.01)
        asked = MONDAY if is_same_question else hours(8, 10)
        dashboard = asyncio.create_task(world.service.answer(TRUSTING, asked, Lane.interactive))
        async with asyncio.timeout(30):
            while Lane.interactive not in lanes:  # noqa: ASYNC110 - another task changes it
                await asyncio.sleep(0.05)
        world.clock.move(seconds=60)
        await asyncio.wait_for(asyncio.gather(backfill, dashboard), 60)
        assert lanes[0] is Lane.backfill
        assert lanes[-1] is Lane.interactive
        assert await world.submits() == 1
