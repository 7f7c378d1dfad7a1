"""Create and update the tables of history: our own with Alembic, and a table and a view per report from its declaration."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from psycopg.sql import SQL, Composable, Identifier
from sqlalchemy.exc import DBAPIError

from cache_pipeline.errors import DeclarationConflict, HistoryUnavailable, UnknownSchemaVersion
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind
from cache_pipeline.query.series import DEFAULT_TENANT
from cache_pipeline.storage.postgres.reporting import ReportView
from cache_pipeline.storage.postgres.reporting_as_of import drop_as_of, grant_as_of
from cache_pipeline.storage.postgres.schema_check import (
    NO_LOOKUPS,
    Lookups,
    index_name,
    outdated_views,
)
from cache_pipeline.storage.postgres.schemas import (
    HISTORY_SCHEMA,
    OWN_SCHEMA,
    UNREACHABLE,
    VERSIONS_SCHEMA,
    reporting_schema,
)
from cache_pipeline.storage.postgres.sync_connection import connect
from cache_pipeline.storage.postgres.version_tables import missing_version_tables

_LOCK = "cache_pipeline.migrations"
#: SQLSTATE of a statement that a standby refuses, and how those of a lost connection and of a server that stops or starts begin.
_READ_ONLY, _AWAY = "25006", ("08", "57P")
_SQL_TYPES: Mapping[ColumnKind, type[sa.types.TypeEngine[Any]] | sa.types.TypeEngine[Any]] = {
    ColumnKind.dimension: sa.Text,
    ColumnKind.integer: sa.BigInteger,
    ColumnKind.number: sa.Double,
    ColumnKind.instant: sa.TIMESTAMP(timezone=True),
}


def _table(report: Report, columns: Iterable[Column], metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        report.name,
        metadata,
        sa.Column("series", sa.Text, nullable=False, comment="id of the series that the row belongs to"),
        sa.Column("interval_start", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("interval_end", sa.TIMESTAMP(timezone=True), nullable=False),
        # All are nullable: rows of an earlier declaration lack the columns that a later one adds.
        *(sa.Column(column.name, _SQL_TYPES[column.kind]) for column in columns),
        sa.Index(index_name(report), "series", "interval_start"),
        schema=HISTORY_SCHEMA,
        comment=report.description,
    )


def migrate(
    postgres_url: str,
    reports: Iterable[tuple[Report, tuple[Column, ...]]],
    tenant: str = DEFAULT_TENANT,
    lookups: Lookups = NO_LOOKUPS,
) -> None:
    """Bring our tables and every report's table and view up to date. Many processes may run this at once.

    Tables only gain columns, and are never dropped. A view whose report was edited is made again, for the same readers.

    Args:
        postgres_url: The server.
        reports: The declared reports with their columns.
        tenant: Whose rows the views show.
        lookups: The listings with names for ids, which the views show beside the ids.

    Raises:
        DeclarationConflict: A column's type would have to change, or something depends on a view that has changed.
        UnknownSchemaVersion: Another version of this package migrated the database.
        HistoryUnavailable: The server cannot be reached.
    """
    declared = list(reports)
    with _transaction(postgres_url) as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": _LOCK})
        for schema in (OWN_SCHEMA, HISTORY_SCHEMA, VERSIONS_SCHEMA, reporting_schema(tenant)):
            connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        _current_revision(connection)
        command.upgrade(_config(connection), "head")
        _add_report_tables(connection, declared)
        for change in missing_version_tables(_driver(connection), (report for report, _ in declared)):
            _driver(connection).execute(SQL("; ").join(change.statements))
        _make_views(connection, outdated_views(_driver(connection), declared, tenant, lookups))


def add_tables(postgres_url: str, reports: Iterable[tuple[Report, tuple[Column, ...]]]) -> None:
    """Create the tables of reports, or add the columns that they lack. No views are made.

    Raises:
        DeclarationConflict: A column's type would have to change.
        HistoryUnavailable: The server cannot be reached.
    """
    with _transaction(postgres_url) as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": _LOCK})
        _add_report_tables(connection, reports)


def pending_changes(
    postgres_url: str,
    reports: Iterable[tuple[Report, tuple[Column, ...]]],
    tenant: str = DEFAULT_TENANT,
    lookups: Lookups = NO_LOOKUPS,
) -> list[str]:
    """Describe what `migrate` would do with the same arguments, without changing anything; an empty list if nothing.

    Raises:
        DeclarationConflict: A column's type would have to change; the message names it.
        UnknownSchemaVersion: Another version of this package migrated the database.
        HistoryUnavailable: The server cannot be reached.
    """
    declared = list(reports)
    with _transaction(postgres_url) as connection:
        head = ScriptDirectory.from_config(_config(connection)).get_current_head()
        current = _current_revision(connection)
        outdated = [] if current == head else [f"{OWN_SCHEMA} is at migration {current or 'none'} of {head}"]
        missing = [
            f"{kind.removeprefix('add_')} {getattr(change[-1], 'name', change[-1])} is missing"
            for kind, *change in _additions(_differences(connection, declared)[1])
        ]
        missing += [
            change.description
            for change in missing_version_tables(_driver(connection), (report for report, _ in declared))
        ]
        views = [
            f"view {view.schema}.{view.name} is missing or shows an earlier declaration"
            for view in outdated_views(_driver(connection), declared, tenant, lookups)
        ]
    return outdated + missing + views


def _current_revision(connection: sa.Connection) -> str | None:
    """Return the migration that the database is at, or None before the first.

    Raises:
        UnknownSchemaVersion: This version of the package does not have that migration.
    """
    context = MigrationContext.configure(connection, opts={"version_table_schema": OWN_SCHEMA})
    current = context.get_current_heads()
    known = {script.revision for script in ScriptDirectory.from_config(_config(connection)).walk_revisions()}
    unknown = sorted(set(current) - known)
    if unknown:
        raise UnknownSchemaVersion(schema=OWN_SCHEMA, revisions=unknown)
    return current[0] if current else None


@contextmanager
def _transaction(postgres_url: str) -> Generator[sa.Connection]:
    """Yield a connection in a transaction that is committed at the end."""
    # By the driver, because SQLAlchemy does not parse a URL with several hosts.
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: connect(postgres_url), poolclass=sa.pool.NullPool
    )
    try:
        with engine.begin() as connection:
            yield connection
    except (DBAPIError, psycopg.Error) as error:
        reason = _why_unavailable(error.orig if isinstance(error, DBAPIError) else error)
        if reason is None:
            raise
        raise HistoryUnavailable(f"PostgreSQL {reason}") from error
    finally:
        engine.dispose()


def _why_unavailable(error: BaseException | None) -> str | None:
    """Return why a migration can succeed later, without a change of ours; None if it cannot."""
    if not isinstance(error, psycopg.Error):
        return None
    if error.sqlstate == _READ_ONLY:
        return "is read-only, as a standby is: add target_session_attrs=read-write to CACHE_PIPELINE_POSTGRES_URL"
    # An error without a code is the driver's: the connection broke.
    is_away = isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(_AWAY)
    )
    return UNREACHABLE if is_away else None


def _config(connection: sa.Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "cache_pipeline:storage/postgres/migrations")
    return config


def _is_in_history(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "schema" or name == HISTORY_SCHEMA


def _differences(
    connection: sa.Connection, reports: Iterable[tuple[Report, tuple[Column, ...]]]
) -> tuple[MigrationContext, list[Any]]:
    metadata = sa.MetaData()
    for report, columns in reports:
        _table(report, columns, metadata)
    context = MigrationContext.configure(
        connection,
        opts={
            "include_schemas": True,
            "compare_type": True,
            "include_name": _is_in_history,
        },
    )
    return context, compare_metadata(context, metadata)


def _additions(differences: Iterable[Any]) -> Iterator[Any]:
    """Yield the tables, indexes and columns that are missing; what exists beyond the declarations is left alone.

    Raises:
        DeclarationConflict: A column's type would have to change.
    """
    for difference in differences:
        if isinstance(difference, list):
            _refuse_type_change(cast("list[tuple[object, ...]]", difference))
        elif difference[0] in ("add_table", "add_index", "add_column"):
            yield difference


def _add_report_tables(connection: sa.Connection, reports: Iterable[tuple[Report, tuple[Column, ...]]]) -> None:
    context, differences = _differences(connection, reports)
    operations = Operations(context)
    for difference in _additions(differences):
        if difference[0] == "add_table":
            operations.execute(sa.schema.CreateTable(difference[1], if_not_exists=True))
        elif difference[0] == "add_index":
            operations.execute(sa.schema.CreateIndex(difference[1], if_not_exists=True))
        else:
            operations.add_column(difference[2], difference[3], schema=difference[1])


def _make_views(connection: sa.Connection, views: Iterable[ReportView]) -> None:
    for view in views:
        _refuse_unknown_zone(connection, view.series.report)
        grants = [
            SQL("GRANT SELECT ON {} TO {}").format(view.qualified_name, reader) for reader in _readers(connection, view)
        ]
        try:
            _driver(connection).execute(
                SQL("; ").join(
                    [
                        drop_as_of(view.schema, view.name),
                        SQL("DROP VIEW IF EXISTS {}").format(view.qualified_name),
                        *view.statements(),
                        *grants,
                    ]
                )
            )
        except psycopg.errors.DependentObjectsStillExist as error:
            raise DeclarationConflict(
                f"view {view.schema}.{view.name} shows an earlier declaration, and cannot be made again because other objects "
                f"use it ({error.diag.message_detail}): drop them, migrate, and create them again"
            ) from error

        if view.series.report.time_travel:
            # Those that default privileges name are readers only now.
            for reader in _readers(connection, view):
                _driver(connection).execute(grant_as_of(view.schema, view.name, reader))


def _readers(connection: sa.Connection, view: ReportView) -> list[Composable]:
    """Return the roles that may read a view, apart from the present one."""
    found = connection.execute(
        sa.text(
            "SELECT DISTINCT grantee FROM information_schema.role_table_grants WHERE table_schema = :schema"
            " AND table_name = :name AND privilege_type = 'SELECT' AND grantee <> current_user"
        ),
        {"schema": view.schema, "name": view.name},
    ).scalars()
    return [SQL("PUBLIC") if reader == "PUBLIC" else Identifier(reader) for reader in found]


def _driver(connection: sa.Connection) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def _refuse_unknown_zone(connection: sa.Connection, report: Report) -> None:
    """Refuse a time zone that only the Python package knows; every query of the view would fail."""
    try:
        connection.execute(sa.text("SELECT now() AT TIME ZONE :zone"), {"zone": report.zone.key})
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.InvalidParameterValue):
            raise
        raise DeclarationConflict(
            f"PostgreSQL does not know the time zone {report.zone.key} of {report.name}: update its time zones, or declare "
            "an older name of the zone"
        ) from error


def _refuse_type_change(difference: list[tuple[object, ...]]) -> None:
    for change in difference:
        if change[0] == "modify_type":
            raise DeclarationConflict(
                f"column {change[3]} of {change[1]}.{change[2]} is {change[5]} and would have to become {change[6]}: "
                "declare the report under a new name"
            )
