"""Queries at the vendor's paths that no declared report holds: fetched once, stored, reused, counted and dropped."""

import pytest

from cache_pipeline.cli.activity import describe_activity, read_activity
from cache_pipeline.query.report import Report
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.api.test_vendor_paths import (
    BODY,
    FLOWS,
    KEYS,
    PATH,
    ask_by_sdk,
    buckets_by_group,
    count_requests,
    credentials,
    query_corpus,
    read_table,
    simulator,
)

BERLIN = {**BODY, "interval": "2026-01-05/2026-01-06", "timeZone": "Europe/Berlin", "groupBy": ["userId"]}


async def _post(api, body, headers, status=200):
    answer = await api.http.post(PATH, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


async def _tables(api) -> list[str]:
    found = await read_table(api, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'ad_hoc_%'")
    return sorted(row["relname"] for row in found if row["relname"] != "ad_hoc_series")


async def test_sdk_gets_the_vendors_answers_without_a_report(open_api, tmp_path):
    async with open_api(FLOWS, api=KEYS, vendor={"conversations_per_working_day": 400}) as api:
        api.start_worker()
        queues = list((await api.vendor.get("/simulator/directory")).json()["queues"])
        queries = query_corpus(queues, 60)
        async with served(api.app) as url:
            ours = {"url": url, **await credentials(api)}
            of_vendor, cold = await ask_by_sdk(tmp_path, [simulator(api), ours], queries)
            before = await count_requests(api)
            (warm,) = await ask_by_sdk(tmp_path, [ours], queries)
        assert await count_requests(api) == before
    for query, expected, first, second in zip(queries, of_vendor, cold, warm, strict=True):
        assert buckets_by_group(first) == buckets_by_group(expected), query
        assert buckets_by_group(second) == buckets_by_group(expected), query


async def test_only_what_is_missing_is_fetched(open_api):
    async with open_api(FLOWS, api=KEYS) as api:
        api.start_worker()
        headers = await create_key(api)
        first = await _post(api, BERLIN, headers)
        assert first.headers["Cache-Status"].startswith("cache-pipeline; fwd=miss")
        requests = await count_requests(api)
        part = {**BERLIN, "interval": "2026-01-05T08:00:00/2026-01-05T12:00:00", "metrics": ["tHandle"]}
        assert "hit" in (await _post(api, part, headers)).headers["Cache-Status"]
        assert await count_requests(api) == requests
        longer = {**BERLIN, "interval": "2026-01-04/2026-01-06", "metrics": ["nOffered", "tHandle", "tTalk"]}
        await _post(api, longer, headers)
        assert len(await _tables(api)) == 1


async def test_series_is_one_tenants(open_api):
    async with open_api(FLOWS, api=KEYS) as api:
        api.start_worker()
        ours, theirs = await create_key(api, tenant="ours"), await create_key(api, tenant="theirs")
        await _post(api, BERLIN, ours)
        requests = await count_requests(api)
        answer = await _post(api, BERLIN, theirs)
        assert answer.headers["Cache-Status"].startswith("cache-pipeline; fwd=miss")
        assert await count_requests(api) == 2 * requests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["nImaginary"]}, "is refused by the vendor: Value [nImaginary] is not valid"),
        ({"metrics": ["oImaginary"]}, "unknown metrics oImaginary"),
        ({"groupBy": ["imaginary"]}, "is refused by the vendor: Value [imaginary] is not valid"),
        ({"granularity": "PT7M"}, "granularity"),
        ({"granularity": "never"}, "granularity"),
        ({"interval": "2025-01-01/2026-01-01"}, "ask for at most 62 days"),
        ({"interval": "2026-01-05T00:20:00/2026-01-06T00:00:00"}, "cuts a bucket"),
    ],
)
async def test_query_that_cannot_be_answered_is_a_bad_request(open_api, changes, message):
    async with open_api(FLOWS, api=KEYS) as api:
        api.start_worker()
        answer = await _post(api, BERLIN | changes, await create_key(api), status=400)
    assert answer.json()["code"] == "bad.request"
    assert message in answer.json()["message"]


