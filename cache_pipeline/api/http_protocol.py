"""uvicorn's HTTP protocol with bounds on connections, on the size and duration of a request's headers, and on what waits for a caller.

uvicorn itself waits without end for the rest of a header and for a caller that does not read its answer, reads headers of any
size, and queues any number of pipelined requests, before or after the application sees a request.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cache_pipeline.api.problems import Problem

#: A header that has not arrived within this time is not coming.
HEADER_TIMEOUT_SECONDS = 10.0
#: A caller that has read nothing of its answer for this time does not want it.
READ_TIMEOUT_SECONDS = 30.0
#: How long a connection is kept whose request was malformed. A caller that sends nothing else cannot open many of them a second.
REFUSED_SECONDS = 0.25
MAX_HEADER_BYTES = 64 * 1024
#: Each header is an object in memory many times its size, so their number is bounded while they arrive.
MAX_HEADERS = 256
#: Longer ones are unknown, and costly to decode.
MAX_PATH_BYTES = 4096
#: Requests that wait for the answer to an earlier one on their connection.
MAX_PIPELINED_REQUESTS = 4
#: Fewer than the open files that most systems allow a process, so that connections to the stores can always be opened.
MAX_CONNECTIONS = 800
#: Key of a request's scope that holds its connection.
CONNECTION = "connection"


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    header_timeout = HEADER_TIMEOUT_SECONDS
    read_timeout = READ_TIMEOUT_SECONDS
    max_connections = MAX_CONNECTIONS
    #: Since when it has waited for its caller, by the event loop's clock. It means nothing while nothing is awaited from the caller.
    waiting_since = 0.0
    #: Whether the request that is being answered waits for its caller's turn. Middleware sets it.
    waits_for_turn = False
    _deadline: asyncio.TimerHandle | None = None
    _read_deadline: asyncio.TimerHandle | None = None
    _closing: asyncio.TimerHandle | None = None
    #: Bytes that waited for the caller to read them when the read deadline was set.
    _unread_bytes = 0
    #: Bytes of a header, or of the lines after a body, that have arrived so far.
    _header_bytes = 0
    _refusal: str | None = None
    #: The request that is being answered, or was last. uvicorn's `cycle` is the latest that arrived.
    _answered: Any = None

    def connection_made(self, transport: Any) -> None:
        """Wait for a request, but not for long. If there are too many connections, end the one that has waited longest for its caller.

        Otherwise a few hundred connections that send nothing, or nothing more, or read nothing, would keep all other callers
        out. If the answers to all are being made, this one is refused.
        """
        super().connection_made(transport)
        #: Done when the caller has hung up.
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self.waiting_since = self.loop.time()
        self._expect_header()
        if len(self.connections) > self.max_connections:
            waiting = [each for each in self.connections if isinstance(each, BoundedHttpProtocol) and each.is_waiting]
            min(waiting, key=lambda each: each.waiting_since).end()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; end the connection if its header, or what follows its body, is too large."""
        # The first bytes of the next request of a connection that was kept alive.
        is_first = self._deadline is None and self.is_idle
        if is_first:
            self.waiting_since = self.loop.time()
            self._header_bytes = 0
        self._header_bytes += len(data)
        super().data_received(data)
        if not self.is_idle:
            self._forget_deadline()
        elif is_first:
            # Most headers arrive whole, and need no timer.
            self._expect_header()
        if self._header_bytes > MAX_HEADER_BYTES:
            self.end()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read one header; refuse a request with very many."""
        if len(self.headers) >= MAX_HEADERS:
            self._refuse(f"too many headers: send at most {MAX_HEADERS}")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer a request; refuse one whose target is no path, which is a request to a proxy, or which is too long."""
        self._header_bytes = 0
        scope: Any = self.scope
        scope[CONNECTION] = self
        if not self.url.startswith(b"/"):
            self._refuse("the target is not a path: send the request to a proxy, or only its path")
        if len(self.url.partition(b"?")[0]) > MAX_PATH_BYTES:
            self._refuse(f"the path is too long: send at most {MAX_PATH_BYTES} bytes")
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            self._refuse("too many pipelined requests: wait for answers")
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle

    def on_body(self, body: bytes) -> None:
        """Read a part of a body, whose size the application limits."""
        self._header_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Begin to answer the next request, or wait for it; but end the connection if the caller does not read this answer."""
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._expect_reader()

    def pause_writing(self) -> None:
        """Wait for the caller to read, but not without end."""
        super().pause_writing()
        self.waiting_since = self.loop.time()
        self._expect_reader()

    def resume_writing(self) -> None:
        """Continue an answer of which the caller has read a part."""
        super().resume_writing()
        self._forget_read_deadline()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed, or say why it is refused; read nothing more, and end the connection soon."""
        if self._closing is not None:
            return
        # In the middle of an answer it would be read as a part of that.
        if self.is_idle or not self._answered.response_started:
            self._abandon_request()
            problem = Problem(
                "malformed-request", 400, self._refusal or msg, headers={"Connection": "close"}
            ).response()
            headers = b"".join(b"%b: %b\r\n" % header for header in problem.raw_headers)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (headers, problem.body))
        self.flow.pause_reading()
        self._closing = self.loop.call_later(REFUSED_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up, and tell the request that is being answered, behind which others may wait, that its caller is gone."""
        self._forget_deadline()
        self._forget_read_deadline()
        if self._closing is not None:
            self._closing.cancel()
        self._abandon_request()
        super().connection_lost(exc)
        self.gone.set_result(None)
        # They refer to this object, and would keep their bodies until the garbage collector finds them.
        self._answered = None
        cycle: Any = None
        self.cycle = cycle
        self.pipeline.clear()

    def end(self) -> None:
        """End the connection at once."""
        self._forget_deadline()
        self._forget_read_deadline()
        self.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered, so that whatever arrives belongs to the header of the next one."""
        return self._answered is None or self._answered.response_complete

    @property
    def is_waiting(self) -> bool:
        """Whether its caller has to act: to send a request or the rest of its body, or to read the answer; or waits for its turn."""
        return self.is_idle or self._answered.more_body or self.flow.write_paused or self.waits_for_turn

    def _abandon_request(self) -> None:
        """Have the request that is being answered, if any, send nothing more."""
        if not self.is_idle:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _refuse(self, reason: str) -> None:
        """Have the parser pass the request on as a malformed one.

        Raises:
            ValueError: Always.
        """
        self._refusal = reason
        raise ValueError(reason)

    def _expect_header(self) -> None:
        self._deadline = self.loop.call_later(self.header_timeout, self.end)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expect_reader(self) -> None:
        self._forget_read_deadline()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._read_deadline = self.loop.call_later(self.read_timeout, self._end_if_unread)

    def _forget_read_deadline(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None

    def _end_if_unread(self) -> None:
        self._read_deadline = None
        unread = self.transport.get_write_buffer_size()
        if unread and unread >= self._unread_bytes:
            self.end()
        elif unread:
            # A large answer waits in one piece, and a slow network takes longer than this to carry all of it.
            self._expect_reader()
