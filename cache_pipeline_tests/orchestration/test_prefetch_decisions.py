"""Tests of prefetching: which missed partitions are due, what is suggested, and the sensor."""

import asyncio
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import httpx
import pytest
from redis.asyncio import Redis

from cache_pipeline.api.app import create_app
from cache_pipeline.orchestration.decisions import count_missed_requests, find_prefetch_candidates, suggest_prefetch
from cache_pipeline.orchestration.partitions import keys_of_run
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ports.demand import Demand
from cache_pipeline.storage.redis.demand import RedisDemandCounter
from cache_pipeline_tests.orchestration.workbench import Bench, declaration, open_bench
from cache_pipeline_tests.query.declared import declared as report_of

DAYS = {f"2026-01-0{day}": Interval.parse(f"2026-01-0{day}T00:00Z/2026-01-0{day + 1}T00:00Z") for day in (5, 6, 7)}


def demand(interval: str, missed: int, report: str = "queue_hour") -> Demand:
    return Demand("series", report, Interval.parse(interval), missed + 5, missed)


def test_missed_request_counts_for_every_overlapping_partition() -> None:
    demands = [demand("2026-01-05T22:00Z/2026-01-06T02:00Z", 3), demand("2026-01-06T00:00Z/2026-01-07T00:00Z", 4)]
    assert count_missed_requests(demands, DAYS) == {"2026-01-05": 3, "2026-01-06": 7}


def test_partitions_at_threshold_are_prefetched_unless_final() -> None:
    demands = [demand("2026-01-05T00:00Z/2026-01-07T00:00Z", 5), demand("2026-01-07T00:00Z/2026-01-08T00:00Z", 4)]
    stored = Coverage(final=IntervalSet([DAYS["2026-01-05"]]))
    found = find_prefetch_candidates(report_of(prefetch_after_misses=5), demands, DAYS, stored, at_most=3)
    assert [(each.key, each.missed) for each in found] == [("2026-01-06", 5)]
    assert find_prefetch_candidates(report_of(), demands, DAYS, stored, at_most=3) == []
    assert len(find_prefetch_candidates(report_of(prefetch_after_misses=1), demands, DAYS, Coverage(), at_most=2)) == 2


def test_prefetch_is_suggested_for_reports_without_threshold() -> None:
    reports = {"queue_hour": report_of(), "keen": report_of(name="keen", prefetch_after_misses=3)}
    interval = "2026-01-05T00:00Z/2026-01-06T00:00Z"
    demands = [demand(interval, 6), demand(interval, 5), demand(interval, 99, "keen"), demand(interval, 12, "adhoc")]
    assert [(each.report, each.missed) for each in suggest_prefetch(reports, demands)] == [
        ("adhoc", 12),
        ("queue_hour", 11),
    ]
    assert "set freshness.prefetch_after_misses" in str(suggest_prefetch(reports, demands)[1])


@pytest.fixture
def prefetching_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    with open_bench(servers, tmp_path, declaration(prefetch_after_misses=3)) as bench:
        yield bench


def test_sensor_prefetches_missed_partitions_once_an_hour(
    prefetching_bench: Bench, instance: dg.DagsterInstance
) -> None:
    day = prefetching_bench.partitions.get_partition_keys()[-5]

    async def record_misses(times: int) -> None:
        async with Redis.from_url(read_settings().required_redis_url()) as redis:
            counter = RedisDemandCounter(redis, read_settings().tenant, lambda: datetime.now(UTC))
            await counter.add(
                [(CanonicalQuery(prefetching_bench.series, prefetching_bench.interval(day)), times, times)]
            )

    def tick() -> list[dg.RunRequest]:
        sensor = prefetching_bench.definitions().resolve_sensor_def("prefetch_sensor")
        with dg.build_sensor_context(
            instance=instance, resources={"cache_pipeline__engine": EngineResource()}
        ) as context:
            return list(sensor.evaluate_tick(context).run_requests or [])

    asyncio.run(record_misses(2))
    assert tick() == []
    asyncio.run(record_misses(1))
    (request,) = tick()
    assert keys_of_run(prefetching_bench.partitions, request.tags) == [day]
    assert request.tags["cache_pipeline/lane"] == "scheduled"
    assert request.run_key
    assert request.run_key.startswith(f"calls_hour:prefetch:{day}:")
    assert prefetching_bench.run(instance, day, tags=dict(request.tags)).success
    assert tick() == [], "the partition is final now"


def test_partition_missed_by_api_is_prefetched_and_served(
    prefetching_bench: Bench, instance: dg.DagsterInstance, servers: pytest.MonkeyPatch
) -> None:
    servers.setenv("CACHE_PIPELINE_API__AUTH", "off")
    day = prefetching_bench.partitions.get_partition_keys()[-5]
    url = f"/v1/reports/calls_hour?interval={prefetching_bench.interval(day)}"

    async def send_requests(times: int) -> set[int]:
        app = create_app(read_settings())
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://api") as http,
        ):
            codes = {(await http.get(url)).status_code for _ in range(times)}
            await app.state.query_service.demand.flush()
            return codes

    def tick() -> list[dg.RunRequest]:
        sensor = prefetching_bench.definitions().resolve_sensor_def("prefetch_sensor")
        with dg.build_sensor_context(
            instance=instance, resources={"cache_pipeline__engine": EngineResource()}
        ) as context:
            return list(sensor.evaluate_tick(context).run_requests or [])

    assert asyncio.run(send_requests(2)) == {202}
    assert tick() == [], "two misses are below the threshold"
    assert asyncio.run(send_requests(1)) == {202}
    (request,) = tick()
    assert prefetching_bench.run(instance, day, tags=dict(request.tags)).success
    assert asyncio.run(send_requests(2)) == {200}

    async def count_demand() -> tuple[int, int]:
        async with Redis.from_url(read_settings().required_redis_url()) as redis:
            (found,) = await RedisDemandCounter(redis, read_settings().tenant, lambda: datetime.now(UTC)).recent()
            return found.requests, found.misses

    assert asyncio.run(count_demand()) == (5, 3)
