"""Tests that a tenant never sees another tenant's rows, in any tier and through any route."""

import psycopg
from redis import Redis

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY, open_api
from cache_pipeline_tests.api.test_auth import create_key

__all__ = ["open_api"]

URL = f"/v1/reports/queue_hour?interval={DAY}"
#: A figure that no real answer contains.
MARK = 424242
WAIT = {"Prefer": "wait=30"}
_SERIES = "SELECT tenant, series FROM cache_pipeline_state.coverage"


def forget_hot(redis_url):
    with Redis.from_url(redis_url) as client:
        for key in client.scan_iter("analytics:*"):
            client.delete(key)


async def test_answers_contain_no_rows_of_other_tenants(open_api, postgres_database, redis_database):
    async with open_api(api=ApiSettings(auth="keys")) as api:
        api.start_worker()
        ours, theirs = await create_key(api, tenant="ours"), await create_key(api, tenant="theirs")
        assert (await api.http.get(URL, headers={**ours, **WAIT})).status_code == 200
        with psycopg.connect(postgres_database) as connection:
            connection.execute("UPDATE history.queue_hour SET offered = %s", [MARK])
        forget_hot(redis_database)
        marked = await api.http.get(URL, headers=ours)
        assert str(MARK) in marked.text
        submits = await api.submits()
        # Neither the hot tier nor the ETag nor history gives them our rows.
        with_tag = {**theirs, "If-None-Match": marked.headers["ETag"]}
        assert (await api.http.get(URL, headers=with_tag)).status_code == 202
        answer = await api.http.get(URL, headers={**theirs, **WAIT})
        assert answer.status_code == 200
        assert str(MARK) not in answer.text
        assert await api.submits() > submits
        rolled_up = [f"{URL}&granularity=P1D", f"{URL}&group_by=", f"{URL}&time_zone=Europe/Berlin"]
        for url in rolled_up[:2]:
            assert str(MARK) not in (await api.http.get(url, headers={**theirs, **WAIT})).text
        payload = {"reportId": "queue-performance", "timeGrouping": "byHour", "interval": DAY, "groupBy": ["queueId"]}
        by_payload = await api.http.post("/v1/queries", json=payload, headers={**theirs, **WAIT})
        assert str(MARK) not in by_payload.text
        assert str(MARK) in (await api.http.get(URL, headers=ours)).text
    with psycopg.connect(postgres_database) as connection:
        series = dict(connection.execute(_SERIES).fetchall())
        assert set(series) == {"ours", "theirs"}
        maxima = dict(connection.execute("SELECT series, max(offered) FROM history.queue_hour GROUP BY 1").fetchall())
    assert maxima[series["ours"]] == MARK > maxima[series["theirs"]]


async def test_job_of_another_tenant_does_not_exist(open_api):
    async with open_api(api=ApiSettings(auth="keys")) as api:
        ours, theirs = await create_key(api, tenant="ours"), await create_key(api, tenant="theirs")
        job = (await api.http.get(URL, headers=ours)).headers["Location"]
        for path in (job, f"{job}/events"):
            assert (await api.http.get(path, headers=theirs)).status_code == 404
        assert (await api.http.delete(job, headers=theirs)).status_code == 404
        assert (await api.http.get(job, headers=ours)).json()["state"] == "queued"
