"""`stampede`: cost, for the vendor and for the callers, of many identical requests for data that no cache holds.

In four processes, 500 callers each request the same uncached day at the same moment. All contenders use one Valkey and one
simulated vendor, whose query takes about two seconds. They take turns, one round each, so that other load on the machine affects
all of them. A library guards a plain query with its own stampede protection. Ours is the whole service, which also verifies the
answer, writes it to PostgreSQL and records it in the ledger before returning it.

Measured over several rounds, each with its own day: queries that the vendor accepted (worst round); the time from the first
answer to the 99th percentile of all callers (median round), which excludes the vendor's time and our checks and shows how the
answer reaches those who wait; and the CPU time of the four processes for the whole round, most of which is waiting.

aiocache runs in one round only: its lock covers only the callers of one process, so most callers query the vendor.

Not measured: a remote Redis, several machines, and a fetching process that dies (the tests kill it).
"""

import asyncio
import multiprocessing
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.quota.processes import simulator_process
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from benchmarks.stampede.libraries import with_aiocache, with_cashews, with_dogpile
from benchmarks.stampede.ours import create_tables, ours
from benchmarks.stampede.setup import Contender, Setup
from cache_pipeline.embedded import EmbeddedServerError, EmbeddedServers, embedded_servers
from cache_pipeline.simulator import SimulatorError, SimulatorSettings
from cache_pipeline.upstream.http import httpx

_PROCESSES, _CALLERS, _ROUNDS = 4, 500, 7
_QUERY_SECONDS, _MAX_QUERY_SECONDS = 2.0, 20
_FIRST_DAY = datetime(2024, 3, 4, tzinfo=UTC)
_TIMEOUT_SECONDS = 300.0
_HEAD_START = 0.5
_OURS, _RUN_ONCE = "ours", "aiocache"


@dataclass(frozen=True)
class _Round:
    """Measurements of one round.

    Attributes:
        queries: Queries that the vendor accepted.
        p99: Seconds from the first answer to the 99th percentile of all callers.
        cpu: CPU time of all processes together, in seconds.
    """

    queries: int
    p99: float
    cpu: float


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed, or a caller got no answer.
    """
    contenders: dict[str, Contender] = {
        _OURS: ours,
        "cashews": with_cashews,
        "dogpile.cache": with_dogpile,
        _RUN_ONCE: with_aiocache,
    }
    try:
        with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder) / "servers") as servers:
            found = _run_rounds(contenders, servers, progress)
    except (EmbeddedServerError, SimulatorError) as error:
        raise BenchmarkError(str(error)) from error

    def row(what: str, unit: str, figure: Callable[[Sequence[_Round]], float], target: Target | None) -> Row:
        figures = {name: figure(rounds) for name, rounds in found.items()}
        return Row(what, figures.pop(_OURS), unit, figures, target=target)

    scenario = f"{_PROCESSES} x {_CALLERS} callers on one cold key"
    best_peer = min(statistics.median(each.p99 for each in rounds) for name, rounds in found.items() if name != _OURS)
    return Result(
        "stampede",
        (
            row(
                f"{scenario}: vendor queries (worst of {_ROUNDS})",
                "queries",
                lambda rounds: max(each.queries for each in rounds),
                Target("ours", "=", 1),
            ),
            row(
                f"{scenario}: first answer to 99th percentile (median of {_ROUNDS})",
                "ms",
                lambda rounds: 1000 * statistics.median(each.p99 for each in rounds),
                Target("ours", "<=", 1000 * best_peer),
            ),
            row(
                f"{scenario}: CPU time of the callers' processes (median of {_ROUNDS})",
                "s",
                lambda rounds: statistics.median(each.cpu for each in rounds),
                None,
            ),
        ),
    )


def _run_rounds(
    contenders: dict[str, Contender], servers: EmbeddedServers, progress: ProgressCallback
) -> dict[str, list[_Round]]:
    progress("starting")
    settings = SimulatorSettings(
        reportdata_rate_limit=1_000_000, job_seconds_base=_QUERY_SECONDS, job_seconds_per_1000_cells=0
    )
    with (
        simulator_process(settings) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as vendor,
        ExitStack() as stack,
    ):
        setup = Setup(url, SecretStr(servers.redis_url), SecretStr(servers.postgres_url), _CALLERS, _MAX_QUERY_SECONDS)
        create_tables(setup)
        pipes = {name: stack.enter_context(_start_workers(setup, each)) for name, each in contenders.items()}
        found: dict[str, list[_Round]] = {name: [] for name in contenders}
        for number in range(_ROUNDS):
            for name in contenders:
                if name != _RUN_ONCE or number == _ROUNDS - 1:
                    progress(f"round {number + 1} of {_ROUNDS}, {name}")
                    found[name].append(_run_round(pipes[name], vendor, number))
        return found


def _run_round(pipes: Sequence[Connection], vendor: httpx.Client, number: int) -> _Round:
    vendor.delete("/simulator/counters").raise_for_status()
    day = _FIRST_DAY + timedelta(days=7 * number)
    interval = f"{day:%Y-%m-%dT00:00:00Z}/{day + timedelta(days=1):%Y-%m-%dT00:00:00Z}"
    start = time.monotonic() + _HEAD_START
    for pipe in pipes:
        pipe.send((start, interval))
    messages = [_receive(pipe) for pipe in pipes]
    answered = sorted(at for instants, _ in messages for at in instants)
    queries = vendor.get("/simulator/counters").raise_for_status().json()["summary"]["submits"]
    p99 = answered[len(answered) * 99 // 100] - answered[0]
    return _Round(queries, p99, sum(cpu for _, cpu in messages))


@contextmanager
def _start_workers(setup: Setup, contender: Contender) -> Generator[list[Connection]]:
    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for _ in range(_PROCESSES):
            receiver, child_end = spawn.Pipe()
            process = spawn.Process(target=_run_worker, args=(setup, contender, child_end), daemon=True)
            process.start()
            child_end.close()
            pipes.append(receiver)
            processes.append(process)
        for pipe in pipes:
            _receive(pipe)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(10)
            process.terminate()
            process.join()


def _run_worker(setup: Setup, contender: Contender, parent: Connection) -> None:
    # Ctrl-C reaches every process of the terminal; the parent terminates its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve_rounds(setup, contender, parent))


async def _serve_rounds(setup: Setup, contender: Contender, parent: Connection) -> None:
    async with contender(setup) as fetch:

        async def call(interval: str) -> float:
            answer = await fetch(interval)
            at = time.monotonic()
            if not answer:
                raise BenchmarkError("a caller got an empty answer")
            return at

        parent.send("ready")
        while True:
            try:
                start, interval = await asyncio.to_thread(parent.recv)
            except (EOFError, OSError):
                return
            await asyncio.sleep(start - time.monotonic())
            before = time.process_time()
            instants = await asyncio.gather(*(call(interval) for _ in range(setup.callers)))
            parent.send((instants, time.process_time() - before))


def _receive(pipe: Connection) -> Any:
    """Return the next message of a pipe.

    Raises:
        BenchmarkError: The worker ended or sent nothing in time.
    """
    try:
        if pipe.poll(_TIMEOUT_SECONDS):
            return pipe.recv()
    except (EOFError, OSError):
        raise BenchmarkError("a worker ended early; see its output above") from None
    raise BenchmarkError(f"a worker sent nothing for {_TIMEOUT_SECONDS:.0f} s; is the machine overloaded?")
