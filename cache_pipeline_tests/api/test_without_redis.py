"""The API without Redis: it answers from history, and queues jobs that finish once Redis is back."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.upstream.vendor import Valkey

URL = f"/v1/reports/queue_hour?interval={DAY}"
NOT_STORED = "/v1/reports/queue_hour?interval=2026-01-04T00:00:00Z/2026-01-05T00:00:00Z"


@pytest.fixture
def persistence(tmp_path: Path) -> tuple[str, ...]:
    """Return options that keep its memory, because after losing it Redis grants no quota for one window."""
    return ("--dir", str(tmp_path), "--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def own_valkey(persistence: tuple[str, ...]) -> Iterator[Valkey]:
    server = Valkey()
    server.start(*persistence)
    yield server
    server.stop()


@pytest.fixture
def redis_database(own_valkey: Valkey) -> str:
    """Return the URL of a server that the test may stop."""
    return own_valkey.url


async def test_history_answers_and_jobs_finish_after_redis_returns(open_api, own_valkey, persistence, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._LOST_AFTER", timedelta(seconds=0.5))
    async with open_api(api=ApiSettings(auth="keys")) as api:
        api.http.headers.update(await create_key(api))
        api.start_worker()
        before = await api.http.get(URL, headers={"Prefer": "wait=20"})
        own_valkey.stop()

        stored = await api.http.get(URL)
        assert (stored.status_code, stored.content) == (200, before.content)
        assert stored.headers["Cache-Status"] == "cache-pipeline; hit; detail=history"
        unchanged = await api.http.get(URL, headers={"If-None-Match": before.headers["ETag"]})
        assert unchanged.status_code == 304
        assert (await api.http.get(f"{URL}&group_by=&granularity=P1D")).status_code == 200

        missed = await api.http.get(NOT_STORED)
        assert missed.status_code == 202
        assert int(missed.headers["Retry-After"]) > 55, "nothing is sent for a window, and Retry-After says so"
        ready = await api.http.get("/readyz")
        assert (ready.status_code, ready.json()["ok"]) == (200, True), (
            "a load balancer must not remove all API processes"
        )
        assert {each["name"]: each["ok"] for each in ready.json()["dependencies"]}["redis"] is False
        assert (await api.http.get("/v1/quota")).json()["clients"][0]["state"] == "throttled"

        own_valkey.start(*persistence)
        assert (await api.wait_until_finished(missed.headers["Location"], seconds=40))["state"] == "done"
        assert (await api.http.get(NOT_STORED)).status_code == 200
