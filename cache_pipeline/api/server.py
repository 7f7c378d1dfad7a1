"""The process of the HTTP API."""

from __future__ import annotations

import ctypes
import gc
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from cache_pipeline.api.app import create_app
from cache_pipeline.api.http_protocol import BoundedHttpProtocol
from cache_pipeline.api.local_only import LocalOnly
from cache_pipeline.api.startup import StoppedDuringStartup, serve_until_ready
from cache_pipeline.errors import SettingsError
from cache_pipeline.settings import Settings

_TICKS_BETWEEN_TRIMS = 20
#: Python's own, but for full collections: large requests in JSON would cause several a second. What lives shortly is collected as before.
_COLLECTION_THRESHOLDS = (700, 10, 1000)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Server(uvicorn.Server):
    """uvicorn's server, which keeps what exists at its start out of later garbage collections, and gives freed memory back.

    A collection goes through everything a process holds, which is mostly its modules, and stops all answers for some 100 ms.
    glibc keeps the memory of a burst of requests, unless it is asked to return it.
    """

    _trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECTION_THRESHOLDS)

    async def on_tick(self, counter: int) -> bool:
        """Return what uvicorn returns, ten times a second."""
        if counter % _TICKS_BETWEEN_TRIMS == 0 and self._trim is not None:
            # Less than a millisecond, mostly.
            self._trim(0)
        return await super().on_tick(counter)


def serve_api(
    settings: Settings,
    host: str,
    port: int,
    announce: Callable[[str], None],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM.

    Args:
        settings: Settings of the deployment.
        host: Address to listen on.
        port: TCP port; 0 for any free one.
        announce: Called with the base URL as soon as the API serves it.
        prepare: Run before the API serves anything; if it takes long, ``/healthz`` and ``/readyz`` answer meanwhile.

    Raises:
        SettingsError: The port cannot be used, or the API would be open to the network without keys.
        Exception: Any error that ``prepare`` raises.
    """
    if settings.api.auth == "off" and host not in _LOOPBACK:
        raise SettingsError(
            f"CACHE_PIPELINE_API__AUTH=off opens the API to everyone, and {host} is not loopback: use keys, or "
            "listen on 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio otherwise leaves Nagle's algorithm on, which adds some 40 ms to an answer on a
    # kept-alive connection.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except (OSError, OverflowError) as error:
            raise SettingsError(f"the API cannot listen on {host}:{port} ({error}): choose another --port") from error
        try:
            serve_until_ready(listener, prepare)
        except StoppedDuringStartup:
            return
        url_host = f"[{host}]" if ":" in host else host
        announce(f"http://{url_host}:{listener.getsockname()[1]}")
        app = create_app(settings)
        config = uvicorn.Config(
            LocalOnly(app, settings.api.cors_origins) if settings.api.auth == "off" else app,
            # Its warnings are about malformed requests, of which a caller without a key can send any number.
            log_level="error",
            # uvicorn's log lines go to the same handlers as ours.
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            # Who a proxy speaks for is decided by the settings; uvicorn would believe every proxy on this machine.
            proxy_headers=False,
            http=BoundedHttpProtocol,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        try:
            _Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            # uvicorn has already shut down in order and only re-raises the signal.
            return
