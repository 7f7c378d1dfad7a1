"""The metrics of the API and its workers, compared with what they and the vendor really did."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import ConnectionError as RedisConnectionError

from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.errors import RedisUnavailable
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import JobSettings, VendorAccount
from cache_pipeline.storage.redis.counters import RedisMetricCounts
from cache_pipeline_tests.api.conftest import DAY, Api, OpenApi

URL = f"/v1/reports/queue_hour?interval={DAY}"


async def scrape(api: Api) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return every sample as Prometheus reads it, by name and then by labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families((await api.http.get("/metrics")).text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return {name.removeprefix("cache_pipeline_"): values for name, values in found.items()}


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


CLIENT = {"account": "reportdata/main", "client": "demo-client"}


async def test_every_series_exists_from_the_start(open_api: OpenApi):
    async with open_api() as api:
        samples = await scrape(api)
        assert samples["jobs"][labels(state="queued")] == samples["queue_depth"][()] == 0
        assert samples["queue_oldest_seconds"][()] == 0
        assert samples["upstream_requests_total"][labels(**CLIENT, code="429")] == 0
        assert samples["quota_state"][labels(**CLIENT, state="available")] == 1
        assert samples["single_flight_waits_total"][()] == samples["job_retries_total"][()] == 0


async def test_scrape_reports_work_of_api_and_worker(open_api: OpenApi):
    async with open_api(vendor={"job_seconds_base": 0.3}) as api:
        missed = await api.http.get(URL)
        await api.http.get(URL)
        await asyncio.sleep(0.3)
        waiting = await scrape(api)
        assert waiting["queue_depth"][()] == 1
        assert waiting["queue_oldest_seconds"][()] > 0.25
        api.start_worker()
        await api.wait_until_finished(missed.headers["Location"])
        for _ in range(3):
            assert (await api.http.get(URL)).status_code == 200
        assert (await api.http.get(URL, headers={"If-None-Match": "*"})).status_code == 304
        assert (await api.http.get("/v1/nothing")).status_code == 404
        await asyncio.sleep(1.2)
        samples = await scrape(api)

        requests = samples["requests_total"]
        assert requests[labels(tier="job", result="accepted")] == 2
        assert sum(n for key, n in requests.items() if ("result", "hit") in key and ("tier", "none") not in key) == 3
        assert sum(n for key, n in requests.items() if ("result", "not_modified") in key) == 1
        assert requests[labels(tier="none", result="4xx")] == 1
        assert samples["request_seconds_count"][labels(tier="job")] == 2
        assert 0 < samples["request_seconds_sum"][labels(tier="job")] < 20
        assert samples["single_flight_waits_total"][()] == 1

        assert samples["jobs"][labels(state="done")] == 1
        waited = samples["job_wait_seconds_sum"][labels(lane="interactive")]
        worked = samples["job_seconds_sum"][labels(lane="interactive", result="done")]
        answered = samples["first_answer_seconds_sum"][labels(lane="interactive")]
        assert waited > 0.25
        assert 0.3 < worked < 20
        assert abs(answered - waited - worked) < 0.001
        assert samples["job_seconds_bucket"][labels(lane="interactive", result="done", le="0.25")] == 0
        assert samples["job_seconds_bucket"][labels(lane="interactive", result="done", le="+Inf")] == 1

        vendor = (await api.vendor.get("/simulator/counters")).json()["summary"]
        assert samples["upstream_requests_total"][labels(**CLIENT, code="2xx")] == vendor["requests"]
        assert samples["upstream_requests_total"][labels(**CLIENT, code="5xx")] == 0
        assert samples["quota_remaining"][labels(**CLIENT, lane="interactive")] == 99_997 - vendor["requests"]
        assert samples["quota_throttled_seconds"][labels(**CLIENT)] == 0
        assert samples["quota_paused_seconds_total"][labels(**CLIENT)] == 0
        assert 0 <= samples["token_age_seconds"][labels(**CLIENT)] < 60
        lag = samples["watermark_lag_seconds"][labels(report="queue_hour")]
        # The watermark is between the end of the requested day and the vendor's noon.
        assert _since("2026-01-06T12:05") < lag < _since("2026-01-06T00:00")


async def test_job_retries_and_failures_are_counted(open_api: OpenApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._FIRST_RETRY_SECONDS", 0.1)
    async with open_api(jobs=JobSettings(lease_seconds=2, max_attempts=2)) as api:
        await api.vendor.post("/simulator/faults", json={"fail_jobs": 100})
        api.start_worker()
        job = await api.wait_until_finished((await api.http.get(URL)).headers["Location"])
        assert job["state"] == "failed"
        await asyncio.sleep(1.2)
        samples = await scrape(api)
        assert samples["job_retries_total"][()] == 1
        assert samples["job_seconds_count"][labels(lane="interactive", result="failed")] == 1
        assert "first_answer_seconds_count" not in samples


async def test_single_flight_waits_of_workers_are_measured(open_api: OpenApi):
    async with open_api(vendor={"job_seconds_base": 0.5}) as api:
        before = await scrape(api)
        assert before["single_flight_wait_seconds_count"] == {labels(scope="answer"): 0, labels(scope="chunk"): 0}
        day = await api.http.get(URL)
        hour = await api.http.get("/v1/reports/queue_hour?interval=2026-01-05T08:00:00Z/2026-01-05T10:00:00Z")
        api.start_worker()
        for each in (day, hour):
            assert (await api.wait_until_finished(each.headers["Location"]))["state"] == "done"
        await api.stop_workers()
        samples = await scrape(api)
        assert samples["single_flight_wait_seconds_count"][labels(scope="chunk")] == 1
        assert 0 < samples["single_flight_wait_seconds_sum"][labels(scope="chunk")] < 20
        assert samples["single_flight_wait_seconds_count"][labels(scope="answer")] == 0


async def test_truncated_response_is_retried_by_job(open_api: OpenApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._FIRST_RETRY_SECONDS", 0.1)
    async with open_api() as api:
        await api.vendor.post("/simulator/faults", json={"truncate_bodies": 1})
        api.start_worker()
        assert (await api.wait_until_finished((await api.http.get(URL)).headers["Location"]))["state"] == "done"
        await api.stop_workers()
        assert (await scrape(api))["job_retries_total"][()] == 1


async def test_counts_of_worker_outlive_it(open_api: OpenApi):
    async with open_api() as api:
        api.start_worker()
        await api.wait_until_finished((await api.http.get(URL)).headers["Location"])
        await api.stop_workers()
        assert (await scrape(api))["job_seconds_count"][labels(lane="interactive", result="done")] == 1


async def test_counts_survive_unavailable_redis(open_api: OpenApi, monkeypatch: pytest.MonkeyPatch):
    async with open_api() as api:
        counters = ProcessCounters(RedisMetricCounts(api.redis, utc_now))
        counters.count_request("hot", "hit", 0.002)
        with monkeypatch.context() as patched:
            patched.setattr(type(api.redis), "evalsha", _raising(RedisConnectionError()))
            with pytest.raises(RedisUnavailable):
                await counters.flush()
        counters.count_request("hot", "hit", 0.004)
        await counters.flush()
        totals = await counters.read()
        assert totals.requests[("hot", "hit")] == 2


async def test_metrics_are_available_as_openmetrics(open_api: OpenApi):
    async with open_api() as api:
        answer = await api.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


def _since(instant: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(f"{instant}+00:00")).total_seconds()


def _raising(error: Exception) -> Callable[..., NoReturn]:
    def raises(*_args: Any, **_more: Any) -> NoReturn:
        raise error

    return raises


async def test_requests_of_the_month_are_shown_where_they_are_declared(open_api: OpenApi):
    contract = {"base_url": "http://127.0.0.1:9", "clients": [{"client_id": "a", "client_secret": "s"}]}
    accounts = {
        "reportdata": {
            "main": VendorAccount.model_validate(contract | {"monthly_requests": 5000, "organisation_rate_limit": 90}),
            "other": VendorAccount.model_validate(contract),
        }
    }
    async with open_api(accounts=accounts) as api:
        _, quota = api.query_service.quotas["reportdata/main"]
        grant = await quota.acquire(Lane.interactive)
        await quota.settle(grant, remaining=None, retry_after=None, rejected=False, status=200)
        samples = await scrape(api)
        shown = (await api.http.get("/v1/quota")).json()
    assert samples["month_requests_allotted"] == {labels(account="reportdata/main"): 5000}
    assert samples["month_requests_used"] == {labels(account="reportdata/main"): 1}
    assert [(each["account"], each["allotted"], each["used"]) for each in shown["months"]] == [
        ("reportdata/main", 5000, 1)
    ]
    assert [(each["account"], each["counts"], each["limit"], each["used"]) for each in shown["limits"]] == [
        ("reportdata/main", "organisation", 90, 1)
    ]
