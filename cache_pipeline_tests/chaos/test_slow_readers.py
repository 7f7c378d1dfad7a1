"""Tests for the callers that hardly read: they keep the server waiting, and are gone afterwards."""

import asyncio
import os
from uuid import UUID

from cache_pipeline.query.interval import Interval
from cache_pipeline_tests.chaos.slow_readers import Footprint, Stored, hold_slow_readers

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
DAY = Interval.parse("2026-01-05T00:00:00Z/P1D")


async def test_slow_readers_leave_large_answers_unread_and_abort():
    unread: list[int] = []
    are_aborted = asyncio.Semaphore(0)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await asyncio.sleep(0.3)
        unread.append(writer.transport.get_write_buffer_size())
        try:
            await writer.drain()
        except OSError:
            are_aborted.release()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    statuses = await hold_slow_readers(port, [b"GET / HTTP/1.1\r\n\r\n"] * 4, 1.2)
    assert statuses == ["200"] * 4
    async with asyncio.timeout(5):
        for _ in range(4):
            await are_aborted.acquire()
    server.close()
    assert len(unread) == 4
    assert min(unread) > 500_000


async def test_slow_readers_without_server_have_no_status():
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    assert await hold_slow_readers(port, [b"GET / HTTP/1.1\r\n\r\n"], 0.5) == [""]


def test_requests_cover_every_report_format_and_stream():
    job = UUID(int=7)
    asked = b"".join(Stored({"first": DAY, "second": DAY}, [job]).requests(200))
    assert asked.count(b"GET ") == 200
    assert asked.count(f"GET /v1/jobs/{job}/events ".encode()) == 20
    assert asked.count(b"GET /v1/reports/first?interval=2026-01-05T00:00:00Z/2026-01-06T00:00:00Z ") == 90
    for accept in (b"application/json", b"text/csv", b"application/vnd.apache.arrow.stream"):
        assert asked.count(b"Accept: " + accept) == 60


def test_nothing_stored_means_no_requests():
    assert Stored({}, []).requests(200) == []


def test_footprint_of_a_process_that_does_not_run_is_unknown():
    footprint = Footprint.of(os.getpid())
    assert footprint is None or (footprint.megabytes > 10 and footprint.descriptors > 2)
    assert Footprint.of(None) is None
