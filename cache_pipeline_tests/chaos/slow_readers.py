"""Callers that ask the API for large answers and event streams and hardly read them; what must hold meanwhile and afterwards."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import psycopg

from cache_pipeline.query.interval import Interval
from cache_pipeline_tests.chaos.outcome import Outcome
from cache_pipeline_tests.chaos.processes import SupervisedProcess
from cache_pipeline_tests.chaos.reader import read_history
from cache_pipeline_tests.chaos.scenario import REPORTS

_FORMATS = ("application/json", "text/csv", "application/vnd.apache.arrow.stream")
#: Event streams that the API opens for one key in one process.
_STREAMS = 20
#: The other half of the callers read so many bytes, so often.
_BYTES_READ, _PAUSE_SECONDS = 16, 0.5
#: Stored answers are waited for at the beginning of a run, and an API that was just killed until it has started.
_PATIENCE_SECONDS = 30.0
_HEALTH_SECONDS = 5.0
#: Longer than the API waits for a connection to a store that is down because of another fault.
_ANSWER_SECONDS = 30.0
_RETURN_SECONDS = 15.0
_MEGABYTES_KEPT = 64.0
#: Connections that other callers and the API's own pools may open meanwhile. The slow readers are many more.
_DESCRIPTORS_KEPT = 60
_OPEN_JOBS = (
    "SELECT id FROM cache_pipeline_state.job WHERE state IN ('queued', 'running') ORDER BY created_at DESC LIMIT 20"
)


@dataclass(frozen=True)
class Stored:
    """What slow readers may ask for without a request to the vendor.

    Attributes:
        intervals: The longest interval of each report whose figures are final in history.
        jobs: Jobs that are not finished.
    """

    intervals: Mapping[str, Interval]
    jobs: Sequence[UUID]

    @property
    def reports(self) -> list[str]:
        """Return a path for each report."""
        return [f"/v1/reports/{name}?interval={interval}" for name, interval in self.intervals.items()]

    def requests(self, count: int) -> list[bytes]:
        """Return so many requests: for all that is stored in each format in turn, and for event streams."""
        large = [(path, accept) for path in self.reports for accept in _FORMATS]
        streams = [(f"/v1/jobs/{job}/events", "text/event-stream") for job in self.jobs]
        asked = [streams[number % len(streams)] for number in range(_STREAMS)] if streams else []
        asked += [large[number % len(large)] for number in range(count - len(asked))] if large else []
        return [
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n".encode() for path, accept in asked
        ]


@dataclass(frozen=True)
class Footprint:
    """What a process holds.

    Attributes:
        pid: Its id.
        megabytes: Its resident memory.
        descriptors: Its open files and connections.
    """

    pid: int
    megabytes: float
    descriptors: int

    @classmethod
    def of(cls, pid: int | None) -> "Footprint | None":
        """Return that of a running process; None if it does not run, or where the system does not say."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
            return cls(pid or 0, kilobytes / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())))
        return None


async def hold_slow_readers(port: int, requests: Sequence[bytes], seconds: float) -> list[str]:
    """Send each request on a connection of its own and abort all after so many seconds. Return the status codes, "" for none.

    Until then every other caller reads nothing, and the others some bytes a second.
    """
    return await asyncio.gather(
        *(_hold(port, request, seconds, is_reading=bool(number % 2)) for number, request in enumerate(requests))
    )


async def _hold(port: int, request: bytes, seconds: float, *, is_reading: bool) -> str:
    loop, received = asyncio.get_running_loop(), b""
    with socket.socket() as connection:
        connection.setblocking(False)
        # Small packets and a small buffer: otherwise the kernel would take a megabyte of the answer in the caller's place.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        # To close it is to abort it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                await loop.sock_connect(connection, ("127.0.0.1", port))
                await loop.sock_sendall(connection, request)
                while True:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    if is_reading:
                        received += await loop.sock_recv(connection, _BYTES_READ)
        with contextlib.suppress(OSError):
            received += connection.recv(_BYTES_READ)
    return received[9:12].decode()


