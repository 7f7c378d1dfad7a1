"""Arrow in and out of PostgreSQL, by the driver's own interface.

The driver's DB-API module imports `pyarrow.dataset`, which imports pandas, and polars where it is installed: half a second of processor
time and 75 MB for each process that only reads what is stored. It also prepares each statement before it executes it, which is one more
round trip.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Self

import adbc_driver_postgresql
from adbc_driver_manager import (
    INGEST_OPTION_MODE_APPEND,
    INGEST_OPTION_MODE_CREATE,
    AdbcConnection,
    AdbcDatabase,
    AdbcStatement,
    StatementOptions,
)

from cache_pipeline.lazy_imports import pa
from cache_pipeline.storage.postgres.connect_timeout import with_connect_timeout

_BATCH_SIZE: str = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value
_MODE: str = StatementOptions.INGEST_MODE.value
_TABLE: str = StatementOptions.INGEST_TARGET_TABLE.value
_SCHEMA: str = StatementOptions.INGEST_TARGET_DB_SCHEMA.value
_TEMPORARY: str = StatementOptions.INGEST_TEMPORARY.value


class _Database:
    """What connections are opened from. Closed with the last of them."""

    def __init__(self, postgres_url: str) -> None:
        self._database: AdbcDatabase = adbc_driver_postgresql.connect(with_connect_timeout(postgres_url))
        self._lock = threading.Lock()
        self._connections = 0

    def open(self) -> AdbcConnection:
        with self._lock:
            self._connections += 1
        try:
            connection = AdbcConnection(self._database)
            connection.set_autocommit(False)
        except BaseException:
            self.release()
            raise
        return connection

    def release(self) -> None:
        with self._lock:
            self._connections -= 1
            is_last = not self._connections
        if is_last:
            self._database.close()


class ArrowConnection:
    """One connection, always in a transaction. Close it after use, or use it in a `with` block."""

    def __init__(self, database: _Database) -> None:
        self._database = database
        self._connection: AdbcConnection | None = database.open()

    @classmethod
    def connect(cls, postgres_url: str) -> Self:
        """Connect to a server, and read its types.

        Raises:
            adbc_driver_manager.OperationalError: It cannot be reached, or refuses.
        """
        return cls(_Database(postgres_url))

    def clone(self) -> ArrowConnection:
        """Return another connection to the same server, without reading its types again.

        Raises:
            adbc_driver_manager.OperationalError: It cannot be reached, or refuses.
        """
        return ArrowConnection(self._database)

    @contextmanager
    def cursor(self) -> Generator[ArrowCursor]:
        """Yield a cursor, and close it with what it has not read."""
        statement = AdbcStatement(self._open())
        cursor = ArrowCursor(statement)
        try:
            yield cursor
        finally:
            cursor.close()

    def commit(self) -> None:
        """Commit, and begin the next transaction."""
        self._open().commit()

    def rollback(self) -> None:
        """Roll back, and begin the next transaction."""
        self._open().rollback()

    def close(self) -> None:
        """Roll back and disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            finally:
                self._database.release()

    def _open(self) -> AdbcConnection:
        if self._connection is None:
            raise RuntimeError("the connection is closed")
        return self._connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ArrowCursor:
    """Executes statements of a transaction, one after the other; a new one discards what is left of the last one's rows.

    Every call raises `adbc_driver_manager.Error` if the server refuses.
    """

    def __init__(self, statement: AdbcStatement) -> None:
        self._statement = statement
        self._reader: pa.RecordBatchReader | None = None
        self._rows: Iterator[tuple[Any, ...]] = iter(())

    def execute(self, statement: str, *, batch_bytes: int | None = None) -> Self:
        """Execute a statement without parameters.

        Args:
            statement: The SQL.
            batch_bytes: About the size of each record batch, in bytes; that of the driver by default.
        """
        self._discard()
        if batch_bytes is not None:
            self._statement.set_options(**{_BATCH_SIZE: str(batch_bytes)})
        self._statement.set_sql_query(statement)
        handle, _ = self._statement.execute_query()
        self._reader = _read(handle.address)
        self._rows = _iterate(self._reader)
        return self

    def execute_many(self, statement: str, parameters: pa.Table) -> None:
        """Execute a statement once for each row of parameters; the first column is $1."""
        self._discard()
        self._statement.set_sql_query(statement)
        self._statement.prepare()
        self._statement.bind_stream(parameters.to_reader())
        self._statement.execute_update()

    def ingest(self, table: str, rows: pa.RecordBatchReader, *, schema: str | None = None) -> None:
        """Load rows into a table of a schema; without one, into a new temporary table.

        The driver loads bytes as they are. Its error hides one that the reader raises.
        """
        self._discard()
        if schema is None:
            options = {_TABLE: table, _MODE: INGEST_OPTION_MODE_CREATE, _TEMPORARY: "true"}
        else:
            options = {_TABLE: table, _MODE: INGEST_OPTION_MODE_APPEND, _TEMPORARY: "false", _SCHEMA: schema}
        self._statement.set_options(**options)
        self._statement.bind_stream(rows)
        self._statement.execute_update()

    def batches(self) -> pa.RecordBatchReader:
        """Return the rows of the last statement as they arrive; they can be read until the next one."""
        if self._reader is None:
            raise RuntimeError("no statement with rows was executed")
        return self._reader

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows that are left."""
        return list(self._rows)

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, or None."""
        return next(self._rows, None)

    def close(self) -> None:
        """Discard what has not been read."""
        self._discard()
        self._statement.close()

    def _discard(self) -> None:
        reader, self._reader, self._rows = self._reader, None, iter(())
        if reader is not None:
            reader.close()


def _read(stream: int) -> pa.RecordBatchReader:
    # A plain reader would lose the SQLSTATE of an error amid the rows. This one imports Arrow, so it is imported at the first rows.
    from adbc_driver_manager._reader import AdbcRecordBatchReader

    return AdbcRecordBatchReader._import_from_c(stream)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the only way to make one


def _iterate(reader: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in reader:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
