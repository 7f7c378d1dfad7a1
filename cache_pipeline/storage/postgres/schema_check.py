"""Find out whether the tables and views are as this version and the declarations want them, without Alembic and SQLAlchemy.

Those take a third of a second and 20 MB, and every process looks when it starts. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import psycopg

from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind
from cache_pipeline.query.series import DEFAULT_TENANT
from cache_pipeline.storage.postgres.reporting import ReportView, report_view
from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA, OWN_SCHEMA, reporting_schema
from cache_pipeline.storage.postgres.sync_connection import connect
from cache_pipeline.storage.postgres.table_columns import read_columns
from cache_pipeline.storage.postgres.version_tables import missing_version_tables

#: By report and column, the vendor's listing that has names for the column's ids.
Lookups = Mapping[str, Mapping[str, str]]
NO_LOOKUPS: Lookups = MappingProxyType({})
_INSTANT = "timestamp with time zone"
_TYPES: Mapping[ColumnKind, str] = {
    ColumnKind.dimension: "text",
    ColumnKind.integer: "bigint",
    ColumnKind.number: "double precision",
    ColumnKind.instant: _INSTANT,
}
_INDEXES = "SELECT indexname FROM pg_indexes WHERE schemaname = %(schema)s AND indexname = ANY (%(names)s)"
_VIEWS = """
    SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
    WHERE relnamespace = to_regnamespace(%(schema)s) AND relkind = 'v'
"""


def is_up_to_date(
    postgres_url: str,
    reports: Iterable[tuple[Report, tuple[Column, ...]]],
    tenant: str = DEFAULT_TENANT,
    lookups: Lookups = NO_LOOKUPS,
) -> bool:
    """Return whether ``migrate`` with the same arguments would change nothing and refuse nothing.

    Raises:
        HistoryRefused: The server refuses the URL, or the URL cannot be parsed.
        HistoryUnavailable: The server cannot be reached.
    """
    declared = list(reports)
    with connect(postgres_url) as connection:
        try:
            return (
                _revisions(connection) == [head_revision()]
                and _has_report_tables(connection, declared)
                and not missing_version_tables(connection, (report for report, _ in declared))
                and not outdated_views(connection, declared, tenant, lookups)
            )
        except psycopg.Error:
            # The migration will fail in the same way, and says why.
            return False


def head_revision() -> str:
    """Return the newest migration of this version: each is in a file of its name, and the names are in order."""
    folder = files("cache_pipeline.storage.postgres.migrations").joinpath("versions")
    return max(file.name.removesuffix(".py") for file in folder.iterdir() if file.name[0].isdigit())


def index_name(report: Report) -> str:
    """Return the name of the index on the table of a report."""
    return f"{report.name}_series_interval"


def outdated_views(
    connection: psycopg.Connection[Any],
    reports: Iterable[tuple[Report, tuple[Column, ...]]],
    tenant: str,
    lookups: Lookups,
) -> list[ReportView]:
    """Return the views that are missing, or that an edited report has changed."""
    comments = dict(connection.execute(_VIEWS, {"schema": f'"{reporting_schema(tenant)}"'}).fetchall())
    views = (report_view(report, columns, tenant, lookups.get(report.name, {})) for report, columns in reports)
    return [view for view in views if comments.get(view.name) != view.comment]


def _revisions(connection: psycopg.Connection[Any]) -> list[str]:
    return [revision for (revision,) in connection.execute(f"SELECT version_num FROM {OWN_SCHEMA}.alembic_version")]  # noqa: S608 - a constant


def _has_report_tables(
    connection: psycopg.Connection[Any], declared: Sequence[tuple[Report, tuple[Column, ...]]]
) -> bool:
    existing = read_columns(connection, [HISTORY_SCHEMA], [report.name for report, _ in declared])
    indexes = connection.execute(
        _INDEXES, {"schema": HISTORY_SCHEMA, "names": [index_name(report) for report, _ in declared]}
    )
    missing = {index_name(report) for report, _ in declared} - {name for (name,) in indexes}
    return not missing and all(
        {
            "series": "text",
            "interval_start": _INSTANT,
            "interval_end": _INSTANT,
            **{column.name: _TYPES[column.kind] for column in columns},
        }.items()
        <= existing.get((HISTORY_SCHEMA, report.name), {}).items()
        for report, columns in declared
    )
