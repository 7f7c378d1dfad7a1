"""Processes of the benchmark: the simulated vendor, and workers that send as fast as their contender allows."""

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

_TIMEOUT_SECONDS = 30.0
# Time for every worker to receive the start time.
_HEAD_START = 0.3
_MAX_CONNECTIONS = 20


@dataclass(frozen=True)
class Answer:
    """One answer of the vendor: seconds since the start, and the status."""

    at: float
    status: int


class _RecordingTransport(httpx.AsyncBaseTransport):
    """A transport that records when each answer came. Logins are not recorded."""

    def __init__(self, recorded_path: str) -> None:
        limits = httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS)
        self._inner = httpx.AsyncHTTPTransport(limits=limits)
        self._recorded_path = recorded_path
        self.answers: list[tuple[float, int]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and record its answer."""
        response = await self._inner.handle_async_request(request)
        if request.url.path == self._recorded_path:
            self.answers.append((time.monotonic(), response.status_code))
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


@contextmanager
def simulator_process(settings: SimulatorSettings) -> Generator[str]:
    """Run the simulator in its own process while the block lasts and yield its URL."""
    spawn = multiprocessing.get_context("spawn")
    receiver, child_end = spawn.Pipe()
    process = spawn.Process(target=_simulate, args=(settings, child_end), daemon=True)
    process.start()
    child_end.close()
    try:
        yield _receive(receiver, "the simulator")
    finally:
        receiver.close()
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
    """Start workers and yield them logged in and ready. They start together and end after `seconds`."""
    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for _ in range(count):
            receiver, child_end = spawn.Pipe()
            process = spawn.Process(target=_run_worker, args=(setup, contender, seconds, child_end), daemon=True)
            process.start()
            child_end.close()
            pipes.append(receiver)
            processes.append(process)
        for pipe in pipes:
            _receive(pipe, "a worker")
        yield Workers(pipes, seconds)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            # A worker ends after sending its answers; after a failure or Ctrl-C there is nothing to wait for.
            process.terminate()
            process.join()


class Workers:
    """Workers that are logged in and ready to start."""

    def __init__(self, pipes: list[Connection], seconds: float) -> None:
        self._pipes = pipes
        self._seconds = seconds

    def start(self) -> float:
        """Start all workers and return their start time on the monotonic clock."""
        start = time.monotonic() + _HEAD_START
        for pipe in self._pipes:
            pipe.send(start)
        return start

    def answers(self) -> list[Answer]:
        """Wait for the workers to end and return all answers of the vendor.

        Raises:
            BenchmarkError: A worker ended early.
        """
        return [
            Answer(at, status)
            for pipe in self._pipes
            for at, status in _receive(pipe, "a worker", self._seconds + _TIMEOUT_SECONDS)
        ]


def _run_worker(setup: Setup, contender: Contender, seconds: float, parent: Connection) -> None:
    # Ctrl-C reaches every process of the terminal; the parent terminates its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent.send(asyncio.run(_send_until_timeout(setup, contender, seconds, parent)))


async def _send_until_timeout(
    setup: Setup, contender: Contender, seconds: float, parent: Connection
) -> list[tuple[float, int]]:
    transport = _RecordingTransport(setup.path)
    async with contender(setup, transport) as send:

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
    return [(at - start, status) for at, status in transport.answers]


def _receive(pipe: Connection, name: str, seconds: float = _TIMEOUT_SECONDS) -> Any:
    """Return the next message of a pipe.

    Raises:
        BenchmarkError: The process ended or sent nothing in time.
    """
    try:
        if pipe.poll(seconds):
            return pipe.recv()
    except (EOFError, OSError):
        raise BenchmarkError(f"{name} ended early; see its output above") from None
    raise BenchmarkError(f"{name} sent nothing for {seconds:.0f} s; is the machine overloaded?")
