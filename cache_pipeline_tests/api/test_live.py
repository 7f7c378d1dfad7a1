"""Live reports over HTTP: one request to the vendor for everybody, half a minute of age, and no history."""

import asyncio
import csv
import io
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache_pipeline.api.app import create_app
from cache_pipeline.service.live_answers import LiveAnswers, live_key
from cache_pipeline.settings import ApiSettings
from cache_pipeline.storage.ttl import LIVE_TTL
from cache_pipeline_tests.api.conftest import DAY, REPORT, Api, OpenApi
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.vendors.genesys.test_observations import live_report

URL = "/v1/reports/queue_now"
QUIET = {"conversations_per_working_day": 0, "queues": 3, "agents": 4}
OBSERVE = "POST /api/v2/analytics/queues/observations/query"


class Now:
    """The machine's time, that a test may advance."""

    def __init__(self):
        self.ahead = timedelta(0)

    def utc(self):
        return datetime.now(UTC) + self.ahead

    def now(self):
        return time.time() + self.ahead.total_seconds()


async def _asked(api: Api):
    calls = (await api.vendor.get("/simulator/counters")).json()["calls"]
    return sum(each["count"] for each in calls if each["call"] == OBSERVE)


def _read_stream(body: io.BytesIO) -> pa.Table:
    return pa.ipc.open_stream(body).read_all()


def _live(api: Api) -> LiveAnswers:
    live = api.query_service.report_service.live
    assert live is not None
    return live


def _rows(answer: httpx.Response) -> list[dict[str, Any]]:
    document = answer.json()
    return [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]


async def test_callers_and_processes_share_one_request(open_api: OpenApi):
    clock = Now()
    async with open_api(live=[live_report()], vendor=QUIET, clock=clock) as api:
        await api.vendor.post("/simulator/calls", json={"queue": 1, "wait_seconds": 600})
        began = time.monotonic()
        service = api.query_service.report_service
        other = create_app(api.settings, reports={REPORT.name: REPORT}, live_reports={"queue_now": live_report()})
        async with other.router.lifespan_context(other):
            live = other.state.query_service.report_service.live
            responses, answers = await asyncio.gather(
                asyncio.gather(*(api.http.get(URL) for _ in range(20))),
                asyncio.gather(*(live.answer(live_report(), service.tenant) for _ in range(20))),
            )
            assert await _asked(api) == 1
            assert {response.status_code for response in responses} == {200}
            assert {response.content for response in responses} == {answer.body for answer, _ in answers}
        assert [row["o_waiting"] for row in _rows(responses[0])].count(1) == 1
        assert (await api.http.get(URL)).headers["Cache-Status"].endswith("detail=hot")
        left = await api.redis.pttl(live_key(live_report(), service.tenant)) / 1000
        assert 27 * 0.9 - (time.monotonic() - began) < left <= LIVE_TTL.total_seconds()


async def test_answer_says_how_old_it_is_and_is_asked_again_in_time(open_api: OpenApi):
    clock = Now()
    async with open_api(live=[live_report()], vendor=QUIET, clock=clock) as api:
        live = _live(api)
        began = time.monotonic()
        first = await api.http.get(URL)
        age = int(first.headers["Age"])
        assert 0 <= age <= time.monotonic() - began
        document = first.json()
        lasts = datetime.fromisoformat(document["freshUntil"]) - datetime.fromisoformat(document["observedAt"])
        assert lasts == timedelta(seconds=30)
        assert first.headers["Cache-Control"].startswith(f"private, max-age={age + 4}")
        await api.vendor.post("/simulator/calls", json={"queue": 0, "wait_seconds": 600})
        assert (await api.http.get(URL)).content == first.content
        # As time would.
        await api.redis.delete(live_key(live_report(), "default"))
        live._recent.clear()  # pyright: ignore[reportPrivateUsage]
        assert [row["o_waiting"] for row in _rows(await api.http.get(URL))].count(1) == 1
        assert await _asked(api) == 2


async def test_without_redis_a_process_asks_no_more_often(open_api: OpenApi):
    async with open_api(live=[live_report()], vendor=QUIET) as api:
        live = _live(api)
        answers = [await api.http.get(URL)]
        await api.redis.flushdb()
        answers += [await api.http.get(URL) for _ in range(3)]
        assert len({answer.content for answer in answers}) == 1
        ahead = replace(live, clock=lambda: datetime.now(UTC) + LIVE_TTL)
        answer, is_at_hand = await ahead.answer(live_report(), "default")
        assert not is_at_hand
        assert answer.body != answers[0].content


