"""Forgets a person in PostgreSQL: rows of history and their versions, everything known of queries and jobs, and Dagster's tables.

Each place is one transaction. The texts are found by content, so a killed run leaves nothing that the next one does not find.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.errors import CommandError
from cache_pipeline.query.person import Person
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.storage.personal_data import Erasure
from cache_pipeline.storage.postgres.ad_hoc_series import deletion_statements
from cache_pipeline.storage.postgres.schemas import (
    HISTORY_SCHEMA,
    OWN_SCHEMA,
    VERSIONS_SCHEMA,
)
from cache_pipeline.storage.postgres.stored_series import delete_series
from cache_pipeline.storage.postgres.sync_connection import connect

_LOCK = "cache_pipeline.forget"
_TEXTS = ("text", "character varying", "json", "jsonb", "text[]")
_TABLES = """
    SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, NULL)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
        AND format_type(a.atttypid, NULL) IN ('text', 'character varying', 'json', 'jsonb', 'text[]', 'bytea')
        AND (n.nspname = ANY (%(schemas)s) OR c.oid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)))
    ORDER BY n.nspname, c.relname, a.attnum
"""
#: Rows that are nothing without the person. In other tables of ours something else takes the place of the id.
_REMOVED_FROM = ("entity_name", "job", "submitted_query", "dead_letter")
#: Columns of the tables' own keys and of other tables' rows, in which an id cannot be.
_UNSEARCHED = {(OWN_SCHEMA, "alembic_version"), (OWN_SCHEMA, "coverage"), (OWN_SCHEMA, "ad_hoc_series")}

_Columns = Mapping[str, str]


@contextmanager
def open_personal_data(
    postgres_url: str, reports: Mapping[str, Report], dagster_tables: Sequence[str]
) -> Generator[PostgresPersonalData]:
    """Connect to a server, and let no other process forget a person meanwhile.

    Args:
        postgres_url: The server.
        reports: The declared reports.
        dagster_tables: The names of Dagster's tables.

    Raises:
        HistoryUnavailable: The server cannot be reached, or refuses the login.
        CommandError: Another process is forgetting someone.
    """
    with connect(postgres_url, autocommit=True) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(hashtext(%s))", [_LOCK]).fetchone()
        if not row or not row[0]:
            raise CommandError("another process is forgetting a person now: run the command again when it has ended")
        yield PostgresPersonalData(connection, reports, dagster_tables)


class PostgresPersonalData:
    """Everything that may name a person in one database."""

    def __init__(
        self, connection: psycopg.Connection[Any], reports: Mapping[str, Report], dagster_tables: Sequence[str]
    ) -> None:
        self._connection = connection
        self._reports, self._dagster = reports, list(dagster_tables)

    def salt(self) -> bytes:
        """Return the salt of pseudonyms. It is kept until the person is forgotten, so that a killed run continues with the same."""
        given = {"salt": secrets.token_bytes(32)}
        self._connection.execute(
            "INSERT INTO cache_pipeline_state.forget_salt (salt) VALUES (%(salt)s) ON CONFLICT DO NOTHING", given
        )
        row = self._connection.execute("SELECT salt FROM cache_pipeline_state.forget_salt").fetchone()
        return bytes(row[0]) if row else given["salt"]

    def delete_salt(self) -> None:
        """Delete the salt: from now on nothing leads from an id to its pseudonym."""
        self._connection.execute("DELETE FROM cache_pipeline_state.forget_salt")

    def forget(self, person: Person) -> Iterator[Erasure]:
        """Forget a person: first what could ask for the rows again, then rows, and last what is only said of them."""
        tables = self._tables()
        for name in _REMOVED_FROM:
            yield self._remove(person, OWN_SCHEMA, name, tables.get((OWN_SCHEMA, name), {}))
        yield from self._forget_series(person)
        for (schema, name), columns in tables.items():
            if schema not in (HISTORY_SCHEMA, VERSIONS_SCHEMA):
                continue
            change = self._replace if person.keeps_rows else self._remove
            yield change(person, schema, name, columns)
        for (schema, name), columns in tables.items():
            is_removed = schema == OWN_SCHEMA and name in _REMOVED_FROM
            if schema in (HISTORY_SCHEMA, VERSIONS_SCHEMA) or is_removed or (schema, name) in _UNSEARCHED:
                continue
            yield self._replace(person, schema, name, columns)
            yield self._replace_compressed(person, schema, name, columns)

    def _tables(self) -> dict[tuple[str, str], dict[str, str]]:
        """Return the searched columns with their types, by schema and table."""
        given = {"schemas": [OWN_SCHEMA, HISTORY_SCHEMA, VERSIONS_SCHEMA], "tables": self._dagster}
        found: dict[tuple[str, str], dict[str, str]] = {}
        for schema, name, column, kind in self._connection.execute(_TABLES, given):
            found.setdefault((schema, name), {})[column] = kind
        return found

    def _remove(self, person: Person, schema: str, name: str, columns: _Columns) -> Erasure:
        table = Identifier(schema, name)
        with self._connection.transaction():
            removed = 0
            if texts := _text_columns(columns):
                statement = SQL("DELETE FROM {} WHERE {}").format(table, _names_any(person, texts))
                removed = self._connection.execute(statement).rowcount
            for column in (column for column, kind in columns.items() if kind == "bytea"):
                rows = self._connection.execute(
                    SQL("SELECT ctid::text, {0} FROM {1} WHERE {0} IS NOT NULL").format(Identifier(column), table)
                )
                found = [place for place, body in rows if person.occurs_in(_unpacked(body))]
                statement = SQL("DELETE FROM {} WHERE ctid = ANY (%s::tid[])").format(table)
                removed += self._connection.execute(statement, [found]).rowcount
            note = self._export_again(schema, name) if removed else ""
        return Erasure("PostgreSQL", f"{schema}.{name}", removed=removed, note=note)

    def _replace(self, person: Person, schema: str, name: str, columns: _Columns) -> Erasure:
        texts = _text_columns(columns)
        if not texts:
            return Erasure("PostgreSQL", f"{schema}.{name}")
        changes = SQL(", ").join(
            SQL("{0} = regexp_replace({0}::text, {1}, {2}, 'g')::{3}").format(
                Identifier(column),
                Literal(person.pattern),
                Literal(person.pseudonym),
                SQL(columns[column]),  # pyright: ignore[reportArgumentType] - one of `_TEXTS`
            )
            for column in texts
        )
        statement = SQL("UPDATE {} SET {} WHERE {}").format(
            Identifier(schema, name), changes, _names_any(person, texts)
        )
        with self._connection.transaction():
            replaced = self._connection.execute(statement).rowcount
            note = self._export_again(schema, name) if replaced else ""
        return Erasure("PostgreSQL", f"{schema}.{name}", replaced=replaced, note=note)

    def _export_again(self, schema: str, name: str) -> str:
        """Have the next export send all of a changed report again; return what the operator has to do for that."""
        if schema != HISTORY_SCHEMA:
            return ""
        statement = "DELETE FROM cache_pipeline_state.warehouse_export WHERE report = %s"
        exported = self._connection.execute(statement, [name]).rowcount
        return "warehouses still have the rows: run cache-pipeline export" if exported else ""

    def _replace_compressed(self, person: Person, schema: str, name: str, columns: _Columns) -> Erasure:
        """Replace the id in compressed texts, as Dagster keeps its snapshots of jobs."""
        replaced, table = 0, Identifier(schema, name)
        for column in (column for column, kind in columns.items() if kind == "bytea"):
            with self._connection.transaction():
                select = SQL("SELECT ctid::text, {0} FROM {1} WHERE {0} IS NOT NULL").format(Identifier(column), table)
                found = [(place, bytes(body)) for place, body in self._connection.execute(select)]
                for place, body in found:
                    unpacked = _unpacked(body)
                    if person.occurs_in(unpacked):
                        changed = person.replace_in(unpacked)
                        update = SQL("UPDATE {} SET {} = %s WHERE ctid = %s::tid").format(table, Identifier(column))
                        value = changed if unpacked == body else zlib.compress(changed)
                        replaced += self._connection.execute(update, [value, place]).rowcount
        return Erasure("PostgreSQL", f"{schema}.{name}", replaced=replaced)

    def _forget_series(self, person: Person) -> Iterator[Erasure]:
        """Drop the series that are declared of the person: ad hoc ones, and those of earlier declarations."""
        condition = _names_any(person, ["declaration"])
        ad_hoc = self._connection.execute(
            SQL("SELECT DISTINCT name FROM cache_pipeline_state.ad_hoc_series WHERE {}").format(condition)
        ).fetchall()
        for (name,) in ad_hoc:
            with self._connection.transaction():
                for statement in deletion_statements(name):
                    self._connection.execute(statement, {"name": name})
        yield Erasure("PostgreSQL", f"{OWN_SCHEMA}.ad_hoc_series", removed=len(ad_hoc))
        held = self._connection.execute(
            SQL("SELECT DISTINCT series, report, tenant FROM cache_pipeline_state.coverage WHERE {}").format(
                _names_any(person, ["definition"])
            )
        ).fetchall()
        current = {series for series, report, tenant in held if self._is_current(series, report, tenant)}
        dropped = [(series, report) for series, report, _ in held if series not in current]
        for series, report in dropped:
            with self._connection.transaction():
                delete_series(self._connection, series, report)
        declared = sorted({report for series, report, _ in held if series in current})
        yield Erasure(
            "PostgreSQL",
            f"{OWN_SCHEMA}.coverage",
            removed=len(dropped),
            left=len(declared),
            note=f"the filter of {', '.join(declared)} names the person: edit it and run the command again"
            if declared
            else "",
        )

    def _is_current(self, series: str, report: str, tenant: str) -> bool:
        return report in self._reports and Series(self._reports[report], tenant).id == series


def _text_columns(columns: _Columns) -> list[str]:
    return [column for column, kind in columns.items() if kind in _TEXTS]


def _names_any(person: Person, columns: Sequence[str]) -> Composable:
    """Return the condition that a column names the person. The search for a plain text comes first, for it is fast."""
    return SQL("({})").format(
        SQL(" OR ").join(
            SQL("({any_form}) AND {column}::text ~ {pattern}").format(
                any_form=SQL(" OR ").join(
                    SQL("strpos({}::text, {}) > 0").format(Identifier(column), Literal(form)) for form in person.forms
                ),
                column=Identifier(column),
                pattern=Literal(person.pattern),
            )
            for column in columns
        )
    )


def _unpacked(body: bytes) -> bytes:
    """Return a text, decompressed if it was compressed."""
    try:
        return zlib.decompress(body)
    except zlib.error:
        return bytes(body)
