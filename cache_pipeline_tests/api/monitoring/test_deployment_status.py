"""The state of the deployment in `/v1/status`: what it holds, what it cost, and who may see it."""

import asyncio
import json
import re
from datetime import timedelta
from ipaddress import ip_network

import httpx
from click.testing import CliRunner

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.cli.main import cli
from cache_pipeline.errors import RedisUnavailable
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.test_auth import create_key

KEYS = ApiSettings(auth="keys")
URL = f"/v1/reports/queue_hour?interval={DAY}"
COOKIE = "cache_pipeline_key"


async def operator(api):
    return await create_key(api, is_operator=True)


async def read(api, headers=None):
    answer = await api.http.get("/v1/status", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()


async def test_status_shows_what_today_cost_and_saved(open_api):
    async with open_api() as api:
        api.start_worker()
        await api.wait_until_finished((await api.http.get(URL)).headers["Location"])
        for _ in range(5):
            assert (await api.http.get(URL)).status_code == 200
        status = await read(api)
    today = status["today"]
    assert today["answered"] == sum(today["byTier"].values()) == 5
    assert today["vendorRequests"] == today["vendorRequestsByReport"]["queue_hour"] > 0
    assert status["jobs"]["done"] == 1
    assert status["unavailable"] == {}


async def test_reports_are_those_of_the_command_line(
    open_api, monkeypatch, tmp_path, postgres_database, redis_database
):
    async with open_api() as api:
        api.start_worker()
        await api.wait_until_finished((await api.http.get(URL)).headers["Location"])
        status = (await api.http.get("/v1/status?days=400")).json()
    (shown,) = status["reports"]
    (tmp_path / "queue_hour.yaml").write_text(
        "name: queue_hour\ndescription: Offered\nplatform: reportdata\nquery_type: queue-performance\ngranularity: PT1H\n"
        "group_by: [queueId]\nmetrics: [offered]\ntime_zone: UTC\npartition: day\nstart: 2025-01-01\n"
        "fetch: {expected_groups: 8}\n"
    )
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", redis_database)
    printed = await asyncio.to_thread(
        CliRunner().invoke, cli, ["status", "--json", "--days", "400"], catch_exceptions=False
    )
    (described,) = json.loads(printed.stdout)["reports"]
    assert shown.keys() == described.keys()
    assert shown["days"]["2026-01-05"] == "final"
    assert (shown["report"], shown["days"]) == (described["report"], described["days"])


async def test_days_before_the_first_partition_are_not_missing_and_still_answered(open_api):
    today = utc_now().date()
    async with open_api(partitions_from=today - timedelta(days=3)) as api:
        (report,) = (await read(api))["reports"]
        metrics = (await api.http.get("/metrics")).text
        assert (await api.http.get(URL)).status_code == 202
    assert list(report["days"]) == [str(today - timedelta(days=ago)) for ago in (3, 2, 1, 0)]
    assert [gap[:10] for gap in report["gaps"]] == [str(today - timedelta(days=3))]
    assert re.search(r'^cache_pipeline_report_missing_partitions{report="queue_hour"} [23]\.0$', metrics, re.MULTILINE)


async def test_failed_jobs_are_of_the_keys_tenant(open_api):
    async with open_api(vendor={"job_seconds_base": 0.0}, api=KEYS) as api:
        ours = await create_key(api, tenant="ours", is_operator=True)
        theirs = await create_key(api, tenant="theirs", is_operator=True)
        await api.http.get(URL, headers=ours)
        job = await api.query_service.jobs.claim("worker", timedelta(seconds=30), 3)
        problem = {"type": "urn:cache-pipeline:problem:vendor-refused", "detail": "the vendor refused: do this"}
        await api.query_service.jobs.finish(job, problem)
        (failed,) = (await read(api, ours))["failedJobs"]
        assert (failed["report"], failed["detail"]) == ("queue_hour", "the vendor refused: do this")
        assert (await read(api, theirs))["failedJobs"] == []


async def test_part_that_cannot_be_read_is_named(open_api, monkeypatch):
    async def fail(*_):
        raise RedisUnavailable("it is full")

    async with open_api() as api:
        monkeypatch.setattr(api.query_service.heartbeats, "count", fail)
        status = await read(api)
    assert status["workers"] is None
    assert "it is full" in status["unavailable"].pop("workers")
    assert status["unavailable"] == {}
    assert status["reports"]


async def test_only_operators_see_the_deployment(open_api):
    async with open_api(api=KEYS) as api:
        assert (await api.http.get("/v1/status")).status_code == 401
        refused = await api.http.get("/v1/status", headers=await create_key(api))
        assert (refused.status_code, "--operator" in refused.text) == (403, True)
        await read(api, await operator(api))


async def test_browser_signs_in_with_a_key(open_api):
    async with open_api(api=KEYS) as api:
        key = (await operator(api))["Authorization"].split()[1]
        refused = await api.http.post("/v1/session", json={"key": "cp_wrong"})
        assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)
        signed_in = await api.http.post("/v1/session", json={"key": key})
        assert signed_in.status_code == 204
        cookie = signed_in.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        await read(api)
        # No route that acts or returns figures accepts the cookie.
        assert (await api.http.get(URL)).status_code == 401
        assert (await api.http.delete("/v1/session")).status_code == 204
        assert COOKIE not in api.http.cookies
        assert (await api.http.get("/v1/status")).status_code == 401


async def test_form_of_another_site_cannot_sign_in(open_api):
    async with open_api(api=KEYS) as api:
        key = (await operator(api))["Authorization"].split()[1]
        sent = json.dumps({"key": key})
        for media in ("text/plain", "application/x-www-form-urlencoded"):
            answer = await api.http.post("/v1/session", content=sent, headers={"Content-Type": media})
            assert (answer.status_code, "set-cookie" in answer.headers) == (415, False)


async def test_only_trusted_proxies_name_operators(open_api):
    trusting = KEYS.model_copy(update={"trusted_proxies": (ip_network("10.0.0.0/8"),)})
    async with open_api(api=trusting) as api:
        statuses = {}
        for address in ("10.1.2.3", "192.0.2.7"):
            transport = httpx.ASGITransport(api.app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
                headers = {"X-Forwarded-User": "operator@example.com", "X-Forwarded-Proto": "https"}
                statuses[address] = (await http.get("/v1/status", headers=headers)).status_code
                key = (await operator(api))["Authorization"].split()[1]
                cookie = (await http.post("/v1/session", json={"key": key}, headers=headers)).headers["Set-Cookie"]
                assert ("Secure" in cookie) is (address == "10.1.2.3")
        assert statuses == {"10.1.2.3": 200, "192.0.2.7": 401}
        # Without a name, a trusted proxy is an ordinary caller.
        transport = httpx.ASGITransport(api.app, client=("10.1.2.3", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
            assert (await http.get("/v1/status", headers={"X-Forwarded-User": " "})).status_code == 401
