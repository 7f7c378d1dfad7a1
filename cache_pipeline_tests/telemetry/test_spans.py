"""Spans from the request through the job to the vendor and the stores, and none without a provider."""

from cache_pipeline.telemetry.spans import span
from cache_pipeline_tests.api.conftest import DAY

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def test_one_trace_spans_request_job_vendor_and_stores(open_api, finished_spans):
    async with open_api(traces="otlp") as api:
        api.start_worker()
        response = await api.http.get(
            f"/v1/reports/queue_hour?interval={DAY}", headers={"Prefer": "wait=20", "traceparent": PARENT}
        )
        assert response.status_code == 200
        await api.stop_workers()
    spans = [each for each in finished_spans() if f"{each.context.trace_id:032x}" == TRACE]
    names = {each.context.span_id: each for each in spans}

    def ancestors(each):
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
    assert [name for name in ancestors(posted) if name in ("submit", "chunk", "job")] == ["submit", "chunk", "job"]
    assert ancestors(posted)[-1].startswith("GET")
    for name in ("plan", "poll", "store history", "store hot"):
        assert any("job" in ancestors(each) for each in spans if each.name == name), name
    attributes = str([dict(each.attributes or {}) for each in finished_spans()])
    assert "demo-secret" not in attributes
    assert "Bearer" not in attributes


def test_span_without_provider_records_nothing():
    with span("plan", report="queue_hour") as current:
        assert not current.is_recording()
        assert not current.get_span_context().is_valid
