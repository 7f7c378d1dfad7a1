"""`abuse`: what attacks on the HTTP API, without a key and with one, do to other callers and to its memory.

Each attack runs in a process of its own for some seconds, beside two clients: one reads `/healthz`, one a hot answer. The peer is the same
without the attack, measured right before it. Memory is that of the API's process, before the first attack and five seconds after each.

The attacker shares the machine's processors with the API. It runs with the lowest priority, so that mainly what it makes the API do shows.
"""

import asyncio
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
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

MakeRequest = Callable[[int, str], bytes]


@dataclass(frozen=True)
class Attack:
    """One attack, which opens each connection again that is closed.

    Attributes:
        what: What it does, for the table.
        request: Returns what a connection sends first, given a number that no other has and a key.
        connections: How many are open at a time.
        more: What is sent from time to time while the connection is open, without reading; None if answers are read and nothing
            more is sent.
        pause: Seconds between two sendings of `more`.
    """

    what: str
    request: MakeRequest
    connections: int = 16
    more: bytes | None = None
    pause: float = 1.0


def _get(path: str, key: str, more: str = "", *, closing: bool = True) -> bytes:
    connection = "close" if closing else "keep-alive"
    return f"GET {path} HTTP/1.1\r\nHost: api\r\nConnection: {connection}\r\nX-API-Key: {key}\r\n{more}\r\n".encode()


def _post(path: str, key: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\nX-API-Key: {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _filter_with_an_exponential_normal_form() -> bytes:
    """Return a query with a conjunction of disjunctions."""
    terms = [
        {"or": [{"dimension": "queueId", "values": [f"q{number}-{each}"]} for each in range(8)]}
        for number in range(150)
    ]
    return json.dumps({"interval": "2026-01-05T00:00Z/2026-01-06T00:00Z", "filter": {"and": terms}}).encode()


_START = b"GET /healthz HTTP/1.1\r\nHost: api\r\n"
_FILTER = _filter_with_an_exponential_normal_form()
_POST_HEAD = b"POST /v1/reports/queue_hour HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
_PREFLIGHT = (
    b"OPTIONS /v1/reports/queue_hour HTTP/1.1\r\nHost: api\r\nConnection: close\r\nOrigin: https://example.org\r\n"
    b"Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: x-api-key\r\n\r\n"
)
_JOB_EVENTS = "/v1/jobs/00000000-0000-4000-8000-000000000000/events"
_STATIC = "/docs/assets/swagger-ui-bundle.js"

_ATTACKS = (
    Attack("no key: keys of 40 KB", lambda number, _key: _get(_HOT, f"{number:08d}" * 5000)),
    Attack("no key: unknown keys of the right form", lambda number, key: _get(_HOT, key[:-8] + f"{number:08d}")),
    Attack("no key: 1,500 half requests", lambda _number, _key: _START, 1500, b""),
    Attack("no key: endless headers", lambda _number, _key: _START, 64, b"X-Example: " + b"a" * 4000 + b"\r\n", 0.01),
    Attack("no key: 300 slow bodies", lambda _number, _key: _POST_HEAD, 300, b" ", 0.5),
    Attack("no key: 300 unfinished bodies", lambda _number, _key: _POST_HEAD + b" " * 59_000, 300, b""),
    Attack("no key: pipelined requests", lambda _number, _key: _get("/healthz", "", closing=False) * 1000, 100),
    Attack("no key: 300 headers", lambda _number, _key: _START + b"ab:cd\r\n" * 300 + b"\r\n"),
    Attack("no key: paths of 30 KB", lambda _number, _key: _get("/v1/" + "%41" * 10_000, "")),
    Attack("no key: query strings of 60 KB", lambda number, _key: _get(f"{_HOT}&x={number}{'a' * 60_000}", "")),
    Attack("no key: 300 unread files of /docs", lambda _number, _key: _get(_STATIC, "", closing=False) * 8, 300, b""),
    Attack("no key: event streams", lambda _number, _key: _get(_JOB_EVENTS, "", "Accept: text/event-stream\r\n"), 100),
    Attack("no key: CORS preflights", lambda _number, _key: _PREFLIGHT, 100),
    Attack(
        "a key: filters with an exponential normal form",
        lambda _number, key: _post("/v1/reports/queue_hour", key, _FILTER),
    ),
    Attack(
        "a key: ever new query strings of 7 KB",
        lambda number, key: _get(f"{_HOT}&metrics=offered{',offered' * 900}&x{number}=1", key),
    ),
    Attack(
        "a key: ten years at once",
        lambda _number, key: _get("/v1/reports/queue_hour?interval=2026-01-01/2036-01-01", key),
    ),
    Attack(
        "a key: event streams of unknown jobs",
        lambda _number, key: _get(_JOB_EVENTS, key, "Accept: text/event-stream\r\n"),
        100,
    ),
    Attack(
        "a key: If-None-Match of 30 KB",
        lambda _number, key: _get(_HOT, key, "If-None-Match: " + '"a",' * 7500 + "\r\n"),
    ),
    Attack("a key: 300 unread answers", lambda _number, key: _get(_HOT, key, closing=False) * 16, 300, b""),
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
        for attack in _ATTACKS:
            what = attack.what
            progress(f"{what}: calm")
            calm = _measure(api, headers)
            progress(what)
            attacking = multiprocessing.get_context("spawn").Process(
                target=_run, args=(what, api.message, attacker), daemon=True
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


def _run(what: str, url: str, key: str) -> None:
    # The attacker must not take the processor from the servers: only what it makes them do counts.
    os.nice(19)
    parts = urlsplit(url)
    (attack,) = (each for each in _ATTACKS if each.what == what)
    asyncio.run(_attack(attack, parts.hostname or "", parts.port or 80, key))


async def _attack(attack: Attack, host: str, port: int, key: str) -> None:
    """Attack without end."""
    numbers = itertools.count()

    async def connect() -> None:
        while True:
            with suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection(host, port, limit=4096)
                try:
                    writer.write(attack.request(next(numbers), key))
                    if attack.more is None:
                        await writer.drain()
                        while await reader.read(65536):
                            pass
                    else:
                        while not writer.is_closing():
                            await writer.drain()
                            await asyncio.sleep(attack.pause)
                            writer.write(attack.more)
                finally:
                    writer.close()
            await asyncio.sleep(0 if attack.more is None else 0.1)

    await asyncio.gather(*(connect() for _ in range(attack.connections)))


def _megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6
