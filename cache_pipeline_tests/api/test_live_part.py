"""Answers with what happens now beside stored figures, over HTTP and through both Python clients."""

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from cache_pipeline.api.app import create_app
from cache_pipeline.client import AsyncClient, Client, QueryRefused
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.service.live_answers import failure_key, live_key
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import REPORT
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_live import QUIET, Now, _asked
from cache_pipeline_tests.api.test_live_page import DAY_REPORT, WITH_LEVEL
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.query.declared import with_changes
from cache_pipeline_tests.vendors.genesys.test_observations import live_report

TODAY = with_changes(DAY_REPORT, live="queue_now")
LIVE = live_report(metrics=["oWaiting", "oLongestWaiting"])
VENDOR = {"conversations_per_working_day": 400, "queues": 3, "agents": 4}


def _day(offset=0):
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=offset)
    return f"{start:%Y-%m-%dT%H:%M:%SZ}/{start + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"


def _rows(document):
    return [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]


async def _end_a_call(api):
    """Let today have a call, also in the first hours of a Sunday."""
    answer = await api.vendor.post("/simulator/calls", json={"wait_seconds": 0, "talk_seconds": 0})
    assert answer.status_code == 201


async def _answer(api, accept="application/json", **parameters):
    headers = {"Accept": f"{accept}, application/problem+json;q=0.1", "Prefer": "wait=20"}
    return await api.http.get("/v1/reports/today", params={"interval": _day(), **parameters}, headers=headers)


@pytest.mark.serial
async def test_one_answer_has_history_and_the_present(open_api):
    async with open_api(TODAY, live=[LIVE], vendor=VENDOR, clock=Now()) as api:
        api.start_worker()
        await _end_a_call(api)
        await api.vendor.post("/simulator/calls", json={"queue": 1, "wait_seconds": 600})
        plain = (await _answer(api)).json()
        both = await _answer(api, live="true", names="true", measures="service_level")
        document = both.json()
        rows = _rows(document)
        assert {row["state"] for row in rows if row["interval_start"]} <= {"final", "provisional"}
        assert "provisional" in {row["state"] for row in rows}
        now = [row for row in rows if row["state"] == "live"]
        assert len(now) == 3
        # By day another call may wait as well.
        assert sum(row["o_waiting"] for row in now) >= 1
        assert all(row["queue_name"] for row in rows)
        assert {row["n_offered"] for row in now} == {None} == {row["service_level"] for row in now}
        offered = plain["columns"].index("n_offered")
        assert sum(row["n_offered"] or 0 for row in rows) == sum(row[offered] for row in plain["rows"])
        assert document["liveReport"] == "queue_now"
        assert document["completeThrough"] == plain["completeThrough"]
        assert {row["observed_at"] for row in now} == {document["observedAt"]}
        assert both.headers["Cache-Control"].startswith("private, max-age=")
        assert int(both.headers["Age"]) <= 30

        text = (await _answer(api, "text/csv", live="true")).text
        states = [line["state"] for line in csv.DictReader(io.StringIO(text))]
        assert states.count("live") == 3
        table = pq.read_table(io.BytesIO((await _answer(api, "application/vnd.apache.parquet", live="true")).content))
        assert table["state"].to_pylist() == states
        assert await _asked(api) == 1


async def test_interval_of_the_past_has_no_live_rows(open_api):
    async with open_api(TODAY, live=[LIVE], vendor=VENDOR, clock=Now()) as api:
        api.start_worker()
        document = (await _answer(api, interval=_day(-1), live="true")).json()
        assert document["rows"]
        assert "live" not in {row["state"] for row in _rows(document)}
        assert (document["observedAt"], document["liveProblem"]) == (None, None)
        assert await _asked(api) == 0


async def test_stored_figures_are_answered_if_the_present_is_unknown(open_api):
    permissions = {"demo-client": {"analytics:conversationAggregate:view", "routing:queue:view"}}
    async with open_api(TODAY, live=[LIVE], vendor={**VENDOR, "client_permissions": permissions}, clock=Now()) as api:
        api.start_worker()
        await _end_a_call(api)
        document = (await _answer(api, live="true")).json()
        assert _rows(document)
        assert "analytics:queueObservation:view" in document["liveProblem"]


