"""Preferences of a request: another format, freshly fetched figures, and idempotency keys."""

import asyncio
import io
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache_pipeline.api.jobs.idempotency import parse_idempotency_key
from cache_pipeline.api.negotiation import wants_refresh
from cache_pipeline.api.problems import Problem
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, Verdict
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import ApiSettings
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline_tests.api.conftest import DAY

URL = f"/v1/reports/queue_hour?interval={DAY}"
#: Provisional, because it ends at the vendor's noon and the watermark lags by two hours.
TODAY = "/v1/reports/queue_hour?interval=2026-01-06T10:00Z/2026-01-06T12:00Z"
LATE = {"watermark_lag_seconds": 7200.0}
FRESH = {"Cache-Control": "no-cache", "Prefer": "wait=20"}


async def fill(api, url=URL, headers=None):
    api.start_worker()
    answer = await api.http.get(url, headers={"Prefer": "wait=20", **(headers or {})})
    assert answer.status_code == 200
    return answer


async def test_parquet_has_rows_and_metadata_of_arrow_stream(open_api):
    async with open_api() as api:
        await fill(api)
        parquet = await api.http.get(URL, headers={"Accept": "application/vnd.apache.parquet"})
        arrow = await api.http.get(URL, headers={"Accept": "application/vnd.apache.arrow.stream"})
        assert parquet.headers["Content-Type"] == "application/vnd.apache.parquet"
        table = pq.read_table(io.BytesIO(parquet.content))
        assert table.equals(pa.ipc.open_stream(arrow.content).read_all())
        assert table.schema.metadata[b"completeThrough"] == b"2026-01-06T00:00:00Z"
        assert parquet.headers["ETag"] != arrow.headers["ETag"]
        repeated = await api.http.get(
            URL, headers={"Accept": "application/vnd.apache.parquet", "If-None-Match": parquet.headers["ETag"]}
        )
        assert repeated.status_code == 304


@pytest.mark.parametrize(
    ("header", "is_refresh"),
    [
        (None, False),
        ("no-cache", True),
        ("max-age=0, No-Cache", True),
        ("max-age=0", False),
        ("no-cache-please", False),
    ],
)
def test_only_no_cache_requests_refresh(header, is_refresh):
    assert wants_refresh(header) is is_refresh


async def test_no_cache_refetches_provisional_figures(open_api):
    async with open_api(vendor=LATE) as api:
        first = await fill(api, TODAY)
        assert first.headers["Provisional-From"]
        assert (await api.http.get(TODAY)).status_code == 200
        assert await api.submits() == 1
        fresh = await api.http.get(TODAY, headers=FRESH)
        assert (fresh.status_code, await api.submits()) == (200, 2)
        assert "fwd=miss" in fresh.headers["Cache-Status"]
        assert fresh.json()["fetchedAt"] > first.json()["fetchedAt"]
        # Every caller receives the new figures from then on.
        assert (await api.http.get(TODAY)).json()["fetchedAt"] == fresh.json()["fetchedAt"]


