"""A crowd of HTTP clients in a process of its own: kept connections, each asking again as soon as it is answered."""

import asyncio
import multiprocessing
import statistics
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.result import BenchmarkError


@dataclass(frozen=True)
class Load:
    """What one crowd met.

    Attributes:
        a_second: answers of 200.
        p50_ms: median of the time from request to answer.
        p99_ms: what one in a hundred took longer than.
        bytes: of the last body.
    """

    a_second: float
    p50_ms: float
    p99_ms: float
    bytes: int


@dataclass(frozen=True)
class Asking:
    """What to ask.

    Attributes:
        url: of one answer.
        headers: of each request.
        connections: clients.
        seconds: how long to go on, or None to ask once each.
    """

    url: str
    headers: dict[str, str]
    connections: int
    seconds: float | None = None


def crowd(asking: Asking) -> Load:
    """Let a crowd ask, and tell what it met.

    Raises:
        BenchmarkError: it was answered otherwise than by 200.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (asking,))


def _run(asking: Asking) -> Load:
    return asyncio.run(_ask(asking))


async def _ask(asking: Asking) -> Load:
    parts = urlsplit(asking.url)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in asking.headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    took: list[float] = []
    size = 0
    connections = [
        await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20) for _ in range(asking.connections)
    ]
    started = time.perf_counter()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal size
        while True:
            begun = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise BenchmarkError(f"{parts.path} answered {head[:12].decode('latin-1')} where 200 was expected")
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            ended = time.perf_counter()
            took.append(ended - begun)
            if asking.seconds is None or ended - started > asking.seconds:
                return

    await asyncio.gather(*(client(*connection) for connection in connections))
    elapsed = time.perf_counter() - started
    for _, writer in connections:
        writer.close()
    percentiles = statistics.quantiles(took, n=100) if len(took) > 1 else took * 99
    return Load(len(took) / elapsed, percentiles[49] * 1000, percentiles[98] * 1000, size)
