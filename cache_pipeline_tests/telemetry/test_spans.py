"""Spans from the request through the job to the vendor and the stores, and nothing where nobody asked for them."""

from cache_pipeline.telemetry.spans import span
from cache_pipeline_tests.api.conftest import DAY

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def test_one_trace_from_the_request_through_the_job_to_vendor_and_stores(open_api, finished):
    async with open_api() as api:
        api.start_worker()
        asked = await api.http.get(
            f"/v1/reports/queue_hour?interval={DAY}", headers={"Prefer": "wait=20", "traceparent": PARENT}
        )
        assert asked.status_code == 200
        await api.stop_workers()
    spans = [each for each in finished() if f"{each.context.trace_id:032x}" == TRACE]
    names = {each.context.span_id: each for each in spans}

    def above(each):
        found = []
        while each is not None and each.parent is not None:
            each = names.get(each.parent.span_id)
            if each is not None:
                found.append(each.name)
        return found

    calls = [each for each in spans if each.name == "upstream call"]
    assert len(calls) >= 3
    posted = next(each for each in calls if each.attributes["cache_pipeline.method"] == "POST")
    assert posted.attributes["cache_pipeline.vendor_correlation_id"]
    assert posted.attributes["cache_pipeline.status"] in (200, 202)
    assert posted.attributes["cache_pipeline.correlation_id"] == TRACE
    assert [name for name in above(posted) if name in ("submit", "chunk", "job")] == ["submit", "chunk", "job"]
    assert above(posted)[-1].startswith("GET")
    for name in ("plan", "poll", "store history", "store hot"):
        assert any("job" in above(each) for each in spans if each.name == name), name
    told = str([dict(each.attributes or {}) for each in finished()])
    assert "demo-secret" not in told
    assert "Bearer" not in told


def test_without_a_provider_a_span_is_nothing():
    with span("plan", report="queue_hour") as current:
        assert not current.is_recording()
        assert not current.get_span_context().is_valid