async def test_what_has_no_live_part_is_named(open_api):
    plain = with_changes(DAY_REPORT, name="plain")
    async with open_api(TODAY, plain, live=[LIVE], vendor=VENDOR, clock=Now()) as api:
        for path, parameters, problem in (
            ("plain", {"live": "true"}, "plain declares no live report"),
            ("today", {"live": "true", "group_by": ""}, "lacks queueId"),
            ("queue_now", {"live": "true"}, "queue_now is live"),
            ("today", {"live": "perhaps"}, "live"),
        ):
            parameters = {"interval": _day(), **parameters} if path != "queue_now" else parameters
            answer = await api.http.get(f"/v1/reports/{path}", params=parameters)
            assert answer.status_code == 422, answer.text
            assert problem in answer.text
        reports = (await api.http.get("/v1/reports")).json()["reports"]
        assert {each["name"]: each["liveReport"] for each in reports} == {"today": "queue_now", "plain": None}


async def test_key_needs_both_reports(open_api):
    async with open_api(TODAY, live=[LIVE], vendor=VENDOR, clock=Now(), api=ApiSettings(auth="keys")) as api:
        api.start_worker()
        both, one = await create_key(api), await create_key(api, reports=["today"])
        path, wait = f"/v1/reports/today?interval={_day()}&live=true", {"Prefer": "wait=20"}
        # The first answer teaches the process the URL, for every key of the tenant.
        assert (await api.http.get(path, headers=both | wait)).status_code == 200
        assert (await api.http.get(path, headers=one | wait)).status_code == 403
        assert (await api.http.get(path.removesuffix("&live=true"), headers=one | wait)).status_code == 200


@pytest.mark.serial
async def test_clients_query_live_reports_and_live_parts(open_api):
    async with open_api(TODAY, live=[LIVE], vendor=VENDOR, clock=Now()) as api, served(api.app) as url:
        api.start_worker()
        async with AsyncClient(url) as client:
            now = await client.query("queue_now", names="current")
            both = await client.query("today", _day(), live=True)
            with pytest.raises(QueryRefused, match="queue_now shows the present and keeps no history"):
                await client.query("queue_now", _day())
            with pytest.raises(QueryRefused, match="invalid"):
                await client.query("today")

        def ask_synchronously():
            with Client(url) as client:
                return client.query("queue_now", names="current"), client.query("today", _day(), live=True)

        assert [each.table.schema for each in await asyncio.to_thread(ask_synchronously)] == [
            now.table.schema,
            both.table.schema,
        ]
        assert now.observed_at is not None
        assert now.table.schema.names[:3] == ["queue_id", "queue_name", "o_longest_waiting"]
        assert both.table["state"].to_pylist().count("live") == 3
        assert both.observed_at is not None
        assert both.live_problem is None


async def test_failure_is_shared_by_processes(open_api):
    permissions = {"demo-client": {"routing:queue:view"}}
    async with open_api(live=[LIVE], vendor={**QUIET, "client_permissions": permissions}) as api:
        first = await api.http.get("/v1/reports/queue_now")
        other = create_app(api.settings, reports={REPORT.name: REPORT}, live_reports={"queue_now": LIVE})
        async with other.router.lifespan_context(other):
            live = other.state.query_service.report_service.live
            with pytest.raises(Exception, match="analytics:queueObservation:view") as caught:
                await live.answer(LIVE, "default")
        assert (caught.value.http_status, first.status_code) == (502, 502)
        assert caught.value.public_text == first.json()["detail"]
        assert await _asked(api) == 1
        assert 0 < await api.redis.pttl(failure_key(live_key(LIVE, "default"))) <= 5_000


async def test_unknown_queue_causes_one_reading_of_the_listing(open_api):
    async with open_api(live=[LIVE], vendor=QUIET, clock=Now()) as api:
        live = api.query_service.report_service.live
        await api.http.get("/v1/reports/queue_now")
        known = await live.listed_ids(LIVE, "default")

        async def listings():
            calls = (await api.vendor.get("/simulator/counters")).json()["calls"]
            return sum(each["count"] for each in calls if each["call"] == "GET /api/v2/routing/queues")

        assert await listings() == 1
        # It was read a moment ago, so that an unknown id has to wait for ten minutes.
        await live.seek_unlisted(LIVE, "default", [*known, "new", None])
        assert await listings() == 1
        object.__setattr__(live, "clock", lambda: datetime.now(UTC) + timedelta(minutes=11))
        await live.seek_unlisted(LIVE, "default", known)
        assert await listings() == 1
        for _ in range(3):
            await live.seek_unlisted(LIVE, "default", [*known, "new"])
        assert await listings() == 2


def test_service_level_defaults_to_the_vendors_measure():
    assert LiveReport.model_validate(WITH_LEVEL.model_dump()).service_level.measure == "service_level"
