"""HTTP clients in a process of their own. Each keeps its connection and sends its next request after each answer."""

import asyncio
import multiprocessing
import statistics
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.result import BenchmarkError


@dataclass(frozen=True)
class LoadResult:
    """What the clients measured.

    Attributes:
        per_second: Answers with status 200 per second.
        p50_ms: Median time from request to answer, in milliseconds.
        p99_ms: 99th percentile of that time, in milliseconds.
        bytes: Size of the last body.
    """

    per_second: float
    p50_ms: float
    p99_ms: float
    bytes: int


@dataclass(frozen=True)
class RequestPlan:
    """What the clients send.

    Attributes:
        url: URL to request.
        headers: Headers of each request.
        connections: Number of clients.
        seconds: Duration, or None to send one request each.
    """

    url: str
    headers: dict[str, str]
    connections: int
    seconds: float | None = None


def run_clients(plan: RequestPlan) -> LoadResult:
    """Run the clients in a new process and return what they measured.

    Raises:
        BenchmarkError: An answer had another status than 200.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (plan,))


def _run(plan: RequestPlan) -> LoadResult:
    return asyncio.run(_send_requests(plan))


async def _send_requests(plan: RequestPlan) -> LoadResult:
    parts = urlsplit(plan.url)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in plan.headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    durations: list[float] = []
    size = 0
    connections = [
        await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20) for _ in range(plan.connections)
    ]
    started = time.perf_counter()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal size
        while True:
            sent_at = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise BenchmarkError(f"{parts.path} answered {head[:12].decode('latin-1')} instead of 200")
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            answered_at = time.perf_counter()
            durations.append(answered_at - sent_at)
            if plan.seconds is None or answered_at - started > plan.seconds:
                return

    await asyncio.gather(*(client(*connection) for connection in connections))
    elapsed = time.perf_counter() - started
    for _, writer in connections:
        writer.close()
    percentiles = statistics.quantiles(durations, n=100) if len(durations) > 1 else durations * 99
    return LoadResult(len(durations) / elapsed, percentiles[49] * 1000, percentiles[98] * 1000, size)
