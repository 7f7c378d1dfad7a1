"""Requests that are too large, too slow or too many, and the headers that protect browsers."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from cache_pipeline.api.http_protocol import BoundedHttpProtocol
from cache_pipeline.api.middleware import RequestLimits
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.test_served import served

URL = f"/v1/reports/queue_hour?interval={DAY}"


LARGE = 20_000_000


class HastyProtocol(BoundedHttpProtocol):
    header_timeout = 0.3


class NarrowProtocol(BoundedHttpProtocol):
    max_connections = 3


class ImpatientProtocol(NarrowProtocol):
    read_timeout = 0.3


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def large_app(scope, receive, send):
    """Read the body, and answer with more than any buffer of a connection holds."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(400):
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def answer_in_one_piece(scope, receive, send):
    """Answer as the API does with JSON: all that is not sent yet waits in the server."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
    await send({"type": "http.response.body", "body": b"x" * LARGE})


@asynccontextmanager
async def serving(protocol, served=app):
    """Serve with a protocol while the block lasts, and yield the port."""
    config = uvicorn.Config(served, port=0, log_level="error", log_config=None, lifespan="off", http=protocol)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:  # noqa: ASYNC110 - uvicorn sets no event
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def ended(reader):
    """Wait until the server has closed the connection, and return what it sent."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_unfinished_header_ends_the_connection():
    async with serving(HastyProtocol) as port:
        for start in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(start)
            assert await ended(reader) == b""
            writer.close()


async def test_endless_header_ends_the_connection():
    async with serving(BoundedHttpProtocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000)
        assert await ended(reader) == b""
        writer.close()


