"""Tests of the report service from query to answer, with real stores and the simulated vendor."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cache_pipeline.errors import InvalidInterval, PlatformNotConfigured, SchemaMismatch, UpstreamJobFailed
from cache_pipeline.fetch.chunk_states import IncompleteAnswer
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.query.completeness import ChunkResult, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import NOON, REPORT, OpenWorld, World, partitions_of

HOUR = timedelta(hours=1)
#: Monday the fifth, final at noon on Tuesday.
MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
MORNING = Interval.parse("2026-01-05T06:00:00Z/2026-01-05T12:00:00Z")
TODAY = Interval.parse("2026-01-06T00:00:00Z/2026-01-07T00:00:00Z")


async def rows_of(world: World, interval: Interval, report: Report = REPORT) -> list[Any]:
    document = json.loads((await world.service.answer(report, interval)).body)
    return sorted(document["rows"])


async def test_answer_is_true_and_marked_complete(open_world: OpenWorld):
    async with open_world() as world:
        answer = await world.service.answer(REPORT, MONDAY)
        document = json.loads(answer.body)
        assert sorted(document["rows"]) == await world.truth(REPORT, MONDAY)
        assert len(document["rows"]) > 100
        assert document["completeThrough"] == "2026-01-06T00:00:00Z"
        assert document["provisionalFrom"] is None
        assert document["fetchedAt"] == "2026-01-06T12:00:00Z"
        assert await world.submits() == 1


@pytest.mark.parametrize("granularity", ["PT15M", "P1D"])
async def test_days_are_true_across_a_dst_change(open_world: OpenWorld, granularity: str):
    report = declared(
        group_by=["queueId", "mediaType"], metrics=["offered"], granularity=granularity, max_query_interval="P1W"
    )
    spring = Interval.parse("2025-03-29/2025-03-31", report.zone)
    async with open_world(report) as world:
        assert await rows_of(world, spring, report) == await world.truth(report, spring)


async def test_repeated_query_is_answered_from_hot(open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch):
    async with open_world() as world:
        first = await world.service.answer(REPORT, MORNING)
        monkeypatch.setattr(type(world.service.history), "coverage", None)
        assert await world.service.answer(REPORT, MORNING) == first
        assert await world.submits() == 1


async def test_history_answers_and_refills_an_empty_hot_tier(open_world: OpenWorld):
    async with open_world() as world:
        first = await world.service.answer(REPORT, MORNING)
        await world.redis.flushall()
        assert await world.service.answer(REPORT, MORNING) == first
        assert [key for key in await world.redis.keys() if key.startswith(b"analytics:queue-performance:")]
        assert await world.submits() == 1


async def test_longer_interval_fetches_only_the_new_part(open_world: OpenWorld):
    heard: list[ChunkResult] = []
    async with open_world() as world:
        await rows_of(world, MORNING)
        wider = Interval(MORNING.start - 2 * HOUR, MORNING.end + 3 * HOUR)
        async for event in world.service.fetch(REPORT, {"wider": wider}, Lane.interactive):
            heard += [event] if isinstance(event, ChunkResult) else []
        assert sorted(chunk.interval for chunk in heard) == [
            Interval(wider.start, MORNING.start),
            Interval(MORNING.end, wider.end),
        ]
        assert await rows_of(world, wider) == await world.truth(REPORT, wider)
        assert await rows_of(world, Interval(wider.start, MORNING.end)) == await world.truth(
            REPORT, Interval(wider.start, MORNING.end)
        )
        # What was fetched but not stored yet is read again from the vendor, not submitted again.
        assert await world.submits() == 1 + 2


async def test_twenty_concurrent_callers_send_one_query(open_world: OpenWorld):
    """G20."""
    async with open_world(job_seconds_base=0.0) as world:
        answers = await asyncio.gather(*(world.service.answer(REPORT, MONDAY) for _ in range(20)))
        assert len({answer.etag for answer in answers}) == 1
        assert await world.submits() == 1


async def test_failed_job_stores_nothing_and_can_be_retried(open_world: OpenWorld):
    async with open_world() as world:
        await world.faults(fail_jobs_touching=str(MORNING))
        with pytest.raises(UpstreamJobFailed, match="fault on demand"):
            await world.service.answer(REPORT, MORNING)
        assert world.service.history.coverage(world.service.series(REPORT)) == Coverage()
        assert await world.redis.keys("analytics:queue-performance:*") == []
        await world.faults()
        assert await rows_of(world, MORNING) == await world.truth(REPORT, MORNING)


class _Wider(ReportDataAdapter):
    """The same vendor, but with a declared column that it does not send."""

    @staticmethod
    def columns(report: Report) -> tuple[Column, ...]:
        return (*ReportDataAdapter.columns(report), Column("unheard_of", ColumnKind.integer))


async def test_rows_of_another_schema_are_refused(open_world: OpenWorld):
    """G12."""
    async with open_world() as world:
        platform = world.service.accounts["reportdata/main"]
        assert isinstance(platform, ReportDataAdapter)
        service = replace(world.service, accounts={"reportdata/main": _Wider(platform._client)})
        with pytest.raises(SchemaMismatch, match="lacks \\['unheard_of'\\]"):
            await anext(fetch_morning(service))
        assert service.history.coverage(service.series(REPORT)) == Coverage()


async def fetch_morning(service: Any):
    async for partition in partitions_of(service.fetch(REPORT, {"morning": MORNING}, Lane.interactive, refetch=True)):
        assert isinstance(partition, FailedPartition)
        raise partition.error
        yield


@pytest.mark.parametrize("refetch", [False, True])
async def test_future_interval_is_refused(open_world: OpenWorld, refetch: bool):
    future = Interval(NOON + HOUR, NOON + 5 * HOUR)
    async with open_world() as world:
        with pytest.raises(InvalidInterval, match="has not started yet"):
            await world.service.answer(REPORT, future)
        wanted = {"future": future, "morning": MORNING}
        found = {
            p.key: p async for p in partitions_of(world.service.fetch(REPORT, wanted, Lane.scheduled, refetch=refetch))
        }
        assert isinstance(found["future"], FailedPartition)
        assert isinstance(found["future"].error, InvalidInterval)
        assert isinstance(found["morning"], FetchedPartition)


@pytest.mark.parametrize("refetch", [False, True])
async def test_interval_beyond_retention_is_refused_unless_stored(open_world: OpenWorld, refetch: bool):
    """Its empty answer would look like a quiet day and overwrite stored rows."""
    longer = Interval(MORNING.start - 2 * HOUR, MORNING.end)
    async with open_world() as world:
        await world.fetch_and_store(MORNING)
        asked = await world.submits()
        forgetful = replace(world.service, retention={"reportdata/main": NOON - MORNING.start - timedelta(minutes=90)})
        assert (await forgetful.answer(REPORT, MORNING)).completeness.complete_through == MORNING.end
        message = (
            "queue_hour 2026-01-05T04:00:00Z/2026-01-05T06:00:00Z is not stored, and reportdata keeps nothing from before "
            "2026-01-05T07:30:00Z (CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN__RETENTION_DAYS): ask from 2026-01-05T08:00:00Z on"
        )
        query = forgetful.query(REPORT, longer)
        for refused in (forgetful.answer_query(query), forgetful.cached_answers.lookup(query), forgetful.plan(query)):
            with pytest.raises(InvalidInterval) as error:
                await refused
            assert str(error.value) == message
        wanted = {"old": longer, "held": MORNING, "new": Interval(MORNING.end, MORNING.end + HOUR)}
        found = {
            p.key: p async for p in partitions_of(forgetful.fetch(REPORT, wanted, Lane.scheduled, refetch=refetch))
        }
        kinds = {key: type(each) for key, each in found.items()}
        held = FailedPartition if refetch else FetchedPartition
        assert kinds == {"old": FailedPartition, "held": held, "new": FetchedPartition}
        assert await world.submits() == asked + 1


async def test_unaligned_interval_is_refused_before_any_request(open_world: OpenWorld):
    cut = Interval(MORNING.start, MORNING.end + timedelta(minutes=10))
    async with open_world() as world:
        with pytest.raises(InvalidInterval, match="ask for 2026-01-05T06:00:00Z/2026-01-05T13:00:00Z"):
            await world.service.answer(REPORT, cut)
        assert await world.submits() == 0


async def test_missing_account_error_names_its_settings(open_world: OpenWorld):
    async with open_world() as world:
        with pytest.raises(PlatformNotConfigured, match="CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN"):
            await world.service.answer(REPORT.model_copy(update={"platform": "genesys"}), MORNING)


async def test_sparse_night_is_verified_only_once(open_world: OpenWorld):
    """The declaration expects too many rows of a Sunday; the next Sunday is compared with it."""
    night = Interval.parse("2025-12-28T00:00:00Z/2025-12-28T06:00:00Z")
    async with open_world() as world:
        [chunk] = await world.fetch_and_store(night)
        assert chunk.verdict is Verdict.sparse
        assert chunk.got < 0.8 * chunk.expected
        before = await world.submits()
        next_week = Interval(night.start + timedelta(days=7), night.end + timedelta(days=7))
        heard = await world.fetch_and_store(next_week)
        assert {each.source for each in heard} == {"history"}
        assert await world.submits() - before <= 3
        for interval in (night, next_week):
            assert await rows_of(world, interval) == await world.truth(REPORT, interval)


async def test_silently_truncated_answer_is_assembled_from_parts(open_world: OpenWorld):
    """G13 and G22, for a lost tail."""
    async with open_world(reportdata_max_rows=90) as world:
        heard = await world.fetch_and_store(MONDAY)
        assert heard[0].verdict is Verdict.truncated
        assert await rows_of(world, MONDAY) == await world.truth(REPORT, MONDAY)


async def test_incomplete_bucket_is_never_stored(open_world: OpenWorld):
    async with open_world() as world:
        await world.faults(max_rows=3)
        with pytest.raises(IncompleteAnswer, match="even for a single bucket"):
            await world.service.answer(REPORT, MORNING)
        assert world.service.history.coverage(world.service.series(REPORT)) == Coverage()


async def test_provisional_tail_is_refetched_only_when_stale(open_world: OpenWorld):
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=8, ttl="PT5M")
    async with open_world(report) as world:
        world.clock.move(minutes=30)
        first = await world.service.answer(report, TODAY)
        document = json.loads(first.body)
        assert document["interval"] == "2026-01-06T00:00:00Z/2026-01-06T13:00:00Z"
        assert document["completeThrough"] == document["provisionalFrom"] == "2026-01-06T12:00:00Z"
        assert document["fetchedAt"] == "2026-01-06T12:30:00Z"
        before = await world.submits()

        world.clock.move(minutes=4)
        await world.redis.flushall()
        assert (await world.service.answer(report, TODAY)).body == first.body
        assert await world.submits() == before

        world.clock.move(minutes=2)
        await world.redis.flushall()
        later = json.loads((await world.service.answer(report, TODAY)).body)
        assert await world.submits() == before + 1
        assert later["fetchedAt"] == "2026-01-06T12:36:00Z"
        offered = [sum(row[-1] for row in each["rows"]) for each in (document, later)]
        assert offered[1] > offered[0]

        world.clock.move(minutes=40)
        await world.redis.flushall()
        final = Interval(TODAY.start, datetime(2026, 1, 6, 13, tzinfo=UTC))
        answer = json.loads((await world.service.answer(report, final)).body)
        assert answer["provisionalFrom"] is None
        assert sorted(answer["rows"]) == await world.truth(report, final)


async def test_vendor_slower_than_the_freshness_is_answered_once(open_world: OpenWorld):
    """The answer is older than the freshness when it arrives."""
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=1, ttl="PT30S")
    async with open_world(report, job_seconds_base=60.0) as world:

        async def let_time_pass() -> None:
            while True:
                await asyncio.sleep(0.1)
                world.clock.move(seconds=20)

        passing = asyncio.create_task(let_time_pass())
        answers = await asyncio.gather(*(world.service.answer(report, TODAY) for _ in range(3)))
        passing.cancel()
        [fetched_at] = {json.loads(answer.body)["fetchedAt"] for answer in answers}
        assert fetched_at < (world.clock() - timedelta(seconds=30)).isoformat()
        assert await world.submits() == 1


async def test_refetch_brings_the_vendors_corrections(open_world: OpenWorld):
    async with open_world() as world:
        await world.fetch_and_store(MORNING)
        before = await world.submits()
        async for partition in partitions_of(
            world.service.fetch(REPORT, {"it": MORNING}, Lane.scheduled, refetch=True)
        ):
            assert isinstance(partition, FetchedPartition)
            assert partition.final(REPORT) == IntervalSet([MORNING])
        assert await world.submits() == before + 1


async def test_partitions_stored_together_keep_their_own_ages(open_world: OpenWorld):
    async with open_world() as world:
        await world.fetch_and_store(MONDAY)
        wanted = {"monday": MONDAY, "today": TODAY}
        partitions = [part async for part in partitions_of(world.service.fetch(REPORT, wanted, Lane.scheduled))]
        await world.service.store(REPORT, [part for part in partitions if isinstance(part, FetchedPartition)])
        coverage = world.service.history.coverage(world.service.series(REPORT))
        assert coverage.provisional_fetched_at == NOON
        assert coverage.final == IntervalSet([Interval(MONDAY.start, NOON - HOUR)])


async def test_render_many_returns_only_stored_intervals(open_world: OpenWorld):
    async with open_world() as world:
        await world.fetch_and_store(MORNING)
        later = Interval(MORNING.end, MORNING.end + HOUR)
        [(query, answer)] = await world.service.cached_answers.render_many(
            world.service.series(REPORT), [MORNING, later]
        )
        assert query.interval == MORNING
        assert answer == await world.service.answer(REPORT, MORNING)
        assert await world.submits() == 1


async def test_tenants_never_share_rows(open_world: OpenWorld):
    async with open_world() as world:
        await rows_of(world, MORNING)
        other = replace(world.service, tenant="other")
        assert await other.cached_answers.render_many(other.series(REPORT), [MORNING]) == []
        await other.answer(REPORT, MORNING)
        assert await world.submits() == 2


async def test_rows_from_history_never_overwrite_newer_rows(open_world: OpenWorld):
    """Another process may restate rows between reading stored ones and storing new ones."""
    async with open_world() as world:
        await world.service.answer(REPORT, MORNING)
        wanted = {"monday": MONDAY}
        [monday] = [part async for part in partitions_of(world.service.fetch(REPORT, wanted, Lane.scheduled))]
        assert isinstance(monday, FetchedPartition)
        assert monday.from_history == IntervalSet([MORNING])

        [restated] = [
            part
            async for part in partitions_of(world.service.fetch(REPORT, {"m": MORNING}, Lane.scheduled, refetch=True))
        ]
        assert isinstance(restated, FetchedPartition)
        nothing_happened = Rows.from_table(restated.rows.schema.empty_table())
        await world.service.store(REPORT, [replace(restated, rows=nothing_happened)])
        await world.service.store(REPORT, [monday])

        series = world.service.series(REPORT)
        columns = world.service.columns(REPORT)
        assert world.service.history.read(series, MORNING, columns).num_rows == 0
        assert world.service.history.read(series, MONDAY, columns).num_rows > 0
        assert world.service.history.coverage(series).final == IntervalSet([MONDAY])


async def test_late_store_keeps_newer_figures(open_world: OpenWorld):
    """Another process may fetch fresher figures while the fetched rows are being checked."""
    async with open_world() as world:
        [early] = [part async for part in partitions_of(world.service.fetch(REPORT, {"today": TODAY}, Lane.scheduled))]
        assert isinstance(early, FetchedPartition)
        world.clock.move(hours=5)
        await world.redis.flushall()
        afternoon = Interval(NOON, NOON + 2 * HOUR)
        await world.service.answer(REPORT, afternoon)
        await world.service.store(REPORT, [early])
        coverage = world.service.history.coverage(world.service.series(REPORT), TODAY)
        assert {each.at: each.intervals for each in coverage.fetch_times} == {
            NOON: IntervalSet([TODAY]) - IntervalSet([afternoon]),
            NOON + 5 * HOUR: IntervalSet([afternoon]),
        }
