"""What a refused or failed chunk leaves: the verified rows of its partition, and no useless further query."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from cache_pipeline.errors import LoginRefused, UpstreamFaulted, UpstreamJobCancelled, UpstreamRefused
from cache_pipeline.fetch.partition_fetch import FailedPartition
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.request_lane import RequestLane
from cache_pipeline.vendors.base import VendorJob
from cache_pipeline_tests.query.declared import with_changes
from cache_pipeline_tests.world import REPORT, OpenWorld, World, partitions_of

MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
DAY = timedelta(days=1)
TRUSTING = with_changes(REPORT, expected_groups=1)
SIX_HOURS = with_changes(REPORT, expected_groups=1, max_query_interval="PT6H")


def refusal(status: int) -> UpstreamRefused:
    return UpstreamRefused(status=status, method="POST", path="/query", message="no")


def fault(
    monkeypatch: pytest.MonkeyPatch, world: World, error: Callable[[Interval], Exception | None]
) -> list[Interval]:
    """Let the vendor answer some intervals with an error; return all intervals that are requested."""
    adapter, asked = world.service.accounts["reportdata/main"], list[Interval]()
    submit = adapter.submit

    async def faulty(report: Report, interval: Interval, lane: RequestLane):
        asked.append(interval)
        if raised := error(interval):
            raise raised
        return await submit(report, interval, lane)

    monkeypatch.setattr(adapter, "submit", faulty)
    return asked


@pytest.mark.parametrize(
    "error",
    [refusal(403), refusal(400), refusal(404), LoginRefused(client_ids=["a"], login_url="http://vendor", reason="no")],
    ids=["403", "400", "404", "login"],
)
async def test_permanent_refusal_is_the_last_query(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    days = {str(n): Interval(MONDAY.start - n * DAY, MONDAY.end - n * DAY) for n in range(60)}
    async with open_world() as world:
        asked = fault(monkeypatch, world, lambda _interval: error)
        ended = [each async for each in partitions_of(world.service.fetch(TRUSTING, days, Lane.backfill))]
        assert len(asked) == 1
        assert {each.key for each in ended} == set(days)
        assert all(isinstance(each, FailedPartition) and each.error is error for each in ended)


async def test_chunks_in_flight_are_kept_after_a_permanent_refusal(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
):
    days = {str(n): Interval(MONDAY.start - n * DAY, MONDAY.end - n * DAY) for n in range(60)}
    async with open_world() as world:
        asked = fault(monkeypatch, world, lambda each: refusal(403) if each == days["30"] else None)
        ended = [each async for each in partitions_of(world.service.fetch(TRUSTING, days, Lane.backfill))]
        assert len(asked) < 50
        good = [each for each in ended if not isinstance(each, FailedPartition)]
        assert {each.interval for each in good} == set(asked) - {days["30"]}
        assert len(ended) == 60


@pytest.mark.parametrize("method", ["status", "pages"])
@pytest.mark.parametrize(
    "error",
    [refusal(403), refusal(400), LoginRefused(client_ids=["a"], login_url="http://vendor", reason="no")],
    ids=["403", "400", "login"],
)
async def test_job_of_a_refused_client_is_submitted_again(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
):
    """Not only now: the next process does not resume the job either."""
    async with open_world() as world:
        asked = refuse_jobs(monkeypatch, world, method, error, jobs=1)
        answer = await world.service.answer(TRUSTING, MONDAY)
        assert answer.completeness.complete_through == MONDAY.end
        assert await world.submits() == 2
        assert len(set(asked)) == 2


async def test_job_that_was_cancelled_at_the_vendor_is_submitted_again_in_one_piece(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
):
    """Its size was not the reason."""
    async with open_world() as world:
        cancelled = UpstreamJobCancelled("job-1", "its state is CANCELLED")
        asked = refuse_jobs(monkeypatch, world, "status", cancelled, jobs=1)
        answer = await world.service.answer(TRUSTING, MONDAY)
        assert answer.completeness.complete_through == MONDAY.end
        assert await world.submits() == 2
        assert len(set(asked)) == 2
        known = world.service.history.truncation_stats(world.service.series(TRUSTING), world.clock())
        assert known.shortest_truncated is None


async def test_client_that_may_not_read_its_jobs_is_refused_for_good(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
):
    async with open_world() as world:
        refuse_jobs(monkeypatch, world, "status", refusal(403), jobs=99)
        with pytest.raises(UpstreamRefused, match="403"):
            await world.service.answer(TRUSTING, MONDAY)
        assert await world.submits() == 2


def refuse_jobs(
    monkeypatch: pytest.MonkeyPatch, world: World, method: str, error: Exception, *, jobs: int
) -> list[str]:
    """Let the vendor refuse polls or pages of the first jobs; return the ids of the jobs that are asked about."""
    adapter, asked = world.service.accounts["reportdata/main"], list[str]()
    original = getattr(adapter, method)

    def is_refused(job: VendorJob) -> bool:
        asked.append(job.id)
        return len(set(asked)) <= jobs

    async def status(job: VendorJob):
        if is_refused(job):
            raise error
        return await original(job)

    async def pages(job: VendorJob, report: Report):
        if is_refused(job):
            raise error
        async for page in original(job, report):
            yield page

    monkeypatch.setattr(adapter, method, status if method == "status" else pages)
    return asked


@pytest.mark.parametrize("stores_chunks", [True, False])
async def test_verified_siblings_of_failed_chunk_are_not_refetched(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, *, stores_chunks: bool
):
    noon = Interval(MONDAY.start + 2 * DAY / 4, MONDAY.start + 3 * DAY / 4)
    down = UpstreamFaulted(status=503, method="POST", path="/query", attempts=5, message=None, correlation_id=None)
    async with open_world() as world:
        failures = [down]
        asked = fault(monkeypatch, world, lambda each: failures.pop() if each == noon and failures else None)
        if stores_chunks:
            with pytest.raises(UpstreamFaulted):
                await world.service.answer(SIX_HOURS, MONDAY)
        else:
            [failed] = [
                each async for each in partitions_of(world.service.fetch(SIX_HOURS, {"monday": MONDAY}, Lane.scheduled))
            ]
            assert isinstance(failed, FailedPartition)
            kept = world.service.history.coverage(world.service.series(SIX_HOURS)).final
            assert kept == IntervalSet([MONDAY]) - IntervalSet([noon])
            assert len(asked) == 4
        answer = await world.service.answer(SIX_HOURS, MONDAY)
        assert answer.completeness.complete_through == MONDAY.end
        if not stores_chunks:
            assert asked[4:] == [noon]
