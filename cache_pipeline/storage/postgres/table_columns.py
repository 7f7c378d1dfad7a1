"""Read which columns tables have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

_COLUMNS = """
    SELECT n.nspname AS schema, c.relname AS name, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE n.nspname = ANY (%(schemas)s) AND c.relname = ANY (%(names)s) AND c.relkind IN ('r', 'p')
        AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY n.nspname, c.relname, a.attnum
"""


def read_columns(
    connection: psycopg.Connection[Any], schemas: Iterable[str], names: Iterable[str]
) -> dict[tuple[str, str], dict[str, str]]:
    """Return the type of each column, as the server writes it, of the tables of some names, by schema and name."""
    columns: dict[tuple[str, str], dict[str, str]] = {}
    found = connection.execute(_COLUMNS, {"schemas": list(schemas), "names": list(names)})
    for schema, name, column, kind in found:
        columns.setdefault((schema, name), {})[column] = kind
    return columns
