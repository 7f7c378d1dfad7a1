"""How a client asks, step by step, without a network: patient with the API, and never longer than it was told."""

import io
from dataclasses import dataclass, field
from typing import Any

import httpx
import pyarrow as pa
import pytest

from cache_pipeline.client import ApiError, Client, ClientJobFailed
from cache_pipeline.client.exchange import Pause, QueryExchange, SendRequest

TABLE = pa.table({"offered": [3]})
JOB = "6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11"


def job(state: str, retry_after: float = 1, **told: Any) -> httpx.Response:
    result = "/v1/reports/queue_hour?interval=x" if state == "done" else None
    body = {"id": JOB, "state": state, "percent": 0, "links": {"result": result}, "problem": None}
    status, headers = (202 if state == "queued" else 200), {"Retry-After": str(retry_after)}
    return httpx.Response(status, json=body | told, headers=headers)


def answer() -> httpx.Response:
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, TABLE.schema) as writer:
        writer.write_table(TABLE)
    headers = {"Complete-Through": "2026-01-06T00:00:00Z", "ETag": '"1"'}
    return httpx.Response(200, content=stream.getvalue(), headers=headers)


def away(seconds: int) -> httpx.Response:
    return httpx.Response(503, json={"detail": "PostgreSQL is away"}, headers={"Retry-After": str(seconds)})


@dataclass
class World:
    """An API that answers with one thing after the other, and a clock that only pauses move."""

    answers: list[httpx.Response | httpx.TransportError]
    timeout: float = 600.0
    at: float = 0.0
    sent: list[str] = field(default_factory=list)

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
                told = self.answers.pop(0)
                step = steps.throw(told) if isinstance(told, httpx.TransportError) else steps.send(told)
            except StopIteration as ended:
                return ended.value.table


def test_a_job_is_followed_to_its_answer():
    world = World([job("queued", 2), job("running", 3), job("done"), answer()])
    assert world.run() == TABLE
    assert world.at == 5
    assert world.sent == ["POST /v1/reports/queue_hour", *[f"GET /v1/jobs/{JOB}"] * 2, "GET /v1/reports/queue_hour"]


def test_an_answer_whose_connection_breaks_off_is_fetched_once_more():
    world = World([job("queued"), job("done"), httpx.ReadError("reset"), answer()])
    assert world.run() == TABLE
    assert world.sent[2:] == ["GET /v1/reports/queue_hour"] * 2


def test_an_estimate_that_is_far_too_long_is_not_believed():
    world = World([job("queued", 600), job("done"), answer()], timeout=60)
    assert world.run() == TABLE
    assert world.at == 15


def test_a_connection_that_breaks_costs_no_job():
    world = World([job("queued"), httpx.ReadError("reset"), httpx.ConnectError("refused"), job("done"), answer()])
    assert world.run() == TABLE


def test_an_api_that_is_not_there_is_told_at_once():
    with pytest.raises(httpx.ConnectError):
        World([httpx.ConnectError("refused")]).run()


def test_what_says_when_to_come_back_is_asked_again_then():
    world = World([away(5), job("queued"), away(5), job("done"), away(5), answer()])
    assert world.run() == TABLE
    assert world.at == 5 + 1 + 5 + 5


def test_a_refusal_that_lasts_beyond_the_timeout_is_told_as_it_is():
    with pytest.raises(ApiError, match="PostgreSQL is away"):
        World([away(5) for _ in range(10)], timeout=12).run()


def test_nobody_waits_longer_than_was_said():
    world = World([job("queued"), *(job("running", 10) for _ in range(9))], timeout=30)
    with pytest.raises(TimeoutError, match=f"job {JOB} was not done within 30 s; it continues on the server"):
        world.run()
    assert world.at == 30


def test_a_job_that_failed_says_why():
    with pytest.raises(ClientJobFailed, match="the vendor said no"):
        World([job("queued"), job("failed", problem={"status": 502, "detail": "the vendor said no"})]).run()


def test_a_key_that_was_pasted_wrongly_is_told_before_it_is_sent():
    with pytest.raises(ValueError, match="keys create"):
        Client("http://127.0.0.1:9", key="cp_…")
