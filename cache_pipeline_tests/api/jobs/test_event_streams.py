"""Streams of a job's events: their number per key, and their end when the key is revoked."""

import asyncio

from cache_pipeline.api import event_streams
from cache_pipeline.api.routes import jobs as routes
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.test_auth import create_key

URL = f"/v1/reports/queue_hour?interval={DAY}"


async def open_stream(api, path, headers):
    """Open a stream, wait for its first event, and return the task that reads it to its end."""
    first = asyncio.Event()
    status = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.start":
            status.append(message["status"])
        first.set()

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http",
        "query_string": b"", "headers": [(b"host", b"api"), *raw], "http_version": "1.1", "server": ("api", 80),
        "client": ("127.0.0.1", 1), "asgi": {"version": "3.0", "spec_version": "2.4"},
    }  # fmt: skip
    task = asyncio.create_task(api.app(scope, receive, send))
    async with asyncio.timeout(20):
        await first.wait()
    return task, status


async def test_streams_of_a_key_are_limited_and_end_with_it(open_api, monkeypatch):
    monkeypatch.setattr(event_streams, "_MAX_STREAMS", 2)
    monkeypatch.setattr(routes, "KEEP_ALIVE_SECONDS", 0.05)
    async with open_api(api=ApiSettings(auth="keys")) as api:
        key, other = await create_key(api), await create_key(api)
        path = (await api.http.get(URL, headers=key)).headers["Location"] + "/events"
        opened = [await open_stream(api, path, key) for _ in range(2)]
        async with asyncio.timeout(20):
            while sum(api.query_service.open_streams.values()) < 2:  # noqa: ASYNC110 - counted by the streams
                await asyncio.sleep(0.01)
        refused = await api.http.get(path, headers=key)
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (429, "too-many-streams")
        third, status = await open_stream(api, path, other)
        assert status == [200]
        key_id = key["Authorization"].split("_")[1]
        assert await api.query_service.api_keys._store.revoke(key_id)
        api.query_service.api_keys._valid.clear()
        async with asyncio.timeout(20):
            await asyncio.gather(*(task for task, _ in opened))
        assert not third.done()
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
