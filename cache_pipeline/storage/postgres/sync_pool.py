"""Connections for blocking callers: the ledger and the names of ids."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from psycopg import Connection, OperationalError
from psycopg.errors import UndefinedTable
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.storage.postgres.connect_timeout import with_connect_timeout
from cache_pipeline.storage.postgres.connections import WITHOUT_PREPARED_STATEMENTS
from cache_pipeline.storage.postgres.schemas import UNREACHABLE

SyncPool = ConnectionPool[Connection[TupleRow]]

_WAIT_SECONDS = 20.0


def sync_connection_pool(postgres_url: str, name: str, size: int, *, autocommit: bool) -> SyncPool:
    """Create a pool. It must be entered before use, and opens connections only when they are needed.

    Args:
        postgres_url: URL of the server.
        name: Name of the pool in log lines.
        size: The largest number of connections.
        autocommit: Whether each statement is a transaction of its own; otherwise each loan of a connection is one.
    """
    return ConnectionPool(
        with_connect_timeout(postgres_url),
        kwargs={"autocommit": autocommit, **WITHOUT_PREPARED_STATEMENTS},
        min_size=0,
        max_size=size,
        num_workers=1,
        timeout=_WAIT_SECONDS,
        check=ConnectionPool.check_connection,
        name=name,
        open=False,
    )


@contextmanager
def lend_connection(pool: SyncPool, tables: str) -> Generator[Connection[TupleRow]]:
    """Lend a connection of a pool.

    Args:
        pool: The pool.
        tables: The tables that the caller uses, for the message if they are missing.

    Raises:
        HistoryUnavailable: PostgreSQL cannot be reached, or lacks the tables.
    """
    try:
        with pool.connection() as connection:
            yield connection
    except UndefinedTable as error:
        raise HistoryUnavailable(f"PostgreSQL lacks {tables}: run `cache-pipeline migrate`") from error
    except (OperationalError, PoolTimeout) as error:
        raise HistoryUnavailable(f"PostgreSQL {UNREACHABLE}") from error
