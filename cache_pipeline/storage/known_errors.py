"""Translate errors of drivers and the operating system into this package's errors.

The stores translate what they expect. What still escapes from a driver is translated here, once, for every entry point:
the command line, the HTTP API, its workers and Dagster.
"""

from __future__ import annotations

import errno

from cache_pipeline.errors import CachePipelineError, DiskUnwritable, HistoryUnavailable, RedisUnavailable

_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def known_error(error: BaseException) -> CachePipelineError | None:
    """Return the error as one of this package's, or None if it is unexpected."""
    # Imported here: a process that has no error need not import the drivers.
    import psycopg
    from psycopg_pool import PoolTimeout
    from redis.exceptions import RedisError

    match error:
        case CachePipelineError():
            return error
        case RedisError():
            return RedisUnavailable(str(error))
        case psycopg.OperationalError() | PoolTimeout():
            # Not the driver's own text, which may repeat parts of the URL.
            return HistoryUnavailable(
                "PostgreSQL cannot be used", remedy="check CACHE_PIPELINE_POSTGRES_URL and that the server is running"
            )
        case OSError(errno=number) if number in _DISK_ERRNOS:
            folder = str(error.filename or "for temporary files")
            return DiskUnwritable(folder, error.strerror or "no space", setting="TMPDIR or CACHE_PIPELINE_DATA_DIR")
        case _:
            return None
