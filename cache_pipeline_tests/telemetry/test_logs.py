"""Log lines for machines and people, with one correlation id from request to vendor."""

import io
import json
import logging

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.settings import LogSettings
from cache_pipeline.telemetry.correlation import (
    accept_correlation_id,
    correlation_id,
    correlation_scope,
    new_correlation_id,
)
from cache_pipeline.telemetry.logs import set_up_logs
from cache_pipeline.telemetry.propagation import current_context, resume_context
from cache_pipeline_tests.api.conftest import DAY

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
logger = logging.getLogger("cache_pipeline.somewhere")


@pytest.fixture
def set_up_logging():
    """Return a function that sets up logging and returns the stream; restore the process's logging afterwards."""
    root, own = logging.getLogger(), logging.getLogger("cache_pipeline")
    before, level, stream = list(root.handlers), own.level, io.StringIO()

    def set_up(**settings):
        set_up_logs(LogSettings(**settings), "api", stream)
        return stream

    yield set_up
    root.handlers[:] = before
    own.setLevel(level)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_have_message_id_and_process(set_up_logging):
    stream = set_up_logging(format="auto")
    with correlation_scope("ask-1"):
        logger.info("stored %d rows", 7, extra={"report": "queue_hour"})
    try:
        raise ValueError("unknown value")
    except ValueError:
        logger.exception("job could not be enqueued")
    entry, failed = lines(stream)
    assert entry["message"] == "stored 7 rows"
    assert (entry["level"], entry["logger"], entry["process"]) == ("INFO", "cache_pipeline.somewhere", "api")
    assert (entry["correlation_id"], entry["report"]) == ("ask-1", "queue_hour")
    assert entry["time"].endswith("+00:00")
    assert failed["correlation_id"] is None
    assert "ValueError: unknown value" in failed["exc_info"]


def test_text_format_is_short_and_warns_only(set_up_logging):
    stream = set_up_logging(format="text")
    with correlation_scope("ask-1"):
        logger.info("details")
        logger.warning("check this")
    assert stream.getvalue() == "WARNING cache_pipeline.somewhere: check this [ask-1]\n"


def test_second_setup_replaces_the_first(set_up_logging):
    set_up_logging(format="json")
    stream = set_up_logging(format="json", level="ERROR")
    logger.warning("below the level")
    logger.error("once")
    assert [line["message"] for line in lines(stream)] == ["once"]


@pytest.mark.parametrize(
    ("request_id", "parent", "name"),
    [
        ("order-17:a.b_c", PARENT, "order-17:a.b_c"),
        (None, PARENT, TRACE),
        ("has a space", PARENT, TRACE),
        ("x" * 65, None, None),
        ("line\nbreak", "00-" + "0" * 32 + "-b7ad6b7169203331-01", None),
        (None, None, None),
    ],
)
def test_request_id_is_accepted_or_created(request_id, parent, name):
    found = accept_correlation_id(request_id, parent)
    assert found == name if name else (len(found) == 32 and found not in (request_id, parent))


@given(st.text())
def test_accepted_id_never_breaks_a_line_or_header(text):
    assert accept_correlation_id(text, text).isascii()
    assert accept_correlation_id(text, text).isprintable()
    assert len(accept_correlation_id(text, text)) <= 64


def test_id_propagates_with_the_context():
    with correlation_scope("ask-1"):
        carrier = current_context()
    assert json.loads(json.dumps(carrier)) == {"correlation_id": "ask-1"}
    with resume_context(carrier):
        assert correlation_id() == "ask-1"
    with resume_context({}):
        assert correlation_id() not in (None, "ask-1")
    assert correlation_id() is None
    assert new_correlation_id() != new_correlation_id()


async def test_one_id_spans_request_job_and_vendor_calls(open_api, set_up_logging):
    stream = set_up_logging(format="json")
    async with open_api() as api:
        api.start_worker()
        response: httpx.Response = await api.http.get(
            f"/v1/reports/queue_hour?interval={DAY}", headers={"Prefer": "wait=20", "X-Request-ID": "wall-7"}
        )
        assert (response.status_code, response.headers["X-Request-ID"]) == (200, "wall-7")
        hot = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}", headers={"traceparent": PARENT})
        assert hot.headers["X-Request-ID"] == TRACE
        refused = await api.http.get("/v1/reports/nothing?interval=x")
        assert len(refused.headers["X-Request-ID"]) == 32
    entries = lines(stream)
    calls = [line for line in entries if line["logger"] == "cache_pipeline.upstream.call_log"]
    assert len(calls) >= 3
    assert {line["correlation_id"] for line in calls} == {"wall-7"}
    assert {(line["account"], line["oauth_client"], line["status"]) for line in calls} <= {
        ("reportdata/main", "demo-client", status) for status in (200, 202)
    }
    assert all(line["vendor_correlation_id"] for line in calls)
    assert {line["correlation_id"] for line in entries if "job" in line["message"]} == {"wall-7"}
    for secret in ("demo-secret", api.settings.required_postgres_url(), api.settings.required_redis_url()):
        assert secret not in stream.getvalue()
    assert "Bearer" not in stream.getvalue()


async def test_unexpected_error_is_logged_under_the_request_id(open_api, set_up_logging, monkeypatch):
    async with open_api() as api:

        async def fail(*_args, **_more):
            raise RuntimeError("internal defect")

        monkeypatch.setattr(type(api.query_service), "serve", fail)
        stream = set_up_logging(format="json")
        answer = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}", headers={"X-Request-ID": "wall-8"})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (500, "wall-8")
    assert "defect" not in answer.text
    failed, access = (line for line in lines(stream) if line["logger"] == "cache_pipeline.api.middleware")
    assert failed["correlation_id"] == access["correlation_id"] == "wall-8"
    assert "internal defect" in failed["exc_info"]
    assert (access["status"], access["message"]) == (500, "GET /v1/reports/queue_hour: 500")
