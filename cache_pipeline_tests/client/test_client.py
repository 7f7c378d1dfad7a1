"""Tests of the client's decisions, without a network: following jobs, retries and timeouts."""

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pyarrow as pa
import pytest

from cache_pipeline.client import (
    ApiError,
    ApiUnavailable,
    AsyncClient,
    Client,
    ClientJobFailed,
    KeyRefused,
    QueryRefused,
    UnexpectedResponse,
)
from cache_pipeline.client.answer import ClientAnswer, retry_after
from cache_pipeline.client.exchange import Pause, QueryExchange, SendRequest

TABLE = pa.table({"offered": [3]})
JOB = "6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11"


def job(state: str, retry_after: float = 1, **fields: Any) -> httpx.Response:
    result = "/v1/reports/queue_hour?interval=x" if state == "done" else None
    body = {"id": JOB, "state": state, "percent": 0, "links": {"result": result}, "problem": None}
    status, headers = (202 if state == "queued" else 200), {"Retry-After": str(retry_after)}
    return httpx.Response(status, json=body | fields, headers=headers)


def answer() -> httpx.Response:
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, TABLE.schema) as writer:
        writer.write_table(TABLE)
    headers = {"Complete-Through": "2026-01-06T00:00:00Z", "ETag": '"1"'}
    return httpx.Response(200, content=stream.getvalue(), headers=headers)


def unavailable(seconds: int) -> httpx.Response:
    return httpx.Response(503, json={"detail": "PostgreSQL is unavailable"}, headers={"Retry-After": str(seconds)})


def proxy_page(status: int) -> httpx.Response:
    return httpx.Response(status, html="<html>The server is busy</html>")


@dataclass
class ScriptedApi:
    """An API with scripted responses, and a clock that advances only with pauses."""

    answers: list[httpx.Response | httpx.RequestError]
    timeout: float = 600.0
    at: float = 0.0
    sent: list[str] = field(default_factory=list)
    idempotency_keys: set[str | None] = field(default_factory=set)

    def run(self) -> pa.Table:
        steps = QueryExchange("queue_hour", {"interval": "x"}, None, self.timeout, lambda: self.at).steps()
        step = next(steps)
        while True:
            try:
                if isinstance(step, Pause):
                    self.at += step.seconds
                    step = steps.send(None)
                    continue
                assert isinstance(step, SendRequest)
                self.sent.append(f"{step.method} {step.path.partition('?')[0]}")
                if step.method == "POST":
                    self.idempotency_keys.add(step.headers.get("Idempotency-Key"))
                reply = self.answers.pop(0)
                step = steps.throw(reply) if isinstance(reply, httpx.RequestError) else steps.send(reply)
            except StopIteration as finished:
                return finished.value.table


def test_job_is_followed_to_its_answer():
    api = ScriptedApi([job("queued", 2), job("running", 3), job("done"), answer()])
    assert api.run() == TABLE
    assert api.at == 5
    assert api.sent == ["POST /v1/reports/queue_hour", *[f"GET /v1/jobs/{JOB}"] * 2, "GET /v1/reports/queue_hour"]


def test_answer_is_fetched_again_after_broken_connection():
    api = ScriptedApi([job("queued"), job("done"), httpx.ReadError("reset"), answer()])
    assert api.run() == TABLE
    assert api.sent[2:] == ["GET /v1/reports/queue_hour"] * 2


def test_long_retry_after_is_capped():
    api = ScriptedApi([job("queued", 600), job("done"), answer()], timeout=60)
    assert api.run() == TABLE
    assert api.at == 15


def test_job_survives_broken_connections():
    api = ScriptedApi([job("queued"), httpx.ReadError("reset"), httpx.ConnectError("refused"), job("done"), answer()])
    assert api.run() == TABLE


def test_unreachable_api_raises_at_once():
    with pytest.raises(httpx.ConnectError):
        ScriptedApi([httpx.ConnectError("refused")]).run()


@pytest.mark.parametrize(
    "failure", [httpx.ReadError("reset"), httpx.ReadTimeout("slow"), httpx.DecodingError("not gzip"), proxy_page(504)]
)
def test_broken_query_is_sent_again_under_one_idempotency_key(failure: httpx.Response | httpx.RequestError):
    api = ScriptedApi([failure, answer()])
    assert api.run() == TABLE
    assert api.sent == ["POST /v1/reports/queue_hour"] * 2
    (key,) = api.idempotency_keys
    assert key is not None
    assert key.strip('"')


def test_queries_have_different_idempotency_keys():
    apis = [ScriptedApi([answer()]) for _ in range(2)]
    for api in apis:
        api.run()
    assert apis[0].idempotency_keys.isdisjoint(apis[1].idempotency_keys)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_job_survives_errors_of_a_proxy(status: int):
    api = ScriptedApi([job("queued"), proxy_page(status), job("done"), proxy_page(status), answer()])
    assert api.run() == TABLE


