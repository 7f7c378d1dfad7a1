"""Creates the tables of superseded rows: one beside the table of each report that keeps them, with all of its columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.query.report import Report
from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA, VERSIONS_SCHEMA
from cache_pipeline.storage.postgres.table_columns import read_columns


@dataclass(frozen=True)
class VersionTableChange:
    """What a table of versions lacks.

    Attributes:
        description: What it is, in words.
        statements: The statements that add it.
    """

    description: str
    statements: tuple[Composable, ...]


def missing_version_tables(connection: psycopg.Connection[Any], reports: Iterable[Report]) -> list[VersionTableChange]:
    """Return what the tables of versions lack of the reports that keep them, or of their tables' columns."""
    names = [report.name for report in reports if report.time_travel]
    if not names:
        return []
    columns = read_columns(connection, (HISTORY_SCHEMA, VERSIONS_SCHEMA), names)
    changes: list[VersionTableChange] = []
    for name in names:
        existing = columns.get((VERSIONS_SCHEMA, name))
        if existing is None:
            changes.append(VersionTableChange(f"table {VERSIONS_SCHEMA}.{name} is missing", _create(name)))
            continue
        changes += [
            VersionTableChange(f"column {VERSIONS_SCHEMA}.{name}.{column} is missing", _add_column(name, column, kind))
            for column, kind in columns.get((HISTORY_SCHEMA, name), {}).items()
            if column not in existing
        ]
    return changes


def _create(name: str) -> tuple[Composable, ...]:
    versions = Identifier(VERSIONS_SCHEMA, name)
    statements = [
        SQL("CREATE TABLE {} (LIKE {})").format(versions, Identifier(HISTORY_SCHEMA, name)),
        SQL(
            "ALTER TABLE {} ADD COLUMN known_until timestamptz NOT NULL, ADD COLUMN is_absence boolean NOT NULL,"
            " ADD COLUMN fetched_at timestamptz, ADD COLUMN refetched_at timestamptz"
        ).format(versions),
        *(
            SQL("CREATE INDEX {} ON {} (series, {})").format(
                Identifier(f"{name}_version_{suffix}"), versions, Identifier(column)
            )
            for suffix, column in (("interval", "interval_start"), ("end", "known_until"))
        ),
    ]
    comments = {
        "known_until": "when the row was replaced",
        "is_absence": "whether there was no such row until then",
        "fetched_at": "when the row had been fetched last",
        "refetched_at": "when what replaced it was fetched",
    }
    statements += [
        SQL("COMMENT ON COLUMN {}.{} IS {}").format(versions, Identifier(column), Literal(text))
        for column, text in comments.items()
    ]
    return tuple(statements)


def _add_column(name: str, column: str, kind: str) -> tuple[Composable, ...]:
    statement = SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
        Identifier(VERSIONS_SCHEMA, name),
        Identifier(column),
        SQL(kind),  # pyright: ignore[reportArgumentType] - a type's name, as the server writes it
    )
    return (statement,)