async def test_concurrent_refreshes_share_one_job(open_api):
    async with open_api(vendor=LATE) as api:
        await fill(api, TODAY)
        answers = await asyncio.gather(*(api.http.get(TODAY, headers=FRESH) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert await api.submits() == 2


async def test_final_figures_are_never_refetched(open_api):
    async with open_api() as api:
        await fill(api)
        answer = await api.http.get(URL, headers=FRESH)
        assert (answer.status_code, await api.submits()) == (200, 1)
        assert "hit" in answer.headers["Cache-Status"]


async def test_refresh_needs_permission_and_uses_lane_of_key(open_api):
    async with open_api(vendor=LATE, api=ApiSettings(auth="keys")) as api:

        async def key(**rights):
            principal = Principal("", "default", None, Lane.scheduled, **rights)
            return {"Authorization": "Bearer " + await api.query_service.api_keys._store.create("test", principal)}

        plain, refreshing = await key(), await key(may_refresh=True)
        await fill(api, TODAY, plain)
        assert (await api.http.get(TODAY, headers={**plain, **FRESH})).status_code == 200
        assert await api.submits() == 1
        await api.stop_workers()
        accepted = await api.http.get(TODAY, headers={**refreshing, "Cache-Control": "no-cache"})
        assert accepted.status_code == 202
        job = await api.query_service.jobs.claim("worker", timedelta(seconds=30), 3)
        assert (str(job.id), job.lane) == (accepted.json()["id"], Lane.scheduled)


@pytest.mark.parametrize("header", ["", '""', '"a', "a b", '"é"', f'"{"x" * 256}"', '"a\\b"'])
def test_malformed_idempotency_key_is_refused(header):
    with pytest.raises(Problem) as refused:
        parse_idempotency_key(header)
    assert refused.value.status == 400


def test_bare_token_is_accepted_as_idempotency_key():
    assert parse_idempotency_key(None) is None
    assert parse_idempotency_key('"8e03978e-40d5"') == parse_idempotency_key("8e03978e-40d5") == "8e03978e-40d5"


async def test_repeated_request_follows_same_job_to_end(open_api):
    once = {"Idempotency-Key": '"one"'}
    async with open_api() as api:
        first = await api.http.post("/v1/reports/queue_hour", json={"interval": DAY}, headers=once)
        repeated = await api.http.post(
            "/v1/reports/queue_hour", json={"interval": "2026-01-05/2026-01-06"}, headers=once
        )
        assert (first.status_code, repeated.status_code) == (202, 202)
        assert first.headers["Location"] == repeated.headers["Location"]
        other = await api.http.post("/v1/reports/queue_hour", json={"interval": "2026-01-03/2026-01-04"}, headers=once)
        assert (other.status_code, other.headers["Content-Type"]) == (422, "application/problem+json")
        assert (await api.query_service.jobs.counts())["queued"] == 1
        api.start_worker()
        await api.wait_until_finished(first.headers["Location"])
        done = await api.http.post("/v1/reports/queue_hour", json={"interval": DAY}, headers=once)
        assert done.status_code == 200
        ttls = [await api.redis.ttl(key) for key in await api.redis.keys("*idempotency*")]
        assert len(ttls) == 1
        assert 0 < ttls[0] <= 24 * 3600


async def test_repeated_request_reports_earlier_failure(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._FIRST_RETRY_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.query_service._RECENT_OUTCOME", timedelta(0))
    payload = {"reportId": "queue-performance", "timeGrouping": "byHour", "interval": DAY}
    async with open_api() as api:
        await api.vendor.post("/simulator/faults", json={"fail_jobs": 100})
        api.start_worker()
        sent = await api.http.post("/v1/queries", json=payload, headers={"Idempotency-Key": "two"})
        assert (await api.wait_until_finished(sent.headers["Location"]))["state"] == "failed"
        submits = await api.submits()
        repeated = await api.http.post("/v1/queries", json=payload, headers={"Idempotency-Key": "two"})
        assert (repeated.status_code, await api.submits()) == (502, submits)
        # A new key is a new request.
        assert (await api.http.post("/v1/queries", json=payload, headers={"Idempotency-Key": "3"})).status_code == 202


async def test_idempotency_key_belongs_to_one_api_key(open_api):
    async with open_api(api=ApiSettings(auth="keys")) as api:
        for number, interval in enumerate(("2026-01-03/2026-01-04", DAY)):
            principal = Principal("", f"tenant{number}", None, Lane.interactive)
            key = "Bearer " + await api.query_service.api_keys._store.create("test", principal)
            sent = await api.http.post(
                "/v1/reports/queue_hour",
                json={"interval": interval},
                headers={"Authorization": key, "Idempotency-Key": "x"},
            )
            assert sent.status_code == 202


async def test_retry_after_follows_measured_queries_and_their_number(open_api):
    async with open_api() as api:
        series = api.query_service.report_service.series(api.query_service.reports["queue_hour"])
        day = Interval.parse("2026-01-01T00:00Z/2026-01-02T00:00Z")
        taken = ChunkResult(
            day, 24, ExpectationSource.declaration, 24, Verdict.complete, 3, 40.0, api.query_service.clock()
        )
        await asyncio.to_thread(
            api.query_service.report_service.history.record_chunks, series, [taken], api.query_service.clock()
        )
        one = await api.http.get(URL)
        assert 40 <= int(one.headers["Retry-After"]) <= 45
        # The first chunk is fetched alone, the others sixteen at a time.
        many = await api.http.get("/v1/reports/queue_hour?interval=2026-01-11/2026-01-31")
        assert 120 <= int(many.headers["Retry-After"]) <= 170
