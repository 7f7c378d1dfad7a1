"""Answers: 200 from stored data, 202 with one job, 304 for known bytes, and every format."""

import asyncio
import csv
import io
from datetime import timedelta

import psycopg
import pyarrow as pa

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY, REPORT
from cache_pipeline_tests.query.declared import with_changes

URL = f"/v1/reports/queue_hour?interval={DAY}"


async def test_miss_becomes_job_whose_answer_is_served(open_api):
    async with open_api() as api:
        missed = await api.http.get(URL)
        assert missed.status_code == 202
        assert missed.headers["Cache-Control"] == "no-store"
        assert int(missed.headers["Retry-After"]) >= 1
        job = missed.json()
        assert missed.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
        assert (job["state"], job["position"], job["links"]["result"]) == ("queued", 1, None)

        api.start_worker()
        job = await api.wait_until_finished(missed.headers["Location"])
        assert (job["state"], job["percent"]) == ("done", 100)
        assert job["chunks"] == {"done": 1, "total": 1}

        answer = await api.http.get(job["links"]["result"])
        assert answer.status_code == 200
        body = answer.json()
        assert body["interval"] == DAY
        assert len(body["rows"]) > 100
        assert answer.headers["Complete-Through"] == body["completeThrough"] == "2026-01-06T00:00:00Z"
        assert answer.headers["Cache-Status"].startswith("cache-pipeline; hit")
        assert "Provisional-From" not in answer.headers


async def test_matching_etag_returns_304(open_api):
    async with open_api() as api:
        api.start_worker()
        first = await api.http.get(URL, headers={"Prefer": "wait=20"})
        assert (first.status_code, first.headers["Preference-Applied"]) == (200, "wait=20")
        repeated = await api.http.get(URL, headers={"If-None-Match": first.headers["ETag"]})
        assert (repeated.status_code, repeated.content) == (304, b"")
        assert repeated.headers["ETag"] == first.headers["ETag"]
        other = await api.http.get(URL, headers={"If-None-Match": first.headers["ETag"], "Accept": "text/csv"})
        assert other.status_code == 200


async def test_every_format_has_same_rows(open_api):
    async with open_api() as api:
        api.start_worker()
        rows = (await api.http.get(URL, headers={"Prefer": "wait=20"})).json()["rows"]
        as_csv = await api.http.get(URL, headers={"Accept": "text/csv"})
        assert as_csv.headers["Content-Type"].startswith("text/csv")
        head, *lines = csv.reader(io.StringIO(as_csv.text))
        assert head == ["interval_start", "interval_end", "queue_id", "offered"]
        assert lines == [[str(value) for value in row] for row in rows]
        as_arrow = await api.http.get(URL, headers={"Accept": "application/vnd.apache.arrow.stream"})
        table = pa.ipc.open_stream(as_arrow.content).read_all()
        assert table["offered"].to_pylist() == [row[3] for row in rows]
        assert str(table.schema.field("interval_start").type) == "timestamp[us, tz=UTC]"
        refused = await api.http.get(URL, headers={"Accept": "image/png"})
        assert refused.status_code == 406


async def test_spellings_of_one_query_share_one_job(open_api):
    spellings = [DAY, "2026-01-05/2026-01-06", "2026-01-05T07:00:00%2B07:00/2026-01-06T07:00:00%2B07:00"]
    async with open_api() as api:
        answers = await asyncio.gather(
            *(api.http.get(f"/v1/reports/queue_hour?interval={spellings[n % 3]}") for n in range(50))
        )
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.headers["Location"] for answer in answers}) == 1
        api.start_worker()
        waited = await asyncio.gather(*(api.http.get(URL, headers={"Prefer": "wait=20"}) for _ in range(50)))
        assert {answer.status_code for answer in waited} == {200}
        assert await api.submits() == 1


async def test_respond_async_returns_job_at_once(open_api):
    async with open_api() as api:
        answer = await api.http.get(URL, headers={"Prefer": "respond-async"})
        assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "respond-async")


async def test_body_and_url_mean_same_query(open_api):
    async with open_api() as api:
        by_url = await api.http.get(URL)
        by_body = await api.http.post("/v1/reports/queue_hour", json={"interval": DAY})
        assert by_url.headers["Location"] == by_body.headers["Location"]


async def test_stale_figures_are_served_while_revalidating(open_api):
    # The buckets are younger than the finality delay, or their figures might become older.
    report = with_changes(
        REPORT,
        ttl=timedelta(seconds=1),
        stale_while_revalidate=timedelta(days=1000),
        finality_delay=timedelta(days=4000),
    )
    today = "/v1/reports/queue_hour?interval=2026-01-06T10:00Z/2026-01-06T12:00Z"
    async with open_api(report, vendor={"watermark_lag_seconds": 7200.0}) as api:
        api.start_worker()
        first = await api.http.get(today, headers={"Prefer": "wait=20"})
        assert first.status_code == 200
        assert first.headers["Provisional-From"]
        await api.stop_workers()
        async with api.query_service.jobs._pool.connection() as connection:
            await connection.execute("DELETE FROM cache_pipeline_state.job")
        await asyncio.sleep(1.1)
        await api.redis.flushdb()
        stale = await api.http.get(today)
        assert stale.status_code == 200
        assert int(stale.headers["Age"]) >= 1
        assert "ttl=-" in stale.headers["Cache-Status"]
        assert (await api.query_service.jobs.counts())["queued"] == 1


