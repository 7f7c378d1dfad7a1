"""The HTTP API of the example vendor."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKENS = {"north-client": "north", "south-client": "south"}


def figures(site: str, first: datetime, end: datetime) -> list[dict[str, Any]]:
    """Return the figures of a site: each hour has as many calls as its number, a hundred times more in the south."""
    hours = int((end - first) / timedelta(hours=1))
    starts = [first + timedelta(hours=number) for number in range(hours)]
    return [
        {
            "from": start.isoformat(),
            "to": (start + timedelta(hours=1)).isoformat(),
            "queue": queue,
            "calls": (start.hour + 1) * (100 if site == "south" else 1),
        }
        for start in starts
        for queue in ("sales", "service")
    ]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _may_read(self, site: str) -> bool:
        return self.headers.get("Authorization") == f"Bearer token of {site}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/login":
            client = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode().partition(":")[0]
            self._answer(200, {"access_token": f"token of {TOKENS[client]}", "expires_in": 3600})
            return
        query = json.loads(body)
        if not self._may_read(query["site"]):
            self._answer(403, {"message": "this client may not read the site"})
            return
        first, end = (datetime.fromisoformat(query[name].replace("Z", "+00:00")) for name in ("from", "to"))
        self._answer(200, {"figures": figures(query["site"], first, end)})

    def do_GET(self) -> None:
        self._answer(200 if self._may_read(self.path.rpartition("/")[2]) else 404, {})


@contextmanager
def running_vendor() -> Iterator[str]:
    """Run the vendor's API, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
