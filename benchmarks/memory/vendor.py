"""A vendor with the guide's contract and a configurable number of rows, generated page by page.

The simulator computes every call of a day, and a million rows would take it longer than what is measured.
"""

import base64
import json
import multiprocessing
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

from benchmarks.result import BenchmarkError
from cache_pipeline.query.interval import Interval

DAY = Interval(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC))
_HOUR = timedelta(hours=1)
_TIMEOUT_SECONDS = 30.0
_QUEUES = [f"{queue:08x}-5d1c-4a3e-9f60-2b7c8d9e0f1a" for queue in range(40)]


@contextmanager
def vendor_process(vendor: "Callable[..., Vendor] | None" = None) -> Generator[str]:
    """Run a vendor (by default one of flat rows) in its own process while the block lasts and yield its URL.

    The id of an OAuth client is the number of rows of the day.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, child_end = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(vendor or _FlatRows, child_end), daemon=True)
    process.start()
    child_end.close()
    try:
        if not receiver.poll(_TIMEOUT_SECONDS):
            raise BenchmarkError(
                f"the vendor did not start within {_TIMEOUT_SECONDS:.0f} s; is the machine overloaded?"
            )
        yield receiver.recv()
    finally:
        receiver.close()
        process.terminate()
        process.join()


def _serve(vendor: "Callable[..., Vendor]", parent: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), vendor)
    server.daemon_threads = True
    parent.send(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=_stop_with_parent, args=(parent, server), daemon=True).start()
    server.serve_forever()


def _stop_with_parent(parent: Connection, server: ThreadingHTTPServer) -> None:
    try:
        parent.recv()
    except (EOFError, OSError):
        server.shutdown()


@dataclass(frozen=True)
class Slice:
    """The rows that a job covers: from ``begin`` up to ``end`` of the day's ``rows``. The job's id encodes it."""

    rows: int
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.rows}-{self.begin}-{self.end}"

    @classmethod
    def parse(cls, job: str) -> "Slice":
        """Parse a job's id."""
        return cls(*map(int, job.split("-")))


class Vendor(BaseHTTPRequestHandler):
    """Base class of the vendors: a token that names its client, jobs that complete at once, pages by cursor.

    The cursor is the number of the next row.
    """

    protocol_version = "HTTP/1.1"
    # Buffer head and body, or each answer waits for the acknowledgement of its head.
    wbufsize = -1

    def submit_answer(self, job: str) -> Mapping[str, object]:
        """Return the body of the answer to a submit."""
        raise NotImplementedError

    def status_answer(self, job: str) -> Mapping[str, object]:
        """Return the body of a job's status."""
        raise NotImplementedError

    def page(self, page_slice: Slice, first: int, end: int, cursor: str | None) -> bytes:
        """Return the rows from ``first`` up to ``end``, as JSON."""
        raise NotImplementedError

    def do_POST(self) -> None:
        """Answer with a token that names its client, or accept a submit."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/oauth/token":
            self._answer({"access_token": self._client(), "token_type": "bearer", "expires_in": 86_400})
            return
        requested = Interval.parse(json.loads(body)["interval"])
        rows = int(self.headers["Authorization"].removeprefix("Bearer "))
        first, end = (-(-((instant - DAY.start) // _HOUR) * rows // 24) for instant in (requested.start, requested.end))
        self._answer(self.submit_answer(str(Slice(rows, first, end))), status=202)

    def do_GET(self) -> None:
        """Answer with a status (always completed) or a page."""
        url = urlsplit(self.path)
        if not url.path.endswith("/results"):
            self._answer(self.status_answer(url.path.rpartition("/")[2]))
            return
        page_slice, query = Slice.parse(url.path.split("/")[-2]), parse_qs(url.query)
        first = int(query.get("cursor", [str(page_slice.begin)])[0])
        end = min(first + int(query["pageSize"][0]), page_slice.end)
        self._send(self.page(page_slice, first, end, str(end) if end < page_slice.end else None))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Suppress the log."""

    def _client(self) -> str:
        return base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode().partition(":")[0]

    def _answer(self, body: Mapping[str, object], status: int = 200) -> None:
        self._send(json.dumps(body).encode(), status)

    def _send(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


class _FlatRows(Vendor):
    """Flat rows with the guide's contract (G1, G2)."""

    def submit_answer(self, job: str) -> Mapping[str, object]:
        return {"id": job, "status": "queued", "percentComplete": 0, "createdTime": "2026-01-06T12:00:00Z"}

    def status_answer(self, job: str) -> Mapping[str, object]:
        results = f"{urlsplit(self.path).path}/results"
        return {"id": job, "status": "completed", "percentComplete": 100, "resultUrl": results}

    def page(self, page_slice: Slice, first: int, end: int, cursor: str | None) -> bytes:
        page: dict[str, object] = {"dataAvailabilityDate": "2026-01-06T06:00:00Z"}
        if cursor is not None:
            page["cursor"] = cursor
        return json.dumps({**page, "rows": [_row(number, page_slice.rows) for number in range(first, end)]}).encode()


def _row(number: int, rows: int) -> dict[str, object]:
    start = DAY.start + number * 24 // rows * _HOUR
    return {
        "intervalStart": start.isoformat(),
        "intervalEnd": (start + _HOUR).isoformat(),
        "conversationId": f"{number:08x}-7c2e-4b5f-8a91-{number * 2_654_435_761 % 2**48:012x}",
        "queueId": _QUEUES[number % len(_QUEUES)],
        "offered": 1,
        "answered": number % 10 and 1,
        "waitMs": number * 7_919 % 180_000,
        "handleMs": number * 104_729 % 900_000,
    }