async def test_finer_rows_of_another_report_are_rolled_up(open_api):
    daily = REPORT.model_copy(update={"name": "queue_day", "granularity": "P1D"})
    async with open_api(REPORT, daily) as api:
        api.start_worker()
        hours = await api.http.get(URL, headers={"Prefer": "wait=20"})
        days = await api.http.get(f"/v1/reports/queue_day?interval={DAY}")
        assert (hours.status_code, days.status_code, await api.submits()) == (200, 200, 1)
        assert sum(row[-1] for row in days.json()["rows"]) == sum(row[-1] for row in hours.json()["rows"])


async def test_long_answer_is_streamed_and_not_kept_hot(open_api, monkeypatch):
    for module in ("cache_pipeline.storage.redis.hot", "cache_pipeline.api.routes.reports"):
        monkeypatch.setattr(f"{module}.MAX_HOT_BYTES", 1000)
    monkeypatch.setattr("cache_pipeline.api.answer_body._ROWS_PER_PART", 10)
    async with open_api() as api:
        api.start_worker()
        rows = (await api.http.get(URL, headers={"Prefer": "wait=20"})).json()["rows"]
        assert not await api.redis.keys("analytics:*")
        as_csv = await api.http.get(URL, headers={"Accept": "text/csv"})
        assert "Content-Length" not in as_csv.headers
        assert [line[3] for line in csv.reader(io.StringIO(as_csv.text))][1:] == [str(row[3]) for row in rows]
        as_arrow = await api.http.get(URL, headers={"Accept": "application/vnd.apache.arrow.stream"})
        assert pa.ipc.open_stream(as_arrow.content).read_all()["offered"].to_pylist() == [row[3] for row in rows]
        assert await api.submits() == 1


async def test_answer_with_too_many_rows_or_bytes_is_refused(open_api):
    for changes, limit in (({"max_rows": 100}, "100 rows"), ({"max_answer_bytes": 2000}, "2,000 bytes")):
        async with open_api(api=ApiSettings(auth="off", **changes)) as api:
            api.start_worker()
            refused = await api.http.get(URL, headers={"Prefer": "wait=20"})
            assert refused.status_code == 422
            assert limit in refused.json()["detail"]
            assert "ask for a shorter interval" in refused.json()["detail"]
            daily = await api.http.get(f"{URL}&granularity=P1D", headers={"Prefer": "wait=20"})
            assert (daily.status_code, len(daily.json()["rows"])) == (200, 8)


async def test_csv_is_safe_for_spreadsheets_on_request(open_api, postgres_database):
    async with open_api() as api:
        api.start_worker()
        assert (await api.http.get(URL, headers={"Prefer": "wait=20"})).status_code == 200
        with psycopg.connect(postgres_database) as connection:
            connection.execute("UPDATE history.queue_hour SET queue_id = '=HYPERLINK(\"x\")' WHERE queue_id <> ''")
        await api.redis.flushall()
        accept, body = {"Accept": "text/csv"}, {"interval": DAY, "csv": "safe"}
        plain = await api.http.get(URL, headers=accept)
        by_url = await api.http.get(f"{URL}&csv=safe", headers=accept)
        by_body = await api.http.post("/v1/reports/queue_hour", json=body, headers=accept)
        assert "'=" not in plain.text
        assert by_url.text == by_body.text == plain.text.replace('"=', "\"'=")
        # A URL that was parsed before is answered without routing.
        assert (await api.http.get(f"{URL}&csv=safe", headers=accept)).text == by_url.text
        assert (await api.http.get(f"{URL}&csv=safe")).json() == (await api.http.get(URL)).json()
        refused = await api.http.get(f"{URL}&csv=unsafe", headers=accept)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "query.csv")


async def test_interval_is_widened_to_buckets_on_request(open_api):
    async with open_api() as api:
        api.start_worker()
        wait, base = {"Prefer": "wait=20"}, "/v1/reports/queue_hour"
        cut = "2026-01-05T07:19:09.254Z/2026-01-05T13:19:09.254Z"
        assert (await api.http.get(f"{base}?interval={cut}", headers=wait)).status_code == 422
        by_url = await api.http.get(f"{base}?interval={cut}&align=buckets", headers=wait)
        assert by_url.json()["interval"] == "2026-01-05T07:00:00Z/2026-01-05T14:00:00Z"
        by_day = {"interval": cut, "align": "buckets", "granularity": "P1D", "timeZone": "UTC"}
        answer = await api.http.post(base, json=by_day, headers=wait)
        assert answer.json()["interval"] == DAY
        # The present day is included up to the bucket that has begun.
        today = await api.http.get(f"{base}?interval=2026-01-05T12:30Z/2026-01-06T12:30Z&align=buckets", headers=wait)
        assert today.json()["interval"].startswith("2026-01-05T12:00:00Z/")
        assert today.headers["Provisional-From"] >= "2026-01-06T11:00:00Z"
        # A whole interval stays as it is, and before the report's start there is nothing.
        whole = await api.http.get(f"{base}?interval={DAY}&align=buckets", headers=wait)
        assert whole.json()["interval"] == DAY
        early = await api.http.get(f"{base}?interval=2024-12-31T12:30Z/2025-01-01T12:30Z&align=buckets")
        assert early.status_code == 422
