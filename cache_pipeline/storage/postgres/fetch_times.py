"""When each part of a series was fetched: every answer says so, and older rows never replace newer ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.query.series import Series
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import NewerDataPresent, Replacement
from cache_pipeline.storage.postgres.ranges import bounds_as_json, instant_as_text, intervals_of, multirange, text_array

_SELECT_NEWER = SQL(
    """
    SELECT {bounds}::text FROM (
        SELECT coalesce(range_agg(part), '{{}}') AS newer
        FROM cache_pipeline_state.fetch_time AS f
        JOIN cache_pipeline_state.coverage AS c USING (series, metrics),
        unnest(f.intervals * CASE WHEN f.fetched_at > {at} THEN {intervals} ELSE {final} * c.provisional END) AS part
        WHERE f.series = {series} AND f.metrics && {metrics} AND f.fetched_at >= {at} AND f.intervals && {intervals}
    ) AS newer_parts
    """
)
_RECORD = (
    SQL(
        "UPDATE cache_pipeline_state.fetch_time SET intervals = intervals - {intervals}"
        " WHERE series = {series} AND metrics = {metrics} AND intervals && {intervals}"
    ),
    SQL(
        "DELETE FROM cache_pipeline_state.fetch_time"
        " WHERE series = {series} AND metrics = {metrics} AND isempty(intervals)"
    ),
    SQL(
        """
        INSERT INTO cache_pipeline_state.fetch_time AS f (series, metrics, fetched_at, intervals)
        VALUES ({series}, {metrics}, {at}, {intervals})
        ON CONFLICT (series, metrics, fetched_at) DO UPDATE SET intervals = f.intervals + excluded.intervals
        """
    ),
)


def refuse_older(cursor: Any, replacement: Replacement) -> None:
    """Refuse rows if history holds newer figures of one of their metrics, or has doubted these very ones since.

    Figures that were stored as final and are provisional by now have changed at the vendor; the same answer stored once more, for
    example from a staged file, must not make them final.

    Raises:
        NewerDataPresent: Part of what is stored was requested later, or is provisional although rows of that time said final.
    """
    for each in replacement.fetch_times:
        final = multirange(replacement.final & each.intervals)
        query = _SELECT_NEWER.format(
            bounds=bounds_as_json(Identifier("newer")), final=final, **_values(replacement.series, each)
        )
        cursor.execute(query.as_string())
        if newer := intervals_of(cursor.fetchone()[0]):
            raise NewerDataPresent(newer)


def record_fetch_times(cursor: Any, series: Series, fetch_times: Iterable[FetchTime]) -> None:
    """Record, in the transaction that stores rows, when they were fetched."""
    for each in fetch_times:
        for statement in _RECORD:
            cursor.execute(statement.format(**_values(series, each)).as_string())


def _values(series: Series, time: FetchTime) -> dict[str, Composable]:
    return {
        "series": Literal(series.id),
        "metrics": text_array(series.report.metrics),
        "intervals": multirange(time.intervals),
        "at": Literal(time.at),
    }


def fetch_time_column(interval: Interval | None) -> Composable:
    """Return a column for a query on ``coverage AS c``: the fetch times of its provisional part and of `interval`."""
    return SQL(
        """
        (SELECT coalesce(json_agg(json_build_array({at}, {intervals}) ORDER BY f.fetched_at), '[]')
         FROM cache_pipeline_state.fetch_time AS f
         WHERE f.series = c.series AND f.metrics = c.metrics AND (f.intervals && c.provisional OR f.intervals && {interval}))::text
        """
    ).format(
        at=instant_as_text(Identifier("f", "fetched_at")),
        intervals=bounds_as_json(Identifier("f", "intervals")),
        interval=multirange([interval] if interval else []),
    )


def parse_fetch_times(column: str) -> tuple[FetchTime, ...]:
    """Parse a value of that column."""
    return tuple(FetchTime(intervals_of(bounds), parse_instant(at)) for at, bounds in json.loads(column))
