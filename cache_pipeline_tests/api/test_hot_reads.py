"""The shortest path says exactly what the long one says, to the same callers, and is counted."""

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.test_auth import key_for

URL = f"/v1/reports/queue_hour?interval={DAY}"


async def filled(api, headers=None):
    api.start_worker()
    answer = await api.http.get(URL, headers={"Prefer": "wait=20", **(headers or {})})
    assert answer.status_code == 200
    return answer


async def test_the_short_path_answers_as_the_long_one_does(open_api, monkeypatch):
    async with open_api() as api:
        first = await filled(api)
        long = await api.http.get(URL, headers={"Prefer": "handling=strict"})

        async def never(*_args, **_more):
            raise AssertionError("the long way was taken")

        monkeypatch.setattr(type(api.query_service), "serve", never)
        short = await api.http.get(URL)
        assert short.content == long.content == first.content
        # The limit counts each request, and each has an id of its own.
        own = ("ratelimit", "x-request-id")
        told = {name: value for name, value in short.headers.items() if not name.startswith(own)}
        assert told == {name: value for name, value in long.headers.items() if not name.startswith(own)}
        unchanged = await api.http.get(URL, headers={"If-None-Match": f'W/{first.headers["ETag"]}, "x"'})
        assert (unchanged.status_code, unchanged.content) == (304, b"")


async def test_the_short_path_knows_who_may_ask(open_api):
    async with open_api(api=ApiSettings(auth="keys")) as api:
        ours = await key_for(api)
        other, narrow = await key_for(api, tenant="other"), await key_for(api, requests_per_minute=1)
        await filled(api, ours)
        assert (await api.http.get(URL, headers=ours)).status_code == 200
        assert (await api.http.get(URL)).status_code == 401
        assert (await api.http.get(URL, headers={"Authorization": "Bearer cp_x_y"})).status_code == 401
        assert (await api.http.get(URL, headers=other)).status_code == 202
        codes = [(await api.http.get(URL, headers=narrow)).status_code for _ in range(3)]
        assert codes[0] == 200
        assert 429 in codes


async def test_it_is_ready_without_the_vendor_and_not_without_its_stores(open_api, monkeypatch):
    async with open_api() as api:
        ready = await api.http.get("/readyz")
        assert (ready.status_code, ready.json()["ok"]) == (200, True)

        async def away():
            raise ConnectionError("postgresql://user:secret@host")

        monkeypatch.setattr(api.query_service.queue, "health", away)
        assert (await api.http.get("/readyz")).status_code == 200
        monkeypatch.setattr(type(api.query_service.jobs), "ping", lambda _self: away())
        ready = await api.http.get("/readyz")
        assert (ready.status_code, ready.json()["ok"]) == (503, False)
        assert "secret" not in ready.text
        assert (await api.http.get("/healthz")).status_code == 200


async def test_a_narrowed_question_is_answered_from_the_same_upstream_query(open_api):
    async with open_api() as api:
        await filled(api)
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


async def test_a_narrowed_job_is_followed_to_its_own_answer(open_api):
    async with open_api() as api:
        filters = {"predicates": [{"dimension": "queueId", "operator": "notIn", "values": ["nobody's"]}]}
        query = {"interval": "2026-01-02/2026-01-03", "groupBy": [], "granularity": "P1D", "filters": filters}
        missed = await api.http.post("/v1/reports/queue_hour", json=query)
        assert missed.status_code == 202
        api.start_worker()
        job = await api.ended(missed.headers["Location"])
        answer = await api.http.get(job["links"]["result"])
        assert (answer.status_code, len(answer.json()["rows"])) == (200, 1)


async def test_head_is_told_what_get_would_be(open_api):
    async with open_api() as api:
        await filled(api)
        for path in (URL, "/v1/reports", "/healthz", "/v2/nothing"):
            got, head = await api.http.get(path), await api.http.head(path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert head.headers["Content-Length"] == got.headers["Content-Length"]
            assert head.headers.get("ETag") == got.headers.get("ETag")
        assert (await api.http.head("/v1/jobs/17/events")).headers["Allow"] == "GET"
