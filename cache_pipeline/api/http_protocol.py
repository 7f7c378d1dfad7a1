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
    header_deadline: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Wait for a request, but not for long. If there are too many connections, end the one that has waited longest.

        Otherwise a few hundred connections that send nothing would keep everybody else out. If all are being answered, this one
        is refused.
        """
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            waiting = {
                each: each.header_deadline.when()
                for each in self.connections
                if isinstance(each, BoundedHttpProtocol) and each.header_deadline is not None
            }
            oldest = min(waiting, key=waiting.__getitem__, default=self)
            oldest.end()
            if oldest is self:
                return
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; end the connection if its header is too large."""
        # The first bytes of the next request of a connection that was kept alive.
        is_first = self.header_deadline is None and self._is_idle
        self._header_bytes = len(data) + (0 if is_first else self._header_bytes)
        super().data_received(data)
        if not self._is_idle:
            self._forget_deadline()
        elif self._header_bytes > MAX_HEADER_BYTES:
            self._refuse()
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
    def _is_idle(self) -> bool:
        """Whether no request is being answered, so that whatever arrives belongs to the header of the next one."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete

    def _expect_header(self) -> None:
        self.header_deadline = self.loop.call_later(self.header_timeout, self._refuse)

    def _forget_deadline(self) -> None:
        if self.header_deadline is not None:
            self.header_deadline.cancel()
            self.header_deadline = None

    def _refuse(self) -> None:
        self._forget_deadline()
        self.transport.abort()
