"""Middleware that lets callers take turns at the processor, so that one that sends very many requests delays its own.

All callers share one event loop. Requests that arrive at once would be served in the order they came, and a request behind a
hundred of another caller would wait for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.api.auth import read_key
from cache_pipeline.api.http_protocol import CONNECTION, BoundedHttpProtocol
from cache_pipeline.api.query_service import QueryService

#: Requests of one key that are served at once.
_TURNS_OF_A_KEY = 1
#: A turn ends when the answer begins, or after so many seconds: then the request waits for a store or for a job, not for the processor.
_LONGEST_SECONDS = 0.005
#: A turn of a caller without a key, or of one whose request is refused, lasts at least so long: at most 500 such requests a second.
_REFUSED_SECONDS = 0.002
#: Load balancers and monitors must be answered, and these answers cost nothing or are shared.
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
#: Key of a request's scope: the digest of its key if that is known to work, otherwise None.
_KNOWN_KEY = "known_key"


@dataclass(eq=False)
class _Lane:
    """The requests of one key, or those of all callers without one.

    Attributes:
        free: Turns that are not taken.
        shortest_seconds: How long a turn lasts at least.
        waiting: Each is done when its turn comes, in the order they came.
    """

    free: int
    shortest_seconds: float = 0.0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque[asyncio.Future[None]])

    async def take_turn(self, scope: Scope) -> bool:
        """Wait for a turn, and return whether the caller is still there.

        Meanwhile the connection counts as one that waits: see ``http_protocol``.
        """
        if self.free:
            self.free -= 1
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        connection: BoundedHttpProtocol | None = scope.get(CONNECTION)
        try:
            with _leaving(connection, turn):
                await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It came at the moment in which the request ended.
                self.pass_on()
            if connection is not None and connection.gone.done():
                return False
            raise
        return True

    def pass_on(self) -> None:
        """Give a turn that ended to the next request."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


@contextmanager
def _leaving(connection: BoundedHttpProtocol | None, turn: asyncio.Future[None]) -> Generator[None]:
    """Let a connection wait for a turn while the block lasts; cancel the turn if its caller hangs up."""
    if connection is None:
        yield
        return

    def leave(_gone: asyncio.Future[None]) -> None:
        turn.cancel()

    connection.gone.add_done_callback(leave)
    connection.waits_for_turn = True
    try:
        yield
    finally:
        connection.waits_for_turn = False
        connection.gone.remove_done_callback(leave)


class StrangerTurns:
    """Serves the requests of callers without a key that is known to work one after another, and notes the key of the others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._lane = _Lane(1, _REFUSED_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, if need be when its turn comes."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        query_service: QueryService = scope["app"].state.query_service
        scope[_KNOWN_KEY] = query_service.api_keys.known_digest(read_key(Headers(scope=scope)))
        # Without keys, all callers are one.
        if scope[_KNOWN_KEY] is None and query_service.settings.api.auth != "off":
            await _serve_in_turn(self._lane, self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)


class KeyTurns:
    """Serves the requests of each key one after another. It stands somewhere behind `StrangerTurns`, which notes the keys.

    Answers to URLs that were parsed before cost little and share their reads of Redis, so they are given in front of this.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # Those of keys of which a request is served now, by the key's digest.
        self._lanes = WeakValueDictionary[bytes, _Lane]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; one with a key, when its turn comes."""
        digest: bytes | None = scope.get(_KNOWN_KEY)
        if digest is None:
            await self._app(scope, receive, send)
        else:
            lane = self._lanes.setdefault(digest, _Lane(_TURNS_OF_A_KEY))
            await _serve_in_turn(lane, self._app, scope, receive, send)


async def _serve_in_turn(lane: _Lane, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request when its turn comes; not at all if its caller has hung up by then."""
    if await lane.take_turn(scope):
        await app(scope, receive, _ending_turn(lane, send))


def _ending_turn(lane: _Lane, send: Send) -> Send:
    """Return a channel that ends a turn when the answer begins; without one, the turn ends after a while."""
    loop = asyncio.get_running_loop()
    began, has_ended = loop.time(), False

    def end() -> None:
        nonlocal has_ended
        if not has_ended:
            has_ended = True
            lane.pass_on()

    latest_end = loop.call_at(began + _LONGEST_SECONDS, end)

    async def send_and_end(message: Message) -> None:
        if message["type"] == "http.response.start" and not has_ended:
            latest_end.cancel()
            shortest = _REFUSED_SECONDS if message["status"] >= 400 else lane.shortest_seconds
            if shortest:
                loop.call_at(began + shortest, end)
            else:
                end()
        await send(message)

    return send_and_end
