"""What a refused or failed chunk leaves: the verified rows of its partition, and no useless further query."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from cache_pipeline.errors import LoginRefused, UpstreamFaulted, UpstreamRefused
from cache_pipeline.fetch.partition_fetch import FailedPartition
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
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
    adapter, asked = world.service.platforms["reportdata"], list[Interval]()
    submit = adapter.submit

    async def faulty(report: Report, interval: Interval, lane: Lane):
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
