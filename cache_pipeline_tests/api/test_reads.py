"""Reads of stored answers: a URL that was parsed before is answered alike, and to the same callers."""

from cache_pipeline.api.routes import reports
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.test_auth import create_key

URL = f"/v1/reports/queue_hour?interval={DAY}"


async def fill(api, headers=None):
    api.start_worker()
    answer = await api.http.get(URL, headers={"Prefer": "wait=20", **(headers or {})})
    assert answer.status_code == 200
    return answer


async def test_known_url_is_not_parsed_again(open_api, monkeypatch):
    async with open_api() as api:
        first = await fill(api)
        other_spelling = await api.http.get(f"{URL}&metrics=offered")

        def never(*_args, **_more):
            raise AssertionError("the URL was parsed again")

        monkeypatch.setattr(reports, "parse_query", never)
        known = await api.http.get(URL)
        assert known.content == other_spelling.content == first.content
        # The rate limit and the id differ for each request.
        varying = ("ratelimit", "x-request-id")
        headers, others = (
            {name: value for name, value in each.headers.items() if not name.startswith(varying)}
            for each in (known, other_spelling)
        )
        assert headers == others
        unchanged = await api.http.get(URL, headers={"If-None-Match": f'W/{first.headers["ETag"]}, "x"'})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert (await api.http.get(URL, headers={"Accept": "text/csv"})).headers["Content-Type"].startswith("text/csv")


async def test_requests_are_counted_once(open_api):
    async with open_api(api=ApiSettings(auth="keys")) as api:
        key = await create_key(api)
        await fill(api, key)
        remaining = [(await api.http.get(URL, headers=key)).headers["RateLimit"] for _ in range(2)]
        counts = [int(each.partition("r=")[2].partition(";")[0]) for each in remaining]
        assert counts[0] - counts[1] == 1


async def test_known_url_enforces_keys_and_limits(open_api):
    async with open_api(api=ApiSettings(auth="keys")) as api:
        ours = await create_key(api)
        other, narrow = await create_key(api, tenant="other"), await create_key(api, requests_per_minute=1)
        await fill(api, ours)
        assert (await api.http.get(URL, headers=ours)).status_code == 200
        assert (await api.http.get(URL)).status_code == 401
        assert (await api.http.get(URL, headers={"Authorization": "Bearer cp_x_y"})).status_code == 401
        assert (await api.http.get(URL, headers=other)).status_code == 202
        codes = [(await api.http.get(URL, headers=narrow)).status_code for _ in range(3)]
        assert codes[0] == 200
        assert 429 in codes


async def test_readiness_depends_on_postgresql_only(open_api, monkeypatch):
    async with open_api() as api:
        ready = await api.http.get("/readyz")
        assert (ready.status_code, ready.json()["ok"]) == (200, True)

        async def unavailable():
            raise ConnectionError("postgresql://user:secret@host")

        monkeypatch.setattr(api.query_service.queue, "health", unavailable)
        assert (await api.http.get("/readyz")).status_code == 200
        monkeypatch.setattr(type(api.query_service.jobs), "ping", lambda _self: unavailable())
        ready = await api.http.get("/readyz")
        assert (ready.status_code, ready.json()["ok"]) == (503, False)
        assert "secret" not in ready.text
        assert (await api.http.get("/healthz")).status_code == 200


async def test_narrowed_query_needs_no_further_upstream_query(open_api):
    async with open_api() as api:
        await fill(api)
        by_url = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}&group_by=&granularity=P1D")
        assert by_url.status_code == 200
        by_body = await api.http.post(
            "/v1/reports/queue_hour", json={"interval": DAY, "groupBy": [], "granularity": "P1D"}
        )
        guide = {"reportId": "queue-performance", "timeGrouping": "byDay", "interval": DAY, "groupBy": []}
        by_payload = await api.http.post("/v1/queries", json={**guide, "requestId": "17"})
        assert by_url.json()["rows"] == by_body.json()["rows"] == by_payload.json()["rows"]
        assert len(by_url.json()["rows"]) == 1
        assert await api.submits() == 1
        for query in ("group_by=colour", "metrics=nothing", "granularity=PT7M", "filters={", "time_zone=Mars/Base"):
            refused = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}&{query}")
            assert refused.status_code == 422, query
            assert refused.json()["errors"][0]["field"] == query.split("=")[0]


async def test_narrowed_job_leads_to_its_own_answer(open_api):
    async with open_api() as api:
        filters = {"predicates": [{"dimension": "queueId", "operator": "notIn", "values": ["unknown"]}]}
        query = {"interval": "2026-01-02/2026-01-03", "groupBy": [], "granularity": "P1D", "filters": filters}
        missed = await api.http.post("/v1/reports/queue_hour", json=query)
        assert missed.status_code == 202
        api.start_worker()
        job = await api.wait_until_finished(missed.headers["Location"])
        answer = await api.http.get(job["links"]["result"])
        assert (answer.status_code, len(answer.json()["rows"])) == (200, 1)


async def test_head_returns_headers_of_get(open_api):
    async with open_api() as api:
        await fill(api)
        for path in (URL, "/v1/reports", "/healthz", "/v2/nothing"):
            got, head = await api.http.get(path), await api.http.head(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert head.headers["Content-Length"] == got.headers["Content-Length"]
            assert head.headers.get("ETag") == got.headers.get("ETag")
        assert (await api.http.head("/v1/jobs/17/events")).headers["Allow"] == "GET"
