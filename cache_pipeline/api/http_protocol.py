"""uvicorn's HTTP protocol with bounds on connections, and on the size and duration of a request's headers.

uvicorn itself waits without end for the rest of a header, and reads headers of any size, before the application sees the request.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: A header that has not arrived within this time is not coming.
HEADER_TIMEOUT_SECONDS = 10.0
MAX_HEADER_BYTES = 64 * 1024
#: Fewer than the open files that most systems allow a process, so that connections to the stores can always be opened.
MAX_CONNECTIONS = 800


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    header_timeout = HEADER_TIMEOUT_SECONDS
    max_connections = MAX_CONNECTIONS
    #: Since when it has waited for a request, or for the rest of its header, by the event loop's clock. It means nothing while
    #: a request is being answered.
    waiting_since = 0.0
    _deadline: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Wait for a request, but not for long. If there are too many connections, end the one that has waited longest.

        Otherwise a few hundred connections that send nothing, or nothing more, would keep all other callers out. If all are
        being answered, this one is refused.
        """
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self._expect_header()
        if len(self.connections) > self.max_connections:
            waiting = [each for each in self.connections if isinstance(each, BoundedHttpProtocol) and each.is_idle]
            min(waiting, key=lambda each: each.waiting_since).end()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; end the connection if its header is too large."""
        # The first bytes of the next request of a connection that was kept alive.
        is_first = self._deadline is None and self.is_idle
        if is_first:
            self.waiting_since = self.loop.time()
        self._header_bytes = len(data) + (0 if is_first else self._header_bytes)
        super().data_received(data)
        if not self.is_idle:
            self._forget_deadline()
        elif self._header_bytes > MAX_HEADER_BYTES:
            self.end()
        elif is_first:
            # Most headers arrive whole, and need no timer.
            self._expect_header()

    def on_headers_complete(self) -> None:
        """Begin to answer a request; refuse one whose target is no path, which is a request to a proxy."""
        if not self.url.startswith(b"/"):
            # The parser passes it on as a malformed request.
            raise ValueError("the target is not a path")
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        self._forget_deadline()
        super().connection_lost(exc)

    def end(self) -> None:
        """End the connection at once."""
        self._forget_deadline()
        self.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered, so that whatever arrives belongs to the header of the next one."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete

    def _expect_header(self) -> None:
        self._deadline = self.loop.call_later(self.header_timeout, self.end)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