class SlowReaders:
    """Injects the fault, and records what it does to other callers and what is left of it.

    Args:
        api: The API's process.
        port: The port where it listens.
        postgres_url: URL of PostgreSQL, not through a proxy.
        outcome: Receives the violations.
    """

    def __init__(self, api: SupervisedProcess, port: int, postgres_url: str, outcome: Outcome) -> None:
        self._api, self._port, self._postgres_url, self._outcome = api, port, postgres_url, outcome

    async def run(self, count: int, seconds: float) -> None:
        """Hold so many callers for some seconds, beside callers that must be answered; then check that nothing is kept of them."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}") as http:
            if not await self._is_healthy(http, _PATIENCE_SECONDS):
                # Its stores may be away while it starts.
                self._outcome.counts["slow readers that found no API"] += 1
                return
            stored = await self._wait_for_stored()
            # What is loaded when an answer is first rendered is not kept for the slow readers.
            await self._warm_up(http, stored)
            before = Footprint.of(self._api.pid)
            holding = asyncio.create_task(hold_slow_readers(self._port, stored.requests(count), seconds))
            answering = asyncio.create_task(self._ask_for_reports(http, stored, holding))
            try:
                while not holding.done():
                    self._record_growth("most megabytes more with slow readers", before)
                    await self._ask_for_health()
                    await asyncio.sleep(0.5)
            finally:
                await asyncio.gather(holding, answering)
            for status in holding.result():
                self._outcome.counts[f"slow readers with status {status or 'none'}"] += 1
            await self._check_released(before, stored)

    async def _is_healthy(self, http: httpx.AsyncClient, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        if (await http.get("/healthz", timeout=2)).status_code == 200:
                            return True
                    await asyncio.sleep(0.2)
        return False

    async def _wait_for_stored(self) -> Stored:
        stored = Stored({}, [])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while not stored.intervals:
                    with contextlib.suppress(psycopg.OperationalError):
                        stored = await asyncio.to_thread(self._find_stored)
                    await asyncio.sleep(0.5)
        return stored

    def _find_stored(self) -> Stored:
        intervals: dict[str, Interval] = {}
        with psycopg.connect(self._postgres_url, autocommit=True, connect_timeout=2) as connection:
            for report in REPORTS:
                _, final, _ = read_history(connection, report, self._outcome)
                if final:
                    intervals[report.name] = max(final, key=lambda part: part.length)
            jobs = connection.execute(_OPEN_JOBS).fetchall()
        return Stored(intervals, [row[0] for row in jobs])

    async def _warm_up(self, http: httpx.AsyncClient, stored: Stored) -> None:
        for path in stored.reports:
            for accept in _FORMATS:
                with contextlib.suppress(httpx.HTTPError):
                    await http.get(path, headers={"Accept": accept}, timeout=_ANSWER_SECONDS)

    async def _ask_for_health(self) -> None:
        # On a connection of its own: one that was kept alive would not see that new callers are kept out.
        async with httpx.AsyncClient(timeout=_HEALTH_SECONDS) as http:
            try:
                await http.get(f"http://127.0.0.1:{self._port}/healthz")
            except httpx.HTTPError as error:
                self._outcome.record("unanswered", f"/healthz beside slow readers: {type(error).__name__}")
            else:
                self._outcome.counts["callers answered beside slow readers"] += 1

    async def _ask_for_reports(self, http: httpx.AsyncClient, stored: Stored, holding: asyncio.Task[list[str]]) -> None:
        """Ask for stored answers until the slow readers are gone. Any status is an answer: other faults may be in progress."""
        while stored.intervals and not holding.done():
            for path in stored.reports:
                try:
                    response = await http.get(path, timeout=_ANSWER_SECONDS)
                except httpx.HTTPError as error:
                    self._outcome.record("unanswered", f"{path} beside slow readers: {type(error).__name__}")
                else:
                    self._outcome.counts[f"reports beside slow readers with status {response.status_code}"] += 1
            await asyncio.sleep(0.2)

    async def _check_released(self, before: Footprint | None, stored: Stored) -> None:
        """Wait until connections, streams and memory are released, and record what is not."""
        if stored.jobs and not await self._can_stream(stored.jobs[0]):
            self._outcome.record("leaked", "event streams of slow readers count as open after they ended")
        after = before
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETURN_SECONDS):
                while True:
                    after = Footprint.of(self._api.pid)
                    if after is None or _is_released(before, after):
                        break
                    await asyncio.sleep(0.5)
        if before is None or after is None or before.pid != after.pid:
            return
        self._record_growth("most megabytes more after slow readers", before)
        if not _is_released(before, after):
            files = f"{before.descriptors} → {after.descriptors} open files"
            kept = after.megabytes - before.megabytes
            self._outcome.record("leaked", f"after slow readers the API has {kept:.0f} MB more than before, {files}")

    def _record_growth(self, event: str, before: Footprint | None) -> None:
        now = Footprint.of(self._api.pid)
        if before is not None and now is not None and now.pid == before.pid:
            grown = round(now.megabytes - before.megabytes)
            self._outcome.counts[event] = max(self._outcome.counts[event], grown)

    async def _can_stream(self, job: UUID) -> bool:
        """Return whether the API opens another event stream. An API that does not answer at all does not refuse it."""
        is_refused = False
        url = f"http://127.0.0.1:{self._port}/v1/jobs/{job}/events"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETURN_SECONDS), httpx.AsyncClient(timeout=_HEALTH_SECONDS) as http:
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        async with http.stream("GET", url) as response:
                            is_refused = response.status_code == 429
                            if not is_refused:
                                return True
                    await asyncio.sleep(0.5)
        return not is_refused


def _is_released(before: Footprint | None, after: Footprint) -> bool:
    return before is None or (
        after.megabytes <= before.megabytes + _MEGABYTES_KEPT
        and after.descriptors <= before.descriptors + _DESCRIPTORS_KEPT
    )
