"""A small pool of Arrow connections to history. Connecting costs ten times as much as a query, so they are reused."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from adbc_driver_manager import Error

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.storage.postgres.arrow import ArrowConnection, ArrowCursor
from cache_pipeline.storage.postgres.schemas import UNREACHABLE, server_name

#: For every connection of psycopg. A pooler in transaction mode gives each transaction another session of the server, and a
#: statement that was prepared in one session does not exist in the next.
WITHOUT_PREPARED_STATEMENTS: Mapping[str, Any] = {"prepare_threshold": None}
#: A server allows a hundred by default, shared by an API process, four workers and Dagster. Further threads wait their turn.
MAX_CONNECTIONS = 6
_WAIT_SECONDS = 20.0
#: PostgreSQL's class of errors for insufficient resources, and what its codes say is lacking.
_INSUFFICIENT_RESOURCES = "53"
_LACKING = {"53100": "disk space", "53200": "memory", "53300": "connections"}
#: Ping connections idle for longer than this; the server may have restarted.
_MAX_IDLE_SECONDS = 1.0


class ConnectionPool:
    """Connections to one server. The first is opened when the pool is first used, so a pool can be made while the server is away.

    They are cloned from one that serves no queries itself: a new one would first read the server's types. Close the pool after
    use.
    """

    def __init__(self, postgres_url: str, max_connections: int = MAX_CONNECTIONS) -> None:
        self._url = postgres_url
        self._origin: ArrowConnection | None = None
        self._origin_lock = threading.Lock()
        self._failures = 0
        self._slots = threading.BoundedSemaphore(max_connections)
        self._idle: deque[tuple[ArrowConnection, float]] = deque()
        self._is_closed = False

    @contextmanager
    def transaction(self) -> Generator[ArrowCursor]:
        """Yield a cursor; commit at the end, or roll back if the block raises.

        Raises:
            HistoryUnavailable: The server cannot be reached or lacks resources, or all connections were in use for 20 s.
        """
        if not self._slots.acquire(timeout=_WAIT_SECONDS):
            raise HistoryUnavailable("every connection to history is in use: find what holds them for so long")
        try:
            connection = self._take()
            try:
                with connection.cursor() as cursor:
                    yield cursor
                connection.commit()
            except BaseException as error:
                if _roll_back(connection):
                    self._put(connection)
                    _raise_if_lacking_resources(error)
                elif isinstance(error, Error | OSError):
                    # The server has restarted or failed over, so the idle connections are broken too.
                    self._close_idle()
                    raise HistoryUnavailable(f"PostgreSQL {UNREACHABLE}") from error
                raise
            self._put(connection)
        finally:
            self._slots.release()

    def close(self) -> None:
        """Close the idle connections; one that is in use is closed when it is returned."""
        with self._origin_lock:
            self._is_closed = True
            origin, self._origin = self._origin, None
        self._close_idle()
        if origin is not None:
            _close(origin)

    def _close_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):
                _close(self._idle.pop()[0])

    def _take(self) -> ArrowConnection:
        while self._idle:
            with suppress(IndexError):
                # Take the most recently used one, so that surplus connections stay idle.
                connection, since = self._idle.pop()
                if time.monotonic() - since < _MAX_IDLE_SECONDS or _is_alive(connection):
                    return connection
                _close(connection)
        try:
            return self._connected().clone()
        except Error as error:
            raise HistoryUnavailable(f"PostgreSQL {UNREACHABLE}") from error

    def _connected(self) -> ArrowConnection:
        failures = self._failures
        with self._origin_lock:
            if self._origin is not None:
                return self._origin
            # A server that does not answer is not waited for by one thread after the other.
            if self._failures == failures:
                try:
                    self._origin = ArrowConnection.connect(self._url)
                except Error:
                    self._failures += 1
                else:
                    return self._origin
        # Not the driver's own message, which quotes a URL that it cannot parse, password included.
        raise HistoryUnavailable(f"{server_name(self._url)} {UNREACHABLE}")

    def _put(self, connection: ArrowConnection) -> None:
        if self._is_closed:
            _close(connection)
        else:
            self._idle.append((connection, time.monotonic()))


def _raise_if_lacking_resources(error: BaseException) -> None:
    """Say in plain words that the server runs but lacks disk, memory or connections: the caller did nothing wrong.

    Raises:
        HistoryUnavailable: The error means that.
    """
    state = error.sqlstate if isinstance(error, Error) else None
    if state is not None and state.startswith(_INSUFFICIENT_RESOURCES):
        lacking = _LACKING.get(state, "resources")
        raise HistoryUnavailable(f"PostgreSQL runs but lacks {lacking} (SQLSTATE {state}): give it more") from error


def _roll_back(connection: ArrowConnection) -> bool:
    """Roll back a transaction; close the connection and return False if it can no longer be used."""
    with suppress(Error):
        connection.rollback()
    if _is_alive(connection):
        return True
    _close(connection)
    return False


def _is_alive(connection: ArrowConnection) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
        connection.commit()
    except Error:
        return False
    return True


def _close(connection: ArrowConnection) -> None:
    with suppress(Error):
        connection.close()
