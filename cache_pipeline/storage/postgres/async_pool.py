"""Connections for single statements from asyncio: jobs, API keys and the status of reports."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.storage.postgres.connect_timeout import with_connect_timeout
from cache_pipeline.storage.postgres.connections import WITHOUT_PREPARED_STATEMENTS

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

_CONNECT_SECONDS = 5.0


def connection_pool(postgres_url: str, size: int, timeout_seconds: float = _CONNECT_SECONDS) -> Pool:
    """Create a pool of connections on which each statement is a transaction of its own.

    The pool must be entered before use. It opens connections only when they are needed.

    Args:
        postgres_url: URL of the server.
        size: The largest number of connections.
        timeout_seconds: How long to wait for a connection before a caller gets an error.
    """
    return AsyncConnectionPool(
        with_connect_timeout(postgres_url),
        connection_class=AsyncConnection[DictRow],
        kwargs={"autocommit": True, "row_factory": dict_row, **WITHOUT_PREPARED_STATEMENTS},
        min_size=0,
        max_size=size,
        timeout=timeout_seconds,
        open=False,
    )


@asynccontextmanager
async def connect(pool: Pool) -> AsyncGenerator[AsyncConnection[DictRow]]:
    """Lend a connection of a pool.

    Raises:
        HistoryUnavailable: PostgreSQL cannot be reached, or ended the connection.
    """
    try:
        async with pool.connection() as connection:
            yield connection
    except (OperationalError, PoolTimeout) as error:
        # Not the driver's own text, which may repeat parts of the URL.
        raise HistoryUnavailable(
            "PostgreSQL cannot be used", remedy="check CACHE_PIPELINE_POSTGRES_URL and that the server is running"
        ) from error
