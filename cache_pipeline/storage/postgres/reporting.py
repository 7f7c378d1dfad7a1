"""The views that analysts query: one for each declared report, made by `migrate`.

A view shows the rows of the current declaration and of one tenant, with local times beside UTC, names beside ids, and whether
a row is final.
Every column has a type and a comment. The functions here build SQL text and run nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from cache_pipeline.query.measure_columns import measures_of
from cache_pipeline.query.measures import Measure, Sum, describe_measure
from cache_pipeline.query.names import name_column, with_name_columns
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import FINAL_COLUMN, LOCAL_SUFFIX, Column, ColumnKind
from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.names import NameScope
from cache_pipeline.storage.postgres.ranges import text_array
from cache_pipeline.storage.postgres.reporting_as_of import as_of_statements
from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA, OWN_SCHEMA, reporting_schema

_ROWS, _COVERAGE = Identifier("r"), Identifier("c")
#: What history holds of all metrics of a report, in one row.
_HELD = SQL(
    "SELECT range_intersect_agg(held.final) AS final, range_intersect_agg(held.stored) AS stored FROM ("
    "SELECT coalesce(range_agg(c.final), '{{}}') AS final, coalesce(range_agg(c.final + c.provisional), '{{}}') AS stored"
    " FROM unnest({metrics}) AS metric LEFT JOIN {table} AS c ON c.series = {series} AND metric = ANY (c.metrics)"
    " GROUP BY metric) AS held"
)


@dataclass(frozen=True)
class ViewColumn:
    """One column of a view.

    Attributes:
        name: Its name.
        expression: The SQL that computes it, of the row ``r`` and its series' coverage ``c``.
        comment: What it means, in words.
    """

    name: str
    expression: Composable
    comment: str


@dataclass(frozen=True)
class ReportView:
    """The view of one report.

    Attributes:
        series: The report as one tenant queries it.
        columns: The view's columns, in order.
        table_columns: The names of the report's columns in its table.
    """

    series: Series
    columns: tuple[ViewColumn, ...]
    table_columns: tuple[str, ...]

    @property
    def schema(self) -> str:
        """The schema of the tenant's views."""
        return reporting_schema(self.series.tenant)

    @property
    def name(self) -> str:
        """The name of the view, which is the report's."""
        return self.series.report.name

    @property
    def qualified_name(self) -> Composable:
        """Schema and name as SQL."""
        return Identifier(self.schema, self.name)

    @property
    def digest(self) -> str:
        """A short digest of everything that the view shows; its comment carries it, so that an edit is noticed."""
        text = "\n".join(
            [
                self._definition().as_string(),
                *(column.comment for column in self.columns),
                *(statement.as_string() for statement in self._as_of_statements()),
            ]
        )
        return hashlib.sha256(f"{text}\n{self.series.report.description}".encode()).hexdigest()[:12]

    @property
    def comment(self) -> str:
        """The comment on the view."""
        retention = self.series.report.retention
        kept = "" if retention is None else f" Partitions are deleted {_describe(retention)} after their end."
        return f"{self.series.report.description}.{kept} Made by cache-pipeline migrate, definition {self.digest}"

    def statements(self) -> list[Composed]:
        """Return the statements that create the view; it must not exist."""
        return [
            self._definition(),
            SQL("COMMENT ON VIEW {} IS {}").format(self.qualified_name, Literal(self.comment)),
            *(
                SQL("COMMENT ON COLUMN {}.{} IS {}").format(
                    self.qualified_name, Identifier(column.name), Literal(column.comment)
                )
                for column in self.columns
            ),
            *self._as_of_statements(),
        ]

    def _as_of_statements(self) -> list[Composed]:
        report = self.series.report
        if report.time_travel is None:
            return []
        comment = f"{report.description}, as known at an instant, of buckets that start from from_start until to_start"
        names = [*("interval_start", "interval_end"), *self.table_columns]
        return as_of_statements(self.schema, self.series, names, self._shown, comment, report.time_travel)

    @property
    def _shown(self) -> Composed:
        return SQL(", ").join(
            SQL("{} AS {}").format(column.expression, Identifier(column.name)) for column in self.columns
        )

    def _definition(self) -> Composed:
        return SQL(
            "CREATE VIEW {view} AS SELECT {columns} FROM {table} AS {rows}"
            " CROSS JOIN ({held}) AS {coverage} WHERE {rows}.series = {series}"
        ).format(
            view=self.qualified_name,
            columns=self._shown,
            table=Identifier(HISTORY_SCHEMA, self.name),
            rows=_ROWS,
            held=_HELD.format(
                table=Identifier(OWN_SCHEMA, "coverage"),
                series=Literal(self.series.id),
                metrics=text_array(self.series.report.metrics),
            ),
            coverage=_COVERAGE,
            series=Literal(self.series.id),
        )


