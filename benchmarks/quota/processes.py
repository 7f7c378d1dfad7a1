"""The processes of a run: the simulated vendor, and the workers that send as fast as their contender lets them."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from benchmarks.quota.setup import Contender, Setup
from benchmarks.result import BenchmarkError
from cache_pipeline.simulator import SimulatorSettings, serve
from cache_pipeline.upstream.http import httpx

_PATIENCE = 30.0
# Time for every worker to hear when to begin.
_HEAD_START = 0.3
_MAX_CONNECTIONS = 20


@dataclass(frozen=True)
class Answer:
    """One answer of the vendor: seconds since the run began, and the status."""

    at: float
    status: int


class _Wire(httpx.AsyncBaseTransport):
    """Sends, and notes when each answer came; logins are not counted."""

    def __init__(self, counted_path: str) -> None:
        limits = httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS)
        self._inner = httpx.AsyncHTTPTransport(limits=limits)
        self._counted_path = counted_path
        self.answers: list[tuple[float, int]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass the request on."""
        response = await self._inner.handle_async_request(request)
        if request.url.path == self._counted_path:
            self.answers.append((time.monotonic(), response.status_code))
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


@contextmanager
def simulator_process(settings: SimulatorSettings) -> Generator[str]:
    """Run the simulator in its own process while the block lasts, and yield its URL."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_simulate, args=(settings, there), daemon=True)
    process.start()
    there.close()
    try:
        yield _heard(here, "the simulator")
    finally:
        here.close()
        process.join()


def _simulate(settings: SimulatorSettings, parent: Connection) -> None:
    def end_with_parent() -> None:
        # The pipe breaks when the parent closes it, and also when the parent is killed.
        try:
            parent.recv()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)

    def announce(url: str) -> None:
        parent.send(url)
        threading.Thread(target=end_with_parent, daemon=True).start()

    serve(settings, 0, announce=announce)


@contextmanager
def worker_processes(setup: Setup, contender: Contender, count: int, seconds: float) -> Generator["Workers"]:
    """Start workers, logged in and ready; they begin together on a signal and end after a number of seconds."""
    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for _ in range(count):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_work, args=(setup, contender, seconds, there), daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        for pipe in pipes:
            _heard(pipe, "a worker")
        yield Workers(pipes, seconds)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            # One that has told its answers ends anyway; after a failure or Ctrl-C there is nothing to wait for.
            process.terminate()
            process.join()


class Workers:
    """Workers that are ready."""

    def __init__(self, pipes: list[Connection], seconds: float) -> None:
        self._pipes = pipes
        self._seconds = seconds

    def begin(self) -> float:
        """Lets all begin; gives the instant, on the monotonic clock, at which they do."""
        start = time.monotonic() + _HEAD_START
        for pipe in self._pipes:
            pipe.send(start)
        return start

    def answers(self) -> list[Answer]:
        """Every answer that the vendor gave them, once they have ended.

        Raises:
            BenchmarkError: A worker ended before its time.
        """
        return [
            Answer(at, status)
            for pipe in self._pipes
            for at, status in _heard(pipe, "a worker", self._seconds + _PATIENCE)
        ]


def _work(setup: Setup, contender: Contender, seconds: float, parent: Connection) -> None:
    # Ctrl-C reaches the whole terminal; the parent ends what it started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent.send(asyncio.run(_send(setup, contender, seconds, parent)))


async def _send(setup: Setup, contender: Contender, seconds: float, parent: Connection) -> list[tuple[float, int]]:
    wire = _Wire(setup.path)
    async with contender(setup, wire) as send:

        async def keep_sending(sender: int) -> None:
            while True:
                await send(sender)

        parent.send("ready")
        start = await asyncio.to_thread(parent.recv)
        await asyncio.sleep(start - time.monotonic())
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for sender in range(setup.senders):
                    group.create_task(keep_sending(sender))
        except TimeoutError:
            pass
    return [(at - start, status) for at, status in wire.answers]


def _heard(pipe: Connection, who: str, seconds: float = _PATIENCE) -> Any:
    """Return the next message of a pipe.

    Raises:
        BenchmarkError: Nothing does.
    """
    try:
        if pipe.poll(seconds):
            return pipe.recv()
    except (EOFError, OSError):
        raise BenchmarkError(f"{who} ended before its time; what it printed says why") from None
    raise BenchmarkError(f"{who} said nothing for {seconds:.0f} s; is the machine overloaded?")