async def test_old_answers_fill_no_memory(open_api: OpenApi):
    clock = Now()
    async with open_api(live=[live_report()], vendor=QUIET, clock=clock) as api:
        live = _live(api)
        live = replace(live, clock=clock.utc)
        answer, _ = await live.answer(live_report(), "default")
        for number in range(3):
            # As if callers had named other ids each time.
            await live.store(f"other ids {number}", answer)
        assert len(live._recent) > 3  # pyright: ignore[reportPrivateUsage]
        clock.ahead += LIVE_TTL
        await live.store("other ids 3", answer)
        assert set(live._recent) == {"other ids 3"}  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("body", [{"interval": DAY}, {"interval": "2030-01-01/2030-01-02"}])
async def test_history_is_refused_with_one_clear_error(open_api: OpenApi, body: dict[str, Any]):
    async with open_api(live=[live_report()], vendor=QUIET) as api:
        for answer in (await api.http.get(URL, params=body), await api.http.post(URL, json=body)):
            assert answer.status_code == 422
            assert "queue_now shows the present and keeps no history" in answer.json()["detail"]
        assert await _asked(api) == 0


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ("group_by=queueId", 422),
        ("metrics=oWaiting", 422),
        ("granularity=PT1H", 422),
        ("colour=red", 422),
        ("names=maybe", 422),
    ],
)
async def test_what_a_live_report_cannot_answer_is_named(open_api: OpenApi, parameters: str, status: int):
    async with open_api(live=[live_report()], vendor=QUIET) as api:
        answer = await api.http.get(f"{URL}?{parameters}")
        assert answer.status_code == status
        assert parameters.partition("=")[0] in answer.text


async def test_report_with_partitions_still_needs_an_interval(open_api: OpenApi):
    async with open_api(live=[live_report()], vendor=QUIET) as api:
        answer = await api.http.get("/v1/reports/queue_hour")
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"field": "query.interval", "detail": "Field required"}]


async def test_every_format_has_rows_and_names(open_api: OpenApi):
    async with open_api(live=[live_report()], vendor=QUIET) as api:
        names = (await api.vendor.get("/simulator/directory")).json()["queues"]
        named = await api.http.get(f"{URL}?names=true")
        assert {row["queue_id"]: row["queue_name"] for row in _rows(named)} == names
        assert all(row["observed_at"] == named.json()["observedAt"] for row in _rows(named))
        text = (await api.http.get(f"{URL}?names=then", headers={"Accept": "text/csv"})).text
        assert {line["queue_id"]: line["queue_name"] for line in csv.DictReader(io.StringIO(text))} == names
        for media_type, read in (
            ("application/vnd.apache.arrow.stream", _read_stream),
            ("application/vnd.apache.parquet", pq.read_table),
        ):
            rows: pa.Table = read(io.BytesIO((await api.http.get(URL, headers={"Accept": media_type})).content))
            assert sorted(str(each) for each in rows["queue_id"].to_pylist()) == sorted(names)
            assert "interval_start" not in rows.schema.names
        again = await api.http.get(URL, headers={"If-None-Match": (await api.http.get(URL)).headers["ETag"]})
        assert again.status_code == 304


async def test_failure_is_told_to_all_and_not_repeated(open_api: OpenApi):
    async with open_api(
        live=[live_report()], vendor={**QUIET, "client_permissions": {"demo-client": {"routing:queue:view"}}}
    ) as api:
        answers = await asyncio.gather(*(api.http.get(URL) for _ in range(5)))
        answers.append(await api.http.get(URL))
        assert {answer.status_code for answer in answers} == {502}
        assert all("analytics:queueObservation:view" in answer.json()["detail"] for answer in answers)
        assert await _asked(api) == 1


async def test_unreadable_listing_is_named(open_api: OpenApi):
    async with open_api(live=[live_report()], vendor={**QUIET, "client_permissions": {"demo-client": set()}}) as api:
        answer = await api.http.get(URL)
        assert answer.status_code == 503
        assert "routing:queue:view" in answer.json()["detail"]


async def test_key_sees_only_its_live_reports(open_api: OpenApi):
    async with open_api(live=[live_report()], vendor=QUIET, api=ApiSettings(auth="keys")) as api:
        all_reports, one = await create_key(api), await create_key(api, reports=["queue_hour"])
        assert (await api.http.get(URL)).status_code == 401
        assert (await api.http.get(URL, headers=one)).status_code == 403
        assert (await api.http.get(URL, headers=all_reports)).status_code == 200
        listed = [(await api.http.get("/v1/reports", headers=key)).json()["liveReports"] for key in (all_reports, one)]
        assert [[each["href"] for each in reports] for reports in listed] == [[URL], []]


async def test_tenants_do_not_share_answers():
    assert live_key(live_report(), "one") != live_key(live_report(), "two")
    assert live_key(live_report(), "one").startswith("analytics:queueObservations:")
    assert live_key(live_report(), "one").endswith(":30s")
