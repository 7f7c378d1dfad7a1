"""Middleware that lets callers take turns at the processor, so that one that sends very many requests delays its own.

All callers share one event loop. Requests that arrive at once would be served in the order they came, and a request behind a
hundred of another caller would wait for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.api.auth import read_key
from cache_pipeline.api.query_service import QueryService

#: Requests of one key that are served at once.
_TURNS_OF_A_KEY = 1
#: A turn ends when the answer begins, or after so many seconds: then the request waits for a store or for a job, not for the processor.
_LONGEST_SECONDS = 0.005
#: A turn of a caller without a key, or of one whose request is refused, lasts at least so long: at most 500 such requests a second.
_REFUSED_SECONDS = 0.002
#: Load balancers and monitors must be answered, and these answers cost nothing or are shared.
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))


@dataclass(eq=False)
class _Lane:
    """The requests of one key, or those of all callers without one.

    Attributes:
        free: Turns that nobody has.
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
        gone: asyncio.Future[None] | None = scope.get("gone")

        def leave(_gone: asyncio.Future[None]) -> None:
            turn.cancel()

        if gone is not None:
            gone.add_done_callback(leave)
        scope["waits_for_turn"] = True
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.pass_on()
            if gone is not None and gone.done():
                return False
            raise
        finally:
            scope["waits_for_turn"] = False
            if gone is not None:
                gone.remove_done_callback(leave)
        return True

    def pass_on(self) -> None:
        """Give a turn that ended to the next request."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


class StrangerTurns:
    """Serves the requests of callers without a key one after another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._lane = _Lane(1, _REFUSED_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; one without a key that is known to work, when its turn comes."""
        if _takes_turns(scope) and scope["path"] not in _PROBES and _known_key(scope) is None:
            await _serve_in_turn(self._lane, self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)


class KeyTurns:
    """Serves the requests of each key one after another.

    Answers to URLs that were parsed before cost little and share their reads of Redis, so they are given in front of this.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # Those of keys of which a request is served now, by the key's digest.
        self._lanes = WeakValueDictionary[bytes, _Lane]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; one with a key, when its turn comes."""
        digest = _known_key(scope) if _takes_turns(scope) else None
        if digest is None:
            await self._app(scope, receive, send)
        else:
            lane = self._lanes.setdefault(digest, _Lane(_TURNS_OF_A_KEY))
            await _serve_in_turn(lane, self._app, scope, receive, send)


def _takes_turns(scope: Scope) -> bool:
    """Return whether there are several callers: without keys all are one."""
    return scope["type"] == "http" and _query_service(scope).settings.api.auth != "off"


def _known_key(scope: Scope) -> bytes | None:
    """Return the digest of a request's key if the key is known to work."""
    return _query_service(scope).api_keys.known_digest(read_key(Headers(scope=scope)))


def _query_service(scope: Scope) -> QueryService:
    return scope["app"].state.query_service


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
