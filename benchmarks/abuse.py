"""`abuse`: what attacks on the HTTP API, without a key and with one, do to other callers and to its memory.

Each attack runs in a process of its own for some seconds, beside two clients: one reads `/healthz`, one a hot answer. The peer is the same
without the attack, measured right before it. Memory is that of the API's process, before the first attack and five seconds after each.

The attacker shares the machine's processors with the API. An attack that merely keeps a processor busy therefore shows too.
"""

import asyncio
import itertools
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from benchmarks.api import targets
from benchmarks.api.benchmark import create_key, servers_with_report
from benchmarks.api.load import LoadResult, RequestPlan, run_clients
from benchmarks.api.servers import ChildProcess, run_in_process
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.upstream.http import httpx

_SECONDS, _SETTLING_SECONDS = 3.0, 5.0
_CLIENTS = 2
_MAX_RATIO, _MAX_MEGABYTES = 5.0, 20.0
_HOT = "/v1/reports/queue_hour?interval=2026-01-05T00:00Z/2026-01-06T06:00Z"

Attack = Callable[[str, int, str], Awaitable[None]]


async def _requests(host: str, port: int, requests: Callable[[int], bytes], connections: int = 16) -> None:
    """Send requests over some connections without end. A connection that is closed is opened again."""
    numbers = itertools.count()

    async def client() -> None:
        while True:
            with suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(requests(next(numbers)))
                    await writer.drain()
                    while await reader.read(65536):
                        pass
                finally:
                    writer.close()
            await asyncio.sleep(0)

    await asyncio.gather(*(client() for _ in range(connections)))


async def _held(host: str, port: int, begin: bytes, more: bytes, pause: float, connections: int) -> None:
    """Hold connections open with unfinished requests, adding a little now and then."""

    async def client() -> None:
        while True:
            with suppress(OSError, EOFError):
                _, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(begin)
                    while not writer.is_closing():
                        await writer.drain()
                        await asyncio.sleep(pause)
                        writer.write(more)
                finally:
                    writer.close()
            await asyncio.sleep(0.1)

    await asyncio.gather(*(client() for _ in range(connections)))


def _get(path: str, key: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\nX-API-Key: {key}\r\n{more}\r\n".encode()


def _post(path: str, key: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\nX-API-Key: {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _long_keys(host: str, port: int, _key: str) -> None:
    await _requests(host, port, lambda number: _get(_HOT, f"{number:08d}" * 5000))


async def _unknown_keys(host: str, port: int, key: str) -> None:
    await _requests(host, port, lambda number: _get(_HOT, key[:-8] + f"{number:08d}"))


async def _half_requests(host: str, port: int, _key: str) -> None:
    await _held(host, port, b"GET /healthz HTTP/1.1\r\nHost: api\r\n", b"", 1.0, 1500)


async def _endless_headers(host: str, port: int, _key: str) -> None:
    line = b"X-Example: " + b"a" * 4000 + b"\r\n"
    await _held(host, port, b"GET /healthz HTTP/1.1\r\nHost: api\r\n", line, 0.01, 64)


async def _slow_bodies(host: str, port: int, _key: str) -> None:
    head = b"POST /v1/reports/queue_hour HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
    await _held(host, port, head, b" ", 0.5, 300)


async def _heavy_filters(host: str, port: int, key: str) -> None:
    """Send a conjunction of disjunctions, whose normal form is exponential."""
    terms = [
        {"or": [{"dimension": "queueId", "values": [f"q{number}-{each}"]} for each in range(8)]}
        for number in range(150)
    ]
    body = {"interval": "2026-01-05T00:00Z/2026-01-06T00:00Z", "filter": {"and": terms}}
    encoded = json.dumps(body).encode()
    await _requests(host, port, lambda _: _post("/v1/reports/queue_hour", key, encoded))


async def _other_spellings(host: str, port: int, key: str) -> None:
    """Ask for the same with ever new query strings of 7 KB, which caches of parsed questions would keep."""
    await _requests(host, port, lambda number: _get(f"{_HOT}&metrics=offered{',offered' * 900}&x{number}=1", key))


async def _large_answers(host: str, port: int, key: str) -> None:
    await _requests(host, port, lambda _: _get("/v1/reports/queue_hour?interval=2026-01-01/2036-01-01", key))


async def _event_streams(host: str, port: int, key: str) -> None:
    job = "00000000-0000-4000-8000-000000000000"
    await _requests(host, port, lambda _: _get(f"/v1/jobs/{job}", key, "Accept: text/event-stream\r\n"), 100)


_ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {
        "no key: keys of 40 KB": _long_keys,
        "no key: unknown keys of the right form": _unknown_keys,
        "no key: 1,500 half requests": _half_requests,
        "no key: endless headers": _endless_headers,
        "no key: 300 slow bodies": _slow_bodies,
        "a key: filters with an exponential normal form": _heavy_filters,
        "a key: ever new query strings of 7 KB": _other_spellings,
        "a key: ten years at once": _large_answers,
        "a key: event streams of unknown jobs": _event_streams,
    }
)


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A server did not start, or a client was refused.
    """
    simulated = SimulatorSettings(job_seconds_base=0.0, reportdata_rate_limit=1_000_000)
    with ExitStack() as stack:
        settings = stack.enter_context(servers_with_report(simulated, progress)).settings
        key, attacker = create_key(settings), create_key(settings)
        api = stack.enter_context(run_in_process(targets.api, settings))
        stack.enter_context(run_in_process(targets.worker, settings))
        headers = {"X-API-Key": key}
        answer = httpx.get(f"{api.message}{_HOT}", headers={**headers, "Prefer": "wait=50"}, timeout=90)
        if answer.status_code != 200:
            raise BenchmarkError(f"the first read was answered with {answer.status_code}")
        _measure(api, headers)
        memory = _megabytes(api.pid)
        rows: list[Row] = []
        for what, attack in _ATTACKS.items():
            progress(f"{what}: calm")
            calm = _measure(api, headers)
            progress(what)
            attacking = multiprocessing.get_context("spawn").Process(
                target=_run, args=(attack, api.message, attacker), daemon=True
            )
            attacking.start()
            try:
                time.sleep(2)
                attacked = _measure(api, headers)
            finally:
                attacking.kill()
                attacking.join()
            time.sleep(_SETTLING_SECONDS)
            target = Target("ratio", "<=", _MAX_RATIO)
            for of, before, during in zip(("/healthz", "hot read"), calm, attacked, strict=True):
                rows.append(Row(f"{what}: p99 of {of}", during.p99_ms, "ms", {"calm": before.p99_ms}, target=target))
            grown = max(0.0, _megabytes(api.pid) - memory)
            rows.append(Row(f"{what}: memory kept", grown, "MB", target=Target("ours", "<=", _MAX_MEGABYTES)))
        return Result("abuse", tuple(rows))


def _measure(api: ChildProcess, headers: dict[str, str]) -> tuple[LoadResult, LoadResult]:
    return (
        run_clients(RequestPlan(f"{api.message}/healthz?", {}, _CLIENTS, _SECONDS)),
        run_clients(RequestPlan(f"{api.message}{_HOT}", headers, _CLIENTS, _SECONDS)),
    )


def _run(attack: Attack, url: str, key: str) -> None:
    parts = urlsplit(url)
    asyncio.run(_attack(attack, parts.hostname or "", parts.port or 80, key))


async def _attack(attack: Attack, host: str, port: int, key: str) -> None:
    await attack(host, port, key)


def _megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6
