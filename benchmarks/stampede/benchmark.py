"""`stampede`: what a crowd that asks for one thing nobody has yet costs the vendor, and the crowd.

Four processes with 500 identical callers each ask at one instant for a day that no cache holds. All contenders stand on one
Valkey and before one simulated vendor, whose query takes about two seconds; they take turns, a crowd each, so that what
else the machine does falls on all of them alike. A library guards a plain query with its own protection against
stampedes; ours is the whole engine: it also proves the answer, writes it to PostgreSQL and notes it in the job ledger before
anybody gets it.

Measured, over several rounds with a day of its own each: queries that the vendor took (the worst round), how long after
the first caller of all had its answer the 99th of a hundred callers had it (the median round), so that neither the
vendor's time nor the engine's checks count, but only how the answer reaches those who wait; and the processor time that the
four processes took for the whole round, most of which is waiting.

aiocache is asked in one round alone: its lock knows only callers of its own process, and the others all fall upon the vendor.

Not measured: a Redis far away, several machines, and what happens when the one who asks dies (the tests kill it).
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
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from benchmarks.stampede.libraries import with_aiocache, with_cashews, with_dogpile
from benchmarks.stampede.ours import ours, prepare
from benchmarks.stampede.setup import Contender, Setup
from cache_pipeline.embedded import EmbeddedServerError, EmbeddedServers, embedded_servers
from cache_pipeline.simulator import SimulatorError, SimulatorSettings
from cache_pipeline.upstream.http import httpx

_PROCESSES, _CALLERS, _ROUNDS = 4, 500, 7
_QUERY_SECONDS, _SLOWEST = 2.0, 20
_FIRST_DAY = datetime(2024, 3, 4, tzinfo=UTC)
_PATIENCE = 300.0
_HEAD_START = 0.5
_OURS, _ONCE = "ours", "aiocache"


@dataclass(frozen=True)
class _Round:
    """What one crowd cost.

    Attributes:
        queries: That the vendor took.
        p99: Seconds from the first answer to that of the 99th of a hundred callers.
        processor: Seconds of processor time that all processes took together.
    """

    queries: int
    p99: float
    processor: float


def measure(tell: Tell) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed, or a caller got no answer.
    """
    contenders: dict[str, Contender] = {
        _OURS: ours,
        "cashews": with_cashews,
        "dogpile.cache": with_dogpile,
        _ONCE: with_aiocache,
    }
    try:
        with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder) / "servers") as servers:
            found = _rounds(contenders, servers, tell)
    except (EmbeddedServerError, SimulatorError) as error:
        raise BenchmarkError(str(error)) from error

    def row(what: str, unit: str, figure: Callable[[Sequence[_Round]], float], target: Target | None) -> Row:
        figures = {name: figure(rounds) for name, rounds in found.items()}
        return Row(what, figures.pop(_OURS), unit, figures, target=target)

    crowd = f"{_PROCESSES} x {_CALLERS} callers on one cold key"
    lowest = min(statistics.median(each.p99 for each in rounds) for name, rounds in found.items() if name != _OURS)
    return Result(
        "stampede",
        (
            row(
                f"{crowd}: queries that the vendor took (worst of {_ROUNDS})",
                "queries",
                lambda rounds: max(each.queries for each in rounds),
                Target("ours", "=", 1),
            ),
            row(
                f"{crowd}: from the first answer to the 99th percentile (median of {_ROUNDS})",
                "ms",
                lambda rounds: 1000 * statistics.median(each.p99 for each in rounds),
                Target("ours", "<=", 1000 * lowest),
            ),
            row(
                f"{crowd}: processor time of the callers' processes (median of {_ROUNDS})",
                "s",
                lambda rounds: statistics.median(each.processor for each in rounds),
                None,
            ),
        ),
    )


def _rounds(contenders: dict[str, Contender], servers: EmbeddedServers, tell: Tell) -> dict[str, list[_Round]]:
    tell("getting ready")
    settings = SimulatorSettings(
        reportdata_rate_limit=1_000_000, job_seconds_base=_QUERY_SECONDS, job_seconds_per_1000_cells=0
    )
    with (
        simulator_process(settings) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as vendor,
        ExitStack() as stack,
    ):
        setup = Setup(url, SecretStr(servers.redis_url), SecretStr(servers.postgres_url), _CALLERS, _SLOWEST)
        prepare(setup)
        pipes = {name: stack.enter_context(_workers(setup, each)) for name, each in contenders.items()}
        found: dict[str, list[_Round]] = {name: [] for name in contenders}
        for number in range(_ROUNDS):
            for name in contenders:
                if name != _ONCE or number == _ROUNDS - 1:
                    tell(f"round {number + 1} of {_ROUNDS}, {name}")
                    found[name].append(_round(pipes[name], vendor, number))
        return found


def _round(pipes: Sequence[Connection], vendor: httpx.Client, number: int) -> _Round:
    vendor.delete("/simulator/counters").raise_for_status()
    day = _FIRST_DAY + timedelta(days=7 * number)
    interval = f"{day:%Y-%m-%dT00:00:00Z}/{day + timedelta(days=1):%Y-%m-%dT00:00:00Z}"
    start = time.monotonic() + _HEAD_START
    for pipe in pipes:
        pipe.send((start, interval))
    heard = [_heard(pipe) for pipe in pipes]
    answered = sorted(at for instants, _ in heard for at in instants)
    queries = vendor.get("/simulator/counters").raise_for_status().json()["summary"]["submits"]
    p99 = answered[len(answered) * 99 // 100] - answered[0]
    return _Round(queries, p99, sum(processor for _, processor in heard))


@contextmanager
def _workers(setup: Setup, contender: Contender) -> Generator[list[Connection]]:
    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for _ in range(_PROCESSES):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_work, args=(setup, contender, there), daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        for pipe in pipes:
            _heard(pipe)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(10)
            process.terminate()
            process.join()


def _work(setup: Setup, contender: Contender, parent: Connection) -> None:
    # Ctrl-C reaches the whole terminal; the parent ends what it started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_ask(setup, contender, parent))


async def _ask(setup: Setup, contender: Contender, parent: Connection) -> None:
    async with contender(setup) as ask:

        async def call(interval: str) -> float:
            answer = await ask(interval)
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


def _heard(pipe: Connection) -> Any:
    """Return the next message of a pipe.

    Raises:
        BenchmarkError: Nothing does.
    """
    try:
        if pipe.poll(_PATIENCE):
            return pipe.recv()
    except (EOFError, OSError):
        raise BenchmarkError("a worker ended before its time; what it printed says why") from None
    raise BenchmarkError(f"a worker said nothing for {_PATIENCE:.0f} s; is the machine overloaded?")
