"""An API and a worker that start while a server fails over wait for it; nothing at the start ends them."""

import asyncio
import socket

import httpx
import pytest
from pydantic import SecretStr

from cache_pipeline.api.app import create_app
from cache_pipeline.api.jobs.worker_process import run_worker
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.query.series import Series
from cache_pipeline.settings import Settings
from cache_pipeline_tests.storage.sample_rows import REPORT


@pytest.fixture
def unreachable() -> Settings:
    """Settings of servers that are unreachable, without any report or account."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Settings(
        postgres_url=SecretStr(f"postgresql://user:planted-secret@127.0.0.1:{port}/database"),
        redis_url=SecretStr(f"redis://127.0.0.1:{port}/0"),
    )


async def test_service_opens_while_postgresql_is_away(unreachable: Settings):
    async with open_service(unreachable) as service:
        with pytest.raises(HistoryUnavailable, match="cannot be reached") as refused:
            await asyncio.to_thread(service.history.coverage, Series(REPORT))
        assert "planted-secret" not in str(refused.value)


async def test_api_starts_while_its_servers_are_away(unreachable: Settings):
    app = create_app(unreachable, reports={}, live_reports={})
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http,
    ):
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503


async def test_worker_starts_while_its_servers_are_away(unreachable: Settings, tmp_path, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker_process.load_reports", lambda _settings: {})
    started, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(run_worker(unreachable, stop, lambda _name: started.set()))
    async with asyncio.timeout(20):
        await asyncio.wait([running, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert not running.done(), running.exception()
    running.cancel()
    await asyncio.wait([running])