def _describe(length: timedelta) -> str:
    days, rest = divmod(length, timedelta(days=1))
    return f"{length / timedelta(hours=1):g} hours" if rest else f"{days} days"


def report_view(report: Report, columns: Sequence[Column], tenant: str, lookups: Mapping[str, str]) -> ReportView:
    """Return the view of a report.

    Args:
        report: The report as it is declared now.
        columns: Its columns, as its vendor's adapter lists them.
        tenant: Whose rows the view shows.
        lookups: By column, the vendor's listing that has names for its ids.
    """
    scope = NameScope(tenant, report.account_id)
    named = {name_column(column): (column, lookup) for column, lookup in lookups.items()}
    taken = {column.name for column in columns}
    bucket = [
        *_instant_columns("interval_start", "Start of the bucket", report),
        *_instant_columns("interval_end", "End of the bucket", report),
    ]
    described = [
        view_column
        for column in with_name_columns(columns, lookups)
        for view_column in (
            _columns_of(column, report)
            if column.name in taken
            else [_name_column(column.name, *named[column.name], scope)]
        )
    ]
    final = ViewColumn(
        FINAL_COLUMN,
        SQL("coalesce({}.final @> {}.interval_start, false)").format(_COVERAGE, _ROWS),
        "Whether the vendor has stopped changing the row, apart from corrections; false: provisional or not fetched with all"
        " metrics yet, and due to be fetched",
    )
    shown = {column.name for column in (*bucket, *described)}
    measures = [
        _measure_column(name, measure, described)
        for name, measure in measures_of(report.measures, columns).items()
        if name not in shown
    ]
    names = tuple(column.name for column in columns)
    return ReportView(Series(report, tenant), (*bucket, *described, *measures, final), names)


def _columns_of(column: Column, report: Report) -> list[ViewColumn]:
    comment = column.description or column.source or column.name
    if column.kind is ColumnKind.instant:
        return _instant_columns(column.name, comment, report)
    if column.nullable:
        return [ViewColumn(column.name, _of_row(column.name), comment)]
    # A group without this metric has no figure where the metric was fetched without the others.
    absent = SQL("CASE WHEN {}.stored @> {}.interval_start THEN 0 END").format(_COVERAGE, _ROWS)
    return [ViewColumn(column.name, SQL("coalesce({}, {})").format(_of_row(column.name), absent), comment)]


def _name_column(name: str, ids: str, lookup: str, scope: NameScope) -> ViewColumn:
    """Return the column with the latest names of a column's ids. PostgreSQL looks them up only for queries that select it."""
    latest = SQL(
        "(SELECT n.name FROM {table} AS n WHERE n.tenant = {tenant} AND n.account = {account} AND n.lookup = {lookup}"
        " AND n.id = {ids} ORDER BY n.valid_from DESC LIMIT 1)"
    ).format(
        table=Identifier(OWN_SCHEMA, "entity_name"),
        tenant=Literal(scope.tenant),
        account=Literal(scope.account),
        lookup=Literal(lookup),
        ids=_of_row(ids),
    )
    expression = SQL("coalesce({}, {})").format(latest, _of_row(ids))
    return ViewColumn(name, expression, f"Latest name of {ids}; the id itself if it has no name")


def _measure_column(name: str, measure: Measure, described: Sequence[ViewColumn]) -> ViewColumn:
    """Return a measure of each row. A group of rows needs the formula in the comment again, over the sums of its columns."""
    shown = {column.name: column.expression for column in described}

    def total(terms: Sum) -> Composable:
        # A row's figures may be large integers, and their quotient must not be one.
        signs = {1: SQL(" + "), -1: SQL(" - ")}
        return SQL("(0::float8{})").format(
            SQL("").join(Composed([signs[sign], shown[column]]) for column, sign in terms)
        )

    value = total(measure.over)
    if measure.under:
        value = SQL("({} / nullif({}, 0))").format(value, total(measure.under))
    comment = f"{describe_measure(measure)}; of several rows: the same formula over sums of its columns"
    return ViewColumn(name, value, comment)


def _instant_columns(name: str, comment: str, report: Report) -> list[ViewColumn]:
    """Return an instant as the vendor has it, and the same on the clocks of the report's time zone."""
    local = SQL("({} AT TIME ZONE {})").format(_of_row(name), Literal(report.zone.key))
    return [
        ViewColumn(name, _of_row(name), comment),
        ViewColumn(f"{name}{LOCAL_SUFFIX}", local, f"{comment}, on the clocks of {report.zone.key}"),
    ]


def _of_row(name: str) -> Composable:
    return SQL("{}.{}").format(_ROWS, Identifier(name))
