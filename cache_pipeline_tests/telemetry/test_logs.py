"""Log lines that a machine can read and a person can follow, under one id from request to vendor."""

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
LOG = logging.getLogger("cache_pipeline.somewhere")


@pytest.fixture
def written():
    """Sets logs up, and gives what was written since; the process's own are as before afterwards."""
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


def test_json_lines_hold_what_was_said_under_which_id_and_by_whom(written):
    stream = written(format="auto")
    with correlation_scope("ask-1"):
        LOG.info("took %d rows", 7, extra={"report": "queue_hour"})
    try:
        raise ValueError("no such thing")
    except ValueError:
        LOG.exception("a job could not be booked")
    said, failed = lines(stream)
    assert said["message"] == "took 7 rows"
    assert (said["level"], said["logger"], said["process"]) == ("INFO", "cache_pipeline.somewhere", "api")
    assert (said["correlation_id"], said["report"]) == ("ask-1", "queue_hour")
    assert said["time"].endswith("+00:00")
    assert failed["correlation_id"] is None
    assert "ValueError: no such thing" in failed["exc_info"]


def test_text_is_for_people_and_says_less(written):
    stream = written(format="text")
    with correlation_scope("ask-1"):
        LOG.info("not worth a word")
        LOG.warning("somebody should look")
    assert stream.getvalue() == "WARNING cache_pipeline.somewhere: somebody should look [ask-1]\n"


def test_setting_up_twice_writes_once(written):
    written(format="json")
    stream = written(format="json", level="ERROR")
    LOG.warning("too little")
    LOG.error("once")
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
def test_a_request_brings_its_id_or_gets_one(request_id, parent, name):
    found = accept_correlation_id(request_id, parent)
    assert found == name if name else (len(found) == 32 and found not in (request_id, parent))


@given(st.text())
def test_whatever_is_sent_as_an_id_never_breaks_a_line_or_a_header(text):
    assert accept_correlation_id(text, text).isascii()
    assert accept_correlation_id(text, text).isprintable()
    assert len(accept_correlation_id(text, text)) <= 64


def test_the_id_goes_along_with_what_is_handed_on():
    with correlation_scope("ask-1"):
        carrier = current_context()
    assert json.loads(json.dumps(carrier)) == {"correlation_id": "ask-1"}
    with resume_context(carrier):
        assert correlation_id() == "ask-1"
    with resume_context({}):
        assert correlation_id() not in (None, "ask-1")
    assert correlation_id() is None
    assert new_correlation_id() != new_correlation_id()


async def test_one_id_from_the_request_through_the_job_to_each_call_of_the_vendor(open_api, written):
    stream = written(format="json")
    async with open_api() as api:
        api.start_worker()
        asked: httpx.Response = await api.http.get(
            f"/v1/reports/queue_hour?interval={DAY}", headers={"Prefer": "wait=20", "X-Request-ID": "wall-7"}
        )
        assert (asked.status_code, asked.headers["X-Request-ID"]) == (200, "wall-7")
        hot = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}", headers={"traceparent": PARENT})
        assert hot.headers["X-Request-ID"] == TRACE
        refused = await api.http.get("/v1/reports/nothing?interval=x")
        assert len(refused.headers["X-Request-ID"]) == 32
    said = lines(stream)
    calls = [line for line in said if line["logger"] == "cache_pipeline.upstream.call_log"]
    assert len(calls) >= 3
    assert {line["correlation_id"] for line in calls} == {"wall-7"}
    assert {(line["platform"], line["oauth_client"], line["status"]) for line in calls} <= {
        ("reportdata", "demo-client", status) for status in (200, 202)
    }
    assert all(line["vendor_correlation_id"] for line in calls)
    assert {line["correlation_id"] for line in said if "job" in line["message"]} == {"wall-7"}
    for secret in ("demo-secret", api.settings.required_postgres_url(), api.settings.required_redis_url()):
        assert secret not in stream.getvalue()
    assert "Bearer" not in stream.getvalue()


async def test_a_fault_is_answered_and_logged_under_the_requests_id(open_api, written, monkeypatch):
    async with open_api() as api:

        async def broken(*_args, **_more):
            raise RuntimeError("a defect of ours")

        monkeypatch.setattr(type(api.query_service), "serve", broken)
        stream = written(format="json")
        answer = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}", headers={"X-Request-ID": "wall-8"})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (500, "wall-8")
    assert "defect" not in answer.text
    failed, told = (line for line in lines(stream) if line["logger"] == "cache_pipeline.api.middleware")
    assert failed["correlation_id"] == told["correlation_id"] == "wall-8"
    assert "a defect of ours" in failed["exc_info"]
    assert (told["status"], told["message"]) == (500, "GET /v1/reports/queue_hour: 500")
