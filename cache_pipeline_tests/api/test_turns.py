"""Turns at the processor: a caller that sends very many requests delays its own."""

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from cache_pipeline.api.app import _ROUTERS
from cache_pipeline.api.http_protocol import CONNECTION
from cache_pipeline.api.middleware import HeadRequests
from cache_pipeline.api.turns import KeyTurns, StrangerTurns

KNOWN = {"first", "second"}


def make_scope(key: str | None, path: str = "/v1/reports", auth: str = "keys") -> Scope:
    service = SimpleNamespace(
        settings=SimpleNamespace(api=SimpleNamespace(auth=auth)),
        api_keys=SimpleNamespace(known_digest=lambda key: key.encode() if key in KNOWN else None),
    )
    return {
        "type": "http",
        "path": path,
        "headers": [(b"x-api-key", key.encode())] if key else [],
        "app": SimpleNamespace(state=SimpleNamespace(query_service=service)),
        "key": key,
    }


def make_turns(app: ASGIApp) -> ASGIApp:
    return StrangerTurns(KeyTurns(app))


async def receive() -> Any:
    return {"type": "http.request"}


async def send(_message: Any) -> None:
    pass


class Served:
    """An application that notes whose requests it serves, and answers with a status."""

    def __init__(self, status: int = 200) -> None:
        self.keys: list[str | None] = []
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.keys.append(scope["key"])
        # Reading from a store, which takes several turns of the event loop.
        for _ in range(5):
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": self._status})


def start(turns: ASGIApp, *scopes: Scope) -> list[asyncio.Task[None]]:
    async def serve(scope: Scope) -> None:
        await turns(scope, receive, send)

    return [asyncio.create_task(serve(scope)) for scope in scopes]


@pytest.mark.parametrize("flooding", ["first", "unknown", None])
async def test_request_of_a_key_does_not_wait_for_a_hundred_of_another(flooding: str | None):
    served = Served()
    turns = make_turns(served)
    flood = start(turns, *(make_scope(flooding) for _ in range(100)))
    await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*start(turns, make_scope("second"))), 20)
    assert served.keys.index("second") <= 10
    await asyncio.wait_for(asyncio.gather(*flood), 20)
    assert len(served.keys) == 101


@pytest.mark.parametrize(("key", "status"), [(None, 200), (None, 401), ("unknown", 401), ("first", 429)])
async def test_callers_without_a_key_and_refused_ones_are_served_at_a_bounded_rate(key: str | None, status: int):
    turns, loop = make_turns(Served(status)), asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*start(turns, *(make_scope(key) for _ in range(40))))
    assert loop.time() - began >= 0.002 * 39 - 0.005


async def test_requests_that_wait_for_a_job_keep_no_turn():
    done = asyncio.Event()

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await done.wait()
        await send({"type": "http.response.start", "status": 200})

    turns = make_turns(app)
    slow = start(turns, *(make_scope("first", "/slow") for _ in range(20)))
    async with asyncio.timeout(20):
        await asyncio.gather(*start(turns, make_scope("first")))
    assert not any(task.done() for task in slow)
    done.set()
    await asyncio.gather(*slow)
    async with asyncio.timeout(20):
        await asyncio.gather(*start(turns, *(make_scope("first") for _ in range(20))))


async def test_caller_that_hangs_up_leaves_the_queue():
    served = Served()
    turns = make_turns(served)
    first = start(turns, make_scope(None))
    connection = SimpleNamespace(gone=asyncio.get_running_loop().create_future(), waits_for_turn=False)
    (left,) = start(turns, {**make_scope("unknown"), CONNECTION: connection})
    last = start(turns, make_scope(None))
    await asyncio.sleep(0)
    assert connection.waits_for_turn
    connection.gone.set_result(None)
    async with asyncio.timeout(20):
        await asyncio.gather(*first, left, *last)
    assert served.keys == [None, None]
    assert not connection.waits_for_turn


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_connections_that_wait_for_their_turn_make_room(method: str):
    """A caller with a key and very many connections keeps no other caller out."""
    waiting = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await waiting.wait()

    connections = [
        SimpleNamespace(gone=asyncio.get_running_loop().create_future(), waits_for_turn=False) for _ in range(3)
    ]
    turns = StrangerTurns(HeadRequests(KeyTurns(app)))
    tasks = start(turns, *({**make_scope("first"), "method": method, CONNECTION: each} for each in connections))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [each.waits_for_turn for each in connections] == [False, True, True]
    waiting.set()
    await asyncio.gather(*tasks)


async def test_turn_of_a_cancelled_request_is_passed_on():
    served = Served()
    turns = make_turns(served)
    tasks = start(turns, *(make_scope(None) for _ in range(3)))
    await asyncio.sleep(0)
    tasks[1].cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(served.keys) == 2
    async with asyncio.timeout(20):
        await asyncio.gather(*start(turns, make_scope(None)))


@pytest.mark.parametrize("scope", [make_scope(None, "/healthz"), make_scope(None, auth="off")])
async def test_probes_and_open_deployments_take_no_turns(scope: Scope):
    served = Served()
    turns = make_turns(served)
    flood = start(turns, *(make_scope(None) for _ in range(100)))
    await asyncio.sleep(0)
    await asyncio.gather(*start(turns, scope))
    assert len(served.keys) <= 10
    await asyncio.gather(*flood)


def test_no_route_or_dependency_needs_a_thread():
    """FastAPI runs each that is no coroutine in a thread, for which all other requests wait several times."""

    def dependencies(of: Dependant) -> list[Any]:
        return [call for each in of.dependencies for call in (each.call, *dependencies(each))]

    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    calls = [call for route in routes for call in (route.endpoint, *dependencies(route.dependant))]
    assert calls
    in_threads = [
        call
        for call in calls
        if not inspect.iscoroutinefunction(call) and not inspect.iscoroutinefunction(type(call).__call__)
    ]
    assert in_threads == []