def test_lasting_error_of_a_proxy_is_raised_after_timeout():
    with pytest.raises(ApiUnavailable, match="status 504"):
        ScriptedApi([proxy_page(504) for _ in range(40)], timeout=12).run()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("Tue, 06 Jan 2026 12:00:09 GMT", 9),
        ("Tuesday, 06-Jan-26 12:00:09 GMT", 9),
        ("Tue, 06 Jan 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("-3", None),
        ("7.5", None),
    ],
)
def test_both_forms_of_retry_after_are_read(value: str, seconds: float | None):
    headers = {"Retry-After": value, "Date": "Tue, 06 Jan 2026 12:00:00 GMT"}
    assert retry_after(httpx.Response(503, headers=headers)) == seconds


def test_date_in_retry_after_of_a_job_is_obeyed():
    queued = job("queued")
    queued.headers.update({"Retry-After": "Tue, 06 Jan 2026 12:00:09 GMT", "Date": "Tue, 06 Jan 2026 12:00:00 GMT"})
    api = ScriptedApi([queued, job("done"), answer()])
    assert api.run() == TABLE
    assert api.at == 9


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, html="<html>Sign in</html>"),
        httpx.Response(200, content=answer().content[:-40], headers=answer().headers),
        httpx.Response(200, content=answer().content),
        httpx.Response(200, json=[]),
        httpx.Response(202, html="<html>Please wait</html>"),
        httpx.Response(202, json={"id": "not a job"}),
        httpx.Response(202, json=[]),
        httpx.Response(302, headers={"Location": "https://login.example.com"}),
        httpx.Response(204),
    ],
)
def test_answer_of_something_else_is_one_typed_error(response: httpx.Response):
    with pytest.raises(UnexpectedResponse, match="check the base URL"):
        ScriptedApi([response]).run()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, KeyRefused),
        (403, KeyRefused),
        (404, QueryRefused),
        (422, QueryRefused),
        (429, ApiUnavailable),
        (500, ApiUnavailable),
    ],
)
def test_errors_are_typed_by_what_the_caller_can_do(status: int, kind: type[ApiError]):
    with pytest.raises(kind, match="the reason") as raised:
        ScriptedApi([httpx.Response(status, json={"detail": "the reason"})]).run()
    assert raised.value.retryable == (kind is ApiUnavailable)


async def test_both_clients_refuse_a_list_of_reports_from_something_else():
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, html="<html>Sign in</html>"))
    with Client("http://api.example.com", transport=transport) as client, pytest.raises(UnexpectedResponse):
        client.reports()
    async with AsyncClient("http://api.example.com", transport=transport) as client:
        with pytest.raises(UnexpectedResponse):
            await client.reports()


def test_retry_after_is_obeyed():
    api = ScriptedApi([unavailable(5), job("queued"), unavailable(5), job("done"), unavailable(5), answer()])
    assert api.run() == TABLE
    assert api.at == 5 + 1 + 5 + 5


def test_lasting_refusal_is_raised_after_timeout():
    with pytest.raises(ApiError, match="PostgreSQL is unavailable"):
        ScriptedApi([unavailable(5) for _ in range(10)], timeout=12).run()


def test_timeout_is_never_exceeded():
    api = ScriptedApi([job("queued"), *(job("running", 10) for _ in range(9))], timeout=30)
    with pytest.raises(TimeoutError, match=f"job {JOB} was not done within 30 s; it continues on the server"):
        api.run()
    assert api.at == 30


def test_failed_job_raises_its_reason():
    with pytest.raises(ClientJobFailed, match="the vendor refused"):
        ScriptedApi([job("queued"), job("failed", problem={"status": 502, "detail": "the vendor refused"})]).run()


def test_malformed_key_is_refused_before_sending():
    with pytest.raises(ValueError, match="keys create"):
        Client("http://127.0.0.1:9", key="cp_…")


@pytest.mark.parametrize(("has_safe_text", "name", "text"), [(False, "=name", "=1+1"), (True, "'=name", "'=1+1")])
def test_rows_as_csv_hold_no_formula_on_request(has_safe_text: bool, name: str, text: str):
    table = pa.table({"=name": ["=1+1", "plain, with a comma"], "offered": [1, None]})
    answer = ClientAnswer(table, datetime(2026, 1, 5, tzinfo=UTC), None, "", "")
    assert answer.to_csv(has_safe_text=has_safe_text).decode() == (
        f'{name},offered\r\n{text},1\r\n"plain, with a comma",\r\n'
    )