async def test_key_of_a_report_gets_nothing_else(open_api):
    async with open_api(FLOWS, api=KEYS) as api:
        await _post(api, BERLIN, await create_key(api, reports=["flow_hour"]), status=404)
        assert await count_requests(api) == 0


@pytest.mark.parametrize(("most", "status"), [(0, 404), (1, 200)])
async def test_series_are_limited(open_api, most, status):
    async with open_api(FLOWS, api=ApiSettings(auth="keys", ad_hoc_series=most)) as api:
        api.start_worker()
        headers = await create_key(api)
        await _post(api, BERLIN, headers, status=status)
        if most:
            refused = await _post(api, {**BERLIN, "groupBy": ["queueId"]}, headers, status=400)
            assert "there are 1 other such queries already" in refused.json()["message"]
            await _post(api, {**BERLIN, "metrics": ["tTalk"]}, headers)


async def test_status_proposes_to_declare_what_is_asked_for_often(open_api):
    async with open_api(FLOWS, api=KEYS) as api:
        api.start_worker()
        headers = await create_key(api)
        for _ in range(20):
            await _post(api, BERLIN, headers)
        await api.query_service.ad_hoc_requests.flush()
        (name,) = await _tables(api)
        activity = await read_activity(api.settings)
    (line,) = [line for line in describe_activity(activity) if line.startswith("ad hoc series")]
    assert line.startswith(
        f"ad hoc series {name}: conversations by mediaType, userId, PT1H, nOffered, tHandle: 20 requests"
    )
    assert "declare a report for it" in line
    assert activity.ad_hoc[0].declaration["time_zone"] == "Europe/Berlin"


async def test_status_has_a_tenants_series_with_a_declaration_that_holds_them(open_api):
    async with open_api(FLOWS, api=KEYS) as api:
        api.start_worker()
        ours = await create_key(api, is_operator=True)
        theirs = await create_key(api, tenant="theirs", is_operator=True)
        await _post(api, BERLIN, ours)
        await _post(api, BERLIN | {"metrics": ["tTalk"]}, ours)
        (series,) = (await api.http.get("/v1/status", headers=ours)).json()["adHocSeries"]
        others = await api.http.get("/v1/status", headers=theirs)
        assert others.json()["adHocSeries"] == []
        await api.stop_workers()
    assert (series["requests"], series["isAskedOften"]) == (2, False)
    assert series["metrics"] == ["nOffered", "tHandle", "tTalk"]
    # The figures of the test are older than its first request, before which a proposed report begins.
    declared = Report.model_validate(series["declaration"] | {"start": "2025-01-01"})
    assert declared.name.startswith("conversations_")
    async with open_api(FLOWS, declared, api=ApiSettings(auth="keys", ad_hoc_series=0)) as api:
        api.start_worker()
        await _post(api, BERLIN | {"metrics": ["tTalk", "tHandle"]}, await create_key(api))


async def test_job_of_an_ad_hoc_series_has_no_link_to_a_report(open_api):
    async with open_api(FLOWS, api=KEYS) as api:
        api.start_worker()
        headers = await create_key(api)
        await _post(api, BERLIN, headers)
        (row,) = await read_table(api, "SELECT id FROM cache_pipeline_state.job")
        job = await api.http.get(f"/v1/jobs/{row['id']}", headers=headers)
    assert job.json()["state"] == "done"
    assert job.json()["links"]["result"] is None
    assert "Link" not in job.headers


async def test_unused_series_is_dropped_with_its_rows(open_api):
    async with open_api(FLOWS, api=KEYS) as api:
        api.start_worker()
        headers = await create_key(api)
        await _post(api, BERLIN, headers)
        (old,) = await _tables(api)
        await read_table(
            api,
            "UPDATE cache_pipeline_state.ad_hoc_series SET last_requested_at = now() - interval '8 days' RETURNING name",
        )
        await _post(api, {**BERLIN, "groupBy": ["queueId"]}, headers)
        (new,) = await _tables(api)
        coverage = await read_table(api, "SELECT DISTINCT report FROM cache_pipeline_state.coverage")
        assert new != old
        assert coverage == [{"report": new}]