async def test_connections_are_bounded():
    async with serving(NarrowProtocol) as port:
        first, second, third, fourth = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        # The one that has waited longest for a request makes room, so that silent connections keep no caller out.
        assert await ended(first[0]) == b""
        for reader, writer in (second, third, fourth, second):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"204" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        # So does one that was answered and sends nothing more.
        fifth = await asyncio.open_connection("127.0.0.1", port)
        assert await ended(third[0]) == b""
        fifth[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"204" in await asyncio.wait_for(fifth[0].readuntil(b"\r\n\r\n"), 20)
        for _, writer in (first, second, third, fourth, fifth):
            writer.close()


async def test_pipelined_requests_are_bounded():
    """A megabyte of them would be a gigabyte of objects."""
    async with serving(BoundedHttpProtocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        for _ in range(2):
            assert b"204" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        assert (await ended(reader)).count(b"HTTP/1.1 204") < 100
        writer.close()


@pytest.mark.parametrize("requests", [1, 2, 5])
async def test_caller_that_hangs_up_is_noticed_and_logged_nowhere(requests: int, caplog: pytest.LogCaptureFixture):
    """Also while an earlier one of its pipelined requests is answered; a log of each would fill a disk."""
    ends: list[str] = []

    async def slow_app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        ends.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(BoundedHttpProtocol, slow_app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
        await asyncio.wait_for(reader.readuntil(b"first"), 20)
        writer.transport.abort()
        async with asyncio.timeout(20):
            while not ends:  # noqa: ASYNC110 - the application sets no event
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
    assert ends == ["http.disconnect"]
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


async def test_malformed_request_changes_no_answer_before_it():
    """The caller, or a proxy, would take a refusal in its middle for a part of that answer."""
    async with serving(BoundedHttpProtocol, large_app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"xxxx"), 20)
        writer.write(b"no request\r\n\r\n")
        rest = await ended(reader)
        assert b"HTTP/1.1" not in rest
        writer.close()


async def test_refused_connections_are_not_reopened_at_once():
    async with serving(BoundedHttpProtocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = asyncio.get_running_loop().time()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Example: \x00\r\n\r\n")
        head, _, body = (await ended(reader)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"content-type: application/problem+json" in head
        assert json.loads(body)["status"] == 400
        assert asyncio.get_running_loop().time() - began >= 0.2
        writer.close()


@pytest.mark.parametrize("path", ["/v1/queries", "/v1/reports/queue_hour", "/nowhere"])
async def test_body_of_a_caller_without_a_key_is_not_awaited(open_api, path: str):
    async with open_api(api=ApiSettings(auth="keys")) as api, served(api.app, http=BoundedHttpProtocol) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert b" 401 " in answer
        assert b"connection: close" in answer.lower()
        writer.close()


async def test_very_many_headers_are_refused_while_they_arrive():
    async with serving(BoundedHttpProtocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n" + b"ab:cd\r\n" * 300)
        assert b"too many headers" in await ended(reader)
        writer.close()


async def test_endless_trailers_end_the_connection():
    async with serving(BoundedHttpProtocol, large_app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: ")
        for _ in range(10):
            writer.write(b"x" * 100_000)
        assert b" 200 " not in await ended(reader)
        writer.close()


async def test_long_path_is_refused_before_it_is_decoded():
    async with serving(BoundedHttpProtocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /" + b"%0a" * 15_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        refused = await ended(reader)
        assert b"400" in refused
        assert b"too long" in refused
        writer.close()


@pytest.mark.parametrize(
    "request_head",
    [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["unfinished bodies", "unread answers"],
)
async def test_slow_callers_keep_no_caller_out(request_head: bytes):
    async with serving(NarrowProtocol, large_app) as port:
        attackers = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(3)]
        for _, writer in attackers:
            writer.write(request_head)
        await asyncio.sleep(0.5)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        for _, each in (*attackers, (reader, writer)):
            each.close()


async def test_answer_that_is_not_read_ends_the_connection():
    async with serving(ImpatientProtocol, large_app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1)
        assert len(await ended(reader)) < 400 * 100_000
        writer.close()


async def test_answer_that_is_read_slowly_arrives_whole():
    async with serving(ImpatientProtocol, answer_in_one_piece) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        received = 0
        # For several times as long as a caller may read nothing.
        while received < LARGE:
            part = await reader.readexactly(LARGE // 20)
            received += len(part)
            await asyncio.sleep(0.08)
        writer.close()


async def test_unread_files_of_the_documentation_are_not_held_open(open_api):
    path = "/docs/assets/swagger-ui-bundle.js"
    async with open_api() as api, served(api.app) as url:
        whole = await api.http.get(path)
        assert (whole.status_code, whole.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        assert len(whole.content) == int(whole.headers["Content-Length"]) > 1_000_000
        unread = [await asyncio.open_connection("127.0.0.1", httpx.URL(url).port, limit=1024) for _ in range(20)]
        for reader, writer in unread:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert await reader.readexactly(12) == b"HTTP/1.1 200"
        assert [each for each in open_files() if each.endswith(".js")] == []
        for _, writer in unread:
            writer.close()


def open_files() -> list[str]:
    """Return what the descriptors of this process are open to."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(each.readlink()))
    return found


async def test_large_headers_are_refused(open_api):
    async with open_api() as api:
        many = await api.http.get("/healthz", headers={f"X-{number}": "x" for number in range(200)})
        large = await api.http.get(URL, headers={"X-API-Key": "x" * 100_000})
        for refused in (many, large):
            assert refused.status_code == 431
            assert refused.json()["type"].endswith("headers-too-large")


async def test_overlong_query_string_is_refused_before_the_key(open_api):
    async with open_api() as api:
        refused = await api.http.get(f"{URL}&metrics=offered{',offered' * 2100}")
        assert refused.status_code == 414
        assert refused.json()["type"].endswith("query-string-too-long")
        assert (await api.http.get(f"/healthz?{'x' * 16_000}")).status_code == 200


async def test_body_that_does_not_arrive_is_refused():
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    async with asyncio.timeout(20):
        await RequestLimits(app, 1000, body_seconds=0.05)(scope, receive, send)
    assert sent[0]["status"] == 408


async def test_browsers_neither_guess_nor_frame(open_api):
    async with open_api() as api:
        for path in ("/healthz", "/v1/reports", URL, "/v2/nothing"):
            headers = (await api.http.get(path)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"


async def test_job_is_never_a_success_for_readers_of_rows_only(open_api):
    async with open_api() as api:
        for accept in ("text/csv", "application/vnd.apache.parquet", "text/csv, application/vnd.apache.arrow.stream"):
            missed = await api.http.get(URL, headers={"Accept": accept})
            assert missed.status_code == 503
            assert int(missed.headers["Retry-After"]) >= 1
            assert missed.headers["Content-Type"] == "application/problem+json"
            assert (await api.http.get(missed.headers["Location"])).json()["state"] == "queued"
        for accept in ("text/csv, */*;q=0.1", "text/csv, application/json", "application/problem+json, text/csv"):
            assert (await api.http.get(URL, headers={"Accept": accept})).status_code == 202


async def test_wait_is_shorter_than_the_timeout_of_proxies(open_api):
    async with open_api() as api:
        api.start_worker()
        answer = await api.http.get(URL, headers={"Prefer": "wait=600"})
        assert answer.headers["Preference-Applied"] == "wait=50"
