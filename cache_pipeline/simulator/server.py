"""Run the simulator on a local port: in a thread for tests, in the foreground for the command line."""

import logging
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from cache_pipeline.simulator.app import create_app
from cache_pipeline.simulator.clock import Clock
from cache_pipeline.simulator.errors import SimulatorError
from cache_pipeline.simulator.settings import SimulatorSettings

_LOOPBACK = "127.0.0.1"
_START_SECONDS = 15.0
# Longer than clients pause between polls, so that no client reuses a connection just as it is closed.
_KEEP_ALIVE_SECONDS = 75


def _listen(port: int) -> socket.socket:
    # Without an explicit protocol asyncio leaves Nagle's algorithm on, and a response on a reused connection takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_LOOPBACK, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        msg = f"the simulator cannot listen on {_LOOPBACK}:{port} ({error}): free the port, or use another (0 for any)"
        raise SimulatorError(msg) from error
    return listener


def _url(listener: socket.socket) -> str:
    return f"http://{_LOOPBACK}:{listener.getsockname()[1]}"


class _InterruptedResponseFilter(logging.Filter):
    """Suppresses the server's error message about responses that a configured fault interrupts."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the record."""
        return record.getMessage() != "ASGI callable returned without completing response."

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _InterruptedResponseFilter)

    def __hash__(self) -> int:
        return hash(type(self))


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
    )
    logging.getLogger("uvicorn.error").addFilter(_InterruptedResponseFilter())
    return uvicorn.Server(config)


class _ServerThread(threading.Thread):
    def __init__(self, server: uvicorn.Server, listener: socket.socket) -> None:
        super().__init__(name="simulator", daemon=True)
        self._server = server
        self._listener = listener
        self.has_ended = threading.Event()

    def run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self.has_ended.set()


@contextmanager
def running_simulator(settings: SimulatorSettings, *, port: int = 0, clock: Clock | None = None) -> Generator[str]:
    """Run the simulator in a thread while the block lasts.

    Args:
        settings: Settings of the organisation and its API.
        port: TCP port on 127.0.0.1; 0 for any free one.
        clock: The simulator's clock; the machine's own clock by default.

    Yields:
        The base URL, without a trailing slash.

    Raises:
        SimulatorError: The port is in use, or the arrivals file cannot be read.
    """
    app = create_app(settings, clock)
    with _listen(port) as listener:
        server = _server(app)
        thread = _ServerThread(server, listener)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield _url(listener)
        finally:
            server.should_exit = True
            thread.join()


def _wait_until_started(server: uvicorn.Server, thread: _ServerThread) -> None:
    pause, waited = 0.005, 0.0
    while not server.started:
        if thread.has_ended.wait(pause) or waited > _START_SECONDS:
            msg = f"the simulator did not start within {_START_SECONDS:.0f} s: see its log for the cause"
            raise SimulatorError(msg)
        waited += pause


def serve(
    settings: SimulatorSettings,
    port: int,
    *,
    clock: Clock | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Run the simulator in the foreground until Ctrl-C or SIGTERM.

    Args:
        settings: Settings of the organisation and its API.
        port: TCP port on 127.0.0.1; 0 for any free one.
        clock: The simulator's clock; the machine's own clock by default.
        announce: Called with the base URL as soon as the port is open.

    Raises:
        SimulatorError: The port is in use, or the arrivals file cannot be read.
    """
    app = create_app(settings, clock)
    with _listen(port) as listener:
        if announce is not None:
            announce(_url(listener))
        try:
            _server(app).run(sockets=[listener])
        except KeyboardInterrupt:
            # uvicorn has already shut down cleanly and only re-raises the signal.
            return
