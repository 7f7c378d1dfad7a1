"""Keeps what final rows were before they were replaced, so that history can be read as it was known at an earlier time.

It is an undo log. A series' table holds what is known now. The table of its versions holds each row as it was until it changed,
and an *absence* for each row that did not exist until then. A row as known at an instant is its first version that was replaced
after the instant or, without one, the present row. ``finality_change`` does the same for the final part of coverage, metric by
metric. Only buckets that were final at some time since the log began need versions: of the others nothing can be asked.

Everything is stamped with the database's clock, at the end of the transaction that replaces the rows and under the lock of the
series. So a process that reads the lock's state after an instant knows everything that was stored until then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names
from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.history import KnownThen, Replacement
from cache_pipeline.storage.postgres.groups import same_group
from cache_pipeline.storage.postgres.ranges import bounds_as_json, intervals_of, multirange, text_array
from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA, VERSIONS_SCHEMA
from cache_pipeline.storage.postgres.series_lock import series_lock

_SELECT_FINAL = SQL(
    """
    SELECT to_json(c.metrics)::text, {final}::text, true FROM cache_pipeline_state.coverage AS c
    WHERE c.series = {series} AND c.metrics && {metrics} AND c.final && {covered}
    UNION ALL
    SELECT to_json(f.metrics)::text, {lost}::text, false FROM cache_pipeline_state.finality_change AS f
    WHERE f.series = {series} AND f.metrics && {metrics} AND f.lost && {covered}
    """
)
_COPY_ROWS = SQL("CREATE TEMPORARY TABLE superseded ON COMMIT DROP AS SELECT * FROM {table} AS t WHERE {rows}")
_COPY_FETCH_TIMES = SQL(
    """
    CREATE TEMPORARY TABLE superseded_fetch ON COMMIT DROP AS
    SELECT fetched_at, intervals * {versioned} AS intervals FROM cache_pipeline_state.fetch_time
    WHERE series = {series} AND metrics && {metrics} AND intervals && {versioned}
    """
)
_KEEP_CHANGED = SQL(
    """
    INSERT INTO {versions} ({columns}, known_until, is_absence, fetched_at, refetched_at)
    SELECT {old_columns}, {at}, false, {fetched_at}, {refetched_at} FROM superseded AS b
    WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE t.series = b.series AND {same} AND {is_equal})
    """
)
_KEEP_ABSENT = SQL(
    """
    INSERT INTO {versions} ({keys}, known_until, is_absence, fetched_at, refetched_at)
    SELECT {new_keys}, {at}, true, {fetched_at}, {refetched_at} FROM {table} AS t
    WHERE {rows} AND NOT EXISTS (SELECT FROM superseded AS b WHERE b.series = t.series AND {same})
    """
)
_RECORD_CHANGE = SQL(
    "INSERT INTO cache_pipeline_state.finality_change (series, metrics, changed_at, gained, lost)"
    " VALUES ({series}, {metrics}, {at}, {gained}, {lost})"
)
_KNOWN = SQL(
    """
    SELECT {final}::text, clock_timestamp(), (SELECT since FROM cache_pipeline_state.time_travel WHERE series = {series})
    FROM cache_pipeline_state.final_as_of({series}, {metrics}, {as_of}, {within}) AS known(final)
    """
)


@dataclass(frozen=True)
class BeforeImage:
    """What was known of some intervals of a series before they are replaced.

    Attributes:
        final: By metric, which of them were final.
        versioned: Those in which every change of a row is kept.
    """

    final: Mapping[str, IntervalSet]
    versioned: IntervalSet


def read_before_image(cursor: Any, series: Series, covered: IntervalSet) -> BeforeImage:
    """Read what is known of some intervals, and copy the rows whose changes must be kept, before anything is replaced."""
    within = multirange(covered)
    values: dict[str, Composable] = {
        "series": Literal(series.id),
        "metrics": text_array(series.report.metrics),
        "covered": within,
        "final": bounds_as_json(SQL("(c.final * {})").format(within)),
        "lost": bounds_as_json(SQL("(f.lost * {})").format(within)),
    }
    cursor.execute(_SELECT_FINAL.format(**values).as_string())
    final, versioned = dict.fromkeys(series.report.metrics, IntervalSet()), IntervalSet()
    for names, bounds, is_current in cursor.fetchall():
        intervals = intervals_of(bounds)
        versioned |= intervals
        for metric in json.loads(names) if is_current else ():
            if metric in final:
                final[metric] |= intervals
    if versioned:
        for copy in (_COPY_ROWS, _COPY_FETCH_TIMES):
            statement = copy.format(
                table=Identifier(HISTORY_SCHEMA, series.report.name),
                rows=_rows_within(series, versioned),
                versioned=multirange(versioned),
                **values,
            )
            cursor.execute(statement.as_string())
    return BeforeImage(final, versioned)


def keep_superseded(
    cursor: Any, series: Series, before: BeforeImage, replacement: Replacement, keep: timedelta
) -> None:
    """Keep the rows that have changed, and what became final or stopped being it, once everything is replaced."""
    cursor.execute("SELECT clock_timestamp()")
    (at,) = cursor.fetchone()
    _start(cursor, series, at)
    if before.versioned:
        _keep_rows(cursor, series, before.versioned, at, keep)
    by_intervals: dict[tuple[Interval, ...], list[str]] = {}
    for metric, intervals in before.final.items():
        by_intervals.setdefault(tuple(intervals), []).append(metric)
    changes = [
        (metrics, replacement.final - was_final, was_final - replacement.final)
        for intervals, metrics in by_intervals.items()
        for was_final in [IntervalSet(intervals)]
    ]
    for metrics, gained, lost in changes:
        if gained or lost:
            _record_change(cursor, series, metrics, at, gained, lost)
    if any(gained or lost for _, gained, lost in changes):
        _delete_expired(cursor, Identifier("cache_pipeline_state", "finality_change"), "changed_at", series, at - keep)


def keep_lost_finality(cursor: Any, series: Series, lost: IntervalSet) -> None:
    """Record that intervals are about to stop being final for all metrics; under the lock of the series."""
    statement = SQL(
        "INSERT INTO cache_pipeline_state.finality_change (series, metrics, changed_at, gained, lost)"
        " SELECT series, metrics, clock_timestamp(), '{{}}', final * {lost} FROM cache_pipeline_state.coverage"
        " WHERE series = {series} AND final && {lost}"
    ).format(series=Literal(series.id), lost=multirange(lost))
    cursor.execute(statement.as_string())


def read_known(cursor: Any, series: Series, interval: Interval, as_of: datetime) -> KnownThen:
    """Read what was known of an interval at an instant, after every writer that may have known more has ended."""
    cursor.execute(series_lock(series.id, shared=True).as_string())
    query = _KNOWN.format(
        final=bounds_as_json(Identifier("known", "final")),
        series=Literal(series.id),
        metrics=text_array(series.report.metrics),
        as_of=Literal(as_of),
        within=multirange([interval]),
    )
    cursor.execute(query.as_string())
    final, now, since = cursor.fetchone()
    return KnownThen(intervals_of(final), since, now)


def rows_as_of(report: Report, columns: Composable, rows: Composable, as_of: Composable) -> Composable:
    """Return a query for a series' rows as they were known at an instant. It means nothing for buckets that were not final.

    Args:
        report: The report.
        columns: The columns of its table to select.
        rows: The condition for the rows, which names columns of the table without an alias.
        as_of: The instant.
    """
    key = SQL(", ").join(map(Identifier, ("interval_start", *dimension_names(report))))
    return SQL(
        """
        SELECT {columns} FROM {table} AS t WHERE {rows} AND NOT EXISTS (
            SELECT FROM {versions} AS v WHERE v.series = t.series AND v.known_until > {as_of} AND {same})
        UNION ALL
        SELECT {columns} FROM (
            SELECT DISTINCT ON ({key}) * FROM {versions} WHERE {rows} AND known_until > {as_of} ORDER BY {key}, known_until
        ) AS first_version WHERE NOT is_absence
        """
    ).format(
        columns=columns,
        table=Identifier(HISTORY_SCHEMA, report.name),
        versions=Identifier(VERSIONS_SCHEMA, report.name),
        rows=rows,
        as_of=as_of,
        same=same_group(report, "v", "t"),
        key=key,
    )


def stop_time_travel(series: Series) -> Composable:
    """Return the statement by which a process that keeps no versions says so: what it replaces cannot be read as of later."""
    return SQL("DELETE FROM cache_pipeline_state.time_travel WHERE series = {}").format(Literal(series.id))


def _start(cursor: Any, series: Series, at: datetime) -> None:
    statement = SQL(
        "INSERT INTO cache_pipeline_state.time_travel (series, since) VALUES ({}, {}) ON CONFLICT DO NOTHING"
    ).format(Literal(series.id), Literal(at))
    cursor.execute(statement.as_string())


def _keep_rows(cursor: Any, series: Series, versioned: IntervalSet, at: datetime, keep: timedelta) -> None:
    report = series.report
    versions, keys = Identifier(VERSIONS_SCHEMA, report.name), ["series", "interval_start", "interval_end"]
    keys += dimension_names(report)
    cursor.execute("SELECT * FROM superseded LIMIT 0")
    names: list[str] = cursor.batches().schema.names

    def columns(of: str | None, wanted: list[str]) -> Composable:
        return SQL(", ").join(Identifier(of, name) if of else Identifier(name) for name in wanted)

    def times(start: Composable) -> dict[str, Composable]:
        old = SQL("(SELECT max(o.fetched_at) FROM superseded_fetch AS o WHERE o.intervals @> {})").format(start)
        new = SQL(
            "(SELECT max(n.fetched_at) FROM cache_pipeline_state.fetch_time AS n"
            " WHERE n.series = {} AND n.metrics && {} AND n.intervals @> {})"
        ).format(Literal(series.id), text_array(report.metrics), start)
        return {"fetched_at": old, "refetched_at": new}

    values: dict[str, Composable] = {
        "versions": versions,
        "table": Identifier(HISTORY_SCHEMA, report.name),
        "at": Literal(at),
        "same": same_group(report, "t", "b"),
        "rows": _rows_within(series, versioned),
        "columns": columns(None, names),
        "old_columns": columns("b", names),
        "keys": columns(None, keys),
        "new_keys": columns("t", keys),
        "is_equal": SQL("({}) IS NOT DISTINCT FROM ({})").format(columns("t", names), columns("b", names)),
    }
    cursor.execute(_KEEP_CHANGED.format(**times(Identifier("b", "interval_start")), **values).as_string())
    cursor.execute(_KEEP_ABSENT.format(**times(Identifier("t", "interval_start")), **values).as_string())
    _delete_expired(cursor, versions, "known_until", series, at - keep)


def _record_change(
    cursor: Any, series: Series, metrics: list[str], at: datetime, gained: IntervalSet, lost: IntervalSet
) -> None:
    statement = _RECORD_CHANGE.format(
        series=Literal(series.id),
        metrics=text_array(metrics),
        at=Literal(at),
        gained=multirange(gained),
        lost=multirange(lost),
    )
    cursor.execute(statement.as_string())


def _delete_expired(cursor: Any, table: Composable, column: str, series: Series, before: datetime) -> None:
    statement = SQL("DELETE FROM {} WHERE series = {} AND {} < {}").format(
        table, Literal(series.id), Identifier(column), Literal(before)
    )
    cursor.execute(statement.as_string())


def _rows_within(series: Series, intervals: IntervalSet) -> Composable:
    """Return the condition for the rows ``t`` of a series whose bucket starts inside one of some intervals."""
    return SQL("t.series = {} AND ({})").format(
        Literal(series.id),
        SQL(" OR ").join(
            SQL("(t.interval_start >= {} AND t.interval_start < {})").format(Literal(part.start), Literal(part.end))
            for part in intervals
        ),
    )
