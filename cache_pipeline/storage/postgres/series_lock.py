"""The lock of a series: its writers hold it until their transaction ends."""

from __future__ import annotations

from psycopg.sql import SQL, Composed, Literal


def series_lock(series_id: str, *, shared: bool = False) -> Composed:
    """Return the statement that takes the lock; `shared` is for readers, which exclude only writers."""
    function = SQL("pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock")
    return SQL("SELECT {}(hashtextextended({}, 0))").format(function, Literal(series_id))
