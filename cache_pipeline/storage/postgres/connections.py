"""A few connections to history, each used by one caller at a time and kept for the next: to connect costs ten times a query."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress

from adbc_driver_postgresql import dbapi

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.storage.postgres.schemas import UNREACHABLE

#: A server takes a hundred by default, which a gateway, four workers and Dagster share; an engine's other threads wait their turn.
MOST_CONNECTIONS = 6
_PATIENCE_SECONDS = 20.0
#: PostgreSQL's class of errors for resources that it lacks.
_INSUFFICIENT = "53"
#: One that has lain for longer is asked whether it lives: the server may have been started anew.
_TRUSTED_SECONDS = 1.0


class ConnectionPool:
    """Connections cloned from one that is only for that: a new one reads the server's types first. To be closed."""

    def __init__(self, origin: dbapi.Connection, most: int = MOST_CONNECTIONS) -> None:
        self._origin = origin
        self._free = threading.BoundedSemaphore(most)
        self._idle: deque[tuple[dbapi.Connection, float]] = deque()
        self._closed = False

    @contextmanager
    def transaction(self) -> Generator[dbapi.Cursor]:
        """A cursor; what it did is committed at the end, and rolled back where something is raised.

        Raises:
            HistoryUnavailable: the server cannot be reached or lacks room, or all connections have been in use for 20 s.
        """
        if not self._free.acquire(timeout=_PATIENCE_SECONDS):
            raise HistoryUnavailable("every connection to history is in use: something holds them for too long")
        try:
            connection = self._taken()
            try:
                with connection.cursor() as cursor:
                    yield cursor
                connection.commit()
            except BaseException as error:
                lives = _rolled_back(connection)
                if lives:
                    self._put(connection)
                    _tell_of_want(error)
                elif isinstance(error, dbapi.Error | OSError):
                    raise HistoryUnavailable(f"PostgreSQL {UNREACHABLE}") from error
                raise
            self._put(connection)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close them; one that is in use is closed when it is given back."""
        self._closed = True
        while self._idle:
            with suppress(IndexError):
                _end(self._idle.pop()[0])

    def _taken(self) -> dbapi.Connection:
        while self._idle:
            with suppress(IndexError):
                # The one that was used last, so that those which nobody needs any more lie still.
                connection, since = self._idle.pop()
                if time.monotonic() - since < _TRUSTED_SECONDS or _lives(connection):
                    return connection
                _end(connection)
        try:
            return self._origin.adbc_clone()
        except dbapi.OperationalError as error:
            raise HistoryUnavailable(f"PostgreSQL {UNREACHABLE}") from error

    def _put(self, connection: dbapi.Connection) -> None:
        if self._closed:
            _end(connection)
        else:
            self._idle.append((connection, time.monotonic()))


def _tell_of_want(error: BaseException) -> None:
    """Say in plain words that the server is there and lacks disk, memory or connections: no defect of who asked.

    Raises:
        HistoryUnavailable: it does.
    """
    state = error.sqlstate if isinstance(error, dbapi.Error) else None
    if state is not None and state.startswith(_INSUFFICIENT):
        what = {"53100": "disk space", "53200": "memory", "53300": "connections"}.get(state, "resources")
        raise HistoryUnavailable(f"PostgreSQL is there and lacks {what} (SQLSTATE {state}): give it some") from error


def _rolled_back(connection: dbapi.Connection) -> bool:
    """Undo what a transaction did; False where the connection is of no more use, and closed."""
    with suppress(dbapi.Error):
        connection.rollback()
    if _lives(connection):
        return True
    _end(connection)
    return False


def _lives(connection: dbapi.Connection) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
        connection.commit()
    except dbapi.Error:
        return False
    return True


def _end(connection: dbapi.Connection) -> None:
    with suppress(dbapi.Error):
        connection.close()
