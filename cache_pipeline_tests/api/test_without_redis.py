"""The API while Redis is away: what history holds is answered, and what it lacks waits for Redis as a job."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.test_auth import key_for
from cache_pipeline_tests.upstream.vendor import Valkey

URL = f"/v1/reports/queue_hour?interval={DAY}"
NOT_HELD = "/v1/reports/queue_hour?interval=2026-01-04T00:00:00Z/2026-01-05T00:00:00Z"


@pytest.fixture
def lasting(tmp_path: Path) -> tuple[str, ...]:
    """Options by which it keeps its memory: one that is known to have lost it grants nothing for a window."""
    return ("--dir", str(tmp_path), "--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def own_valkey(lasting: tuple[str, ...]) -> Iterator[Valkey]:
    server = Valkey()
    server.start(*lasting)
    yield server
    server.stop()


@pytest.fixture
def redis_database(own_valkey: Valkey) -> str:
    """A server that the test may stop."""
    return own_valkey.url


async def test_history_answers_and_what_it_lacks_is_a_job_that_ends_when_redis_is_back(
    open_api, own_valkey, lasting, monkeypatch
):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._LOST_AFTER", timedelta(seconds=0.5))
    async with open_api(api=ApiSettings(auth="keys")) as api:
        api.http.headers.update(await key_for(api))
        api.start_worker()
        before = await api.http.get(URL, headers={"Prefer": "wait=20"})
        own_valkey.stop()

        held = await api.http.get(URL)
        assert (held.status_code, held.content) == (200, before.content)
        assert held.headers["Cache-Status"] == "cache-pipeline; hit; detail=history"
        unchanged = await api.http.get(URL, headers={"If-None-Match": before.headers["ETag"]})
        assert unchanged.status_code == 304
        assert (await api.http.get(f"{URL}&group_by=&granularity=P1D")).status_code == 200

        missed = await api.http.get(NOT_HELD)
        assert missed.status_code == 202
        assert int(missed.headers["Retry-After"]) > 55, "nothing is sent for a window, and that is told"
        ready = await api.http.get("/readyz")
        assert (ready.status_code, ready.json()["ok"]) == (200, True), "a load balancer must not take all gateways away"
        assert {each["name"]: each["ok"] for each in ready.json()["dependencies"]}["redis"] is False
        assert (await api.http.get("/v1/quota")).json()["clients"][0]["state"] == "throttled"

        own_valkey.start(*lasting)
        assert (await api.ended(missed.headers["Location"], seconds=40))["state"] == "done"
        assert (await api.http.get(NOT_HELD)).status_code == 200
