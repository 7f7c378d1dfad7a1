"""What is scraped from a gateway says truly what gateways and workers did, under labels that are few."""

import asyncio
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import ConnectionError as Away

from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.settings import JobSettings
from cache_pipeline_tests.api.conftest import DAY

URL = f"/v1/reports/queue_hour?interval={DAY}"


async def scraped(api):
    """Every sample as Prometheus reads it: by name, then by its labels."""
    found = {}
    for family in text_string_to_metric_families((await api.http.get("/metrics")).text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return {name.removeprefix("cache_pipeline_"): values for name, values in found.items()}


def labelled(**labels):
    return tuple(sorted(labels.items()))


CLIENT = {"platform": "reportdata", "client": "demo-client"}


async def test_every_series_is_there_before_anything_has_happened(open_api):
    async with open_api() as api:
        told = await scraped(api)
        assert told["jobs"][labelled(state="queued")] == told["queue_depth"][()] == 0
        assert told["queue_oldest_seconds"][()] == 0
        assert told["upstream_requests_total"][labelled(**CLIENT, code="429")] == 0
        assert told["quota_state"][labelled(**CLIENT, state="available")] == 1
        assert told["single_flight_waits_total"][()] == told["job_retries_total"][()] == 0


async def test_a_scrape_tells_what_a_gateway_and_its_worker_did(open_api):
    async with open_api(vendor={"job_seconds_base": 0.3}) as api:
        missed = await api.http.get(URL)
        await api.http.get(URL)
        await asyncio.sleep(0.3)
        waiting = await scraped(api)
        assert waiting["queue_depth"][()] == 1
        assert waiting["queue_oldest_seconds"][()] > 0.25
        api.start_worker()
        await api.ended(missed.headers["Location"])
        for _ in range(3):
            assert (await api.http.get(URL)).status_code == 200
        assert (await api.http.get(URL, headers={"If-None-Match": "*"})).status_code == 304
        assert (await api.http.get("/v1/nothing")).status_code == 404
        await asyncio.sleep(1.2)
        told = await scraped(api)

        requests = told["requests_total"]
        assert requests[labelled(tier="job", result="accepted")] == 2
        assert (
            sum(n for labels, n in requests.items() if ("result", "hit") in labels and ("tier", "none") not in labels)
            == 3
        )
        assert sum(n for labels, n in requests.items() if ("result", "not_modified") in labels) == 1
        assert requests[labelled(tier="none", result="4xx")] == 1
        assert told["request_seconds_count"][labelled(tier="job")] == 2
        assert 0 < told["request_seconds_sum"][labelled(tier="job")] < 20
        assert told["single_flight_waits_total"][()] == 1

        assert told["jobs"][labelled(state="done")] == 1
        waited = told["job_wait_seconds_sum"][labelled(lane="interactive")]
        worked = told["job_seconds_sum"][labelled(lane="interactive", result="done")]
        answered = told["first_answer_seconds_sum"][labelled(lane="interactive")]
        assert waited > 0.25
        assert 0.3 < worked < 20
        assert abs(answered - waited - worked) < 0.001
        assert told["job_seconds_bucket"][labelled(lane="interactive", result="done", le="0.25")] == 0
        assert told["job_seconds_bucket"][labelled(lane="interactive", result="done", le="+Inf")] == 1

        vendor = (await api.vendor.get("/simulator/counters")).json()["summary"]
        assert told["upstream_requests_total"][labelled(**CLIENT, code="2xx")] == vendor["requests"]
        assert told["upstream_requests_total"][labelled(**CLIENT, code="5xx")] == 0
        assert told["quota_remaining"][labelled(**CLIENT, lane="interactive")] == 99_997 - vendor["requests"]
        assert told["quota_throttled_seconds"][labelled(**CLIENT)] == 0
        assert told["quota_paused_seconds_total"][labelled(**CLIENT)] == 0
        assert 0 <= told["token_age_seconds"][labelled(**CLIENT)] < 60
        lag = told["watermark_lag_seconds"][labelled(report="queue_hour")]
        # The vendor's noon is the latest that it could have said; the end of the day that was asked for the earliest.
        assert _since("2026-01-06T12:05") < lag < _since("2026-01-06T00:00")


async def test_what_failed_and_was_tried_again_is_counted_and_so_are_answers_of_429(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._FIRST_RETRY_SECONDS", 0.1)
    async with open_api(jobs=JobSettings(lease_seconds=2, max_attempts=2)) as api:
        await api.vendor.post("/simulator/faults", json={"fail_jobs": 100})
        api.start_worker()
        job = await api.ended((await api.http.get(URL)).headers["Location"])
        assert job["state"] == "failed"
        await asyncio.sleep(1.2)
        told = await scraped(api)
        assert told["job_retries_total"][()] == 1
        assert told["job_seconds_count"][labelled(lane="interactive", result="failed")] == 1
        assert "first_answer_seconds_count" not in told


async def test_waits_of_workers_for_what_is_being_fetched_elsewhere_are_told(open_api):
    async with open_api(vendor={"job_seconds_base": 0.5}) as api:
        before = await scraped(api)
        assert before["single_flight_wait_seconds_count"] == {labelled(scope="answer"): 0, labelled(scope="chunk"): 0}
        day = await api.http.get(URL)
        hour = await api.http.get("/v1/reports/queue_hour?interval=2026-01-05T08:00:00Z/2026-01-05T10:00:00Z")
        api.start_worker()
        for each in (day, hour):
            assert (await api.ended(each.headers["Location"]))["state"] == "done"
        await api.stop_workers()
        told = await scraped(api)
        assert told["single_flight_wait_seconds_count"][labelled(scope="chunk")] == 1
        assert 0 < told["single_flight_wait_seconds_sum"][labelled(scope="chunk")] < 20
        assert told["single_flight_wait_seconds_count"][labelled(scope="answer")] == 0


async def test_an_answer_cut_off_on_its_way_is_asked_for_once_more_by_its_job(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._FIRST_RETRY_SECONDS", 0.1)
    async with open_api() as api:
        await api.vendor.post("/simulator/faults", json={"truncate_bodies": 1})
        api.start_worker()
        assert (await api.ended((await api.http.get(URL)).headers["Location"]))["state"] == "done"
        await api.stop_workers()
        assert (await scraped(api))["job_retries_total"][()] == 1


async def test_what_a_worker_counted_outlives_it(open_api):
    async with open_api() as api:
        api.start_worker()
        await api.ended((await api.http.get(URL)).headers["Location"])
        await api.stop_workers()
        assert (await scraped(api))["job_seconds_count"][labelled(lane="interactive", result="done")] == 1


async def test_what_could_not_be_told_while_redis_was_away_is_told_afterwards(open_api, monkeypatch):
    async with open_api() as api:
        meter = ProcessCounters(api.query_service.report_service.redis)
        meter.count_request("hot", "hit", 0.002)
        with monkeypatch.context() as patched:
            patched.setattr(type(api.query_service.report_service.redis), "pipeline", _away(Away()))
            with pytest.raises(Away):
                await meter.flush()
        meter.count_request("hot", "hit", 0.004)
        await meter.flush()
        counted = await meter.read()
        assert counted.requests[("hot", "hit")] == 2


async def test_datadog_reads_it_as_openmetrics(open_api):
    async with open_api() as api:
        asked = await api.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})
        assert asked.headers["Content-Type"].startswith("application/openmetrics-text")
        assert asked.text.endswith("# EOF\n")


def _since(instant):
    return (datetime.now(UTC) - datetime.fromisoformat(f"{instant}+00:00")).total_seconds()


def _away(error):
    def raises(*_args, **_more):
        raise error

    return raises
