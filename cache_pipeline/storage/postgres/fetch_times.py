"""As of when each part of a series is: what every answer tells, and why older figures never take the place of newer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.interval import Interval, IntervalSet, parse_instant
from cache_pipeline.query.series import Series
from cache_pipeline.storage.coverage import Fetched
from cache_pipeline.storage.postgres.ranges import bounds_as_json, instant_as_text, intervals_of, multirange


class NewerDataPresent(CachePipelineError):
    """History holds figures that were asked for later than those that were to take their place; nothing was written."""

    def __init__(self, intervals: IntervalSet) -> None:
        self.intervals = intervals
        super().__init__(f"newer figures are held for {', '.join(map(str, intervals))}")


_NEWER = SQL(
    """
    SELECT {bounds}::text FROM (
        SELECT coalesce(range_agg(part), '{{}}') AS newer
        FROM cache_pipeline_state.fetch_time AS f, unnest(f.intervals * {covers}) AS part
        WHERE f.series = {series} AND f.fetched_at > {at} AND f.intervals && {covers}
    ) AS held
    """
)
_NOTE = (
    SQL(
        "UPDATE cache_pipeline_state.fetch_time SET intervals = intervals - {covers} WHERE series = {series} AND intervals && {covers}"
    ),
    SQL("DELETE FROM cache_pipeline_state.fetch_time WHERE series = {series} AND isempty(intervals)"),
    SQL(
        """
        INSERT INTO cache_pipeline_state.fetch_time AS f (series, fetched_at, intervals) VALUES ({series}, {at}, {covers})
        ON CONFLICT (series, fetched_at) DO UPDATE SET intervals = f.intervals + excluded.intervals
        """
    ),
)


def record_fetch_times(cursor: Any, series: Series, parts: Iterable[Fetched]) -> None:
    """Note, in the transaction that keeps rows, as of when they are.

    Raises:
        NewerDataPresent: part of what is held was asked for later.
    """
    for each in parts:
        values = {"series": Literal(series.id), "covers": multirange(each.intervals), "at": Literal(each.at)}
        newer = _NEWER.format(bounds=bounds_as_json(Identifier("newer")), **values)
        cursor.execute(newer.as_string())
        if held := intervals_of(cursor.fetchone()[0]):
            raise NewerDataPresent(held)
        for statement in _NOTE:
            cursor.execute(statement.format(**values).as_string())


def fetch_time_column(around: Interval | None) -> Composable:
    """A column for a query on ``coverage AS c``: what was fetched when, of its provisional part and of ``around``."""
    return SQL(
        """
        (SELECT coalesce(json_agg(json_build_array({at}, {covers}) ORDER BY f.fetched_at), '[]')
         FROM cache_pipeline_state.fetch_time AS f
         WHERE f.series = c.series AND (f.intervals && c.provisional OR f.intervals && {around}))::text
        """
    ).format(
        at=instant_as_text(Identifier("f", "fetched_at")),
        covers=bounds_as_json(Identifier("f", "intervals")),
        around=multirange([around] if around else []),
    )


def read_fetch_times(column: str) -> tuple[Fetched, ...]:
    """What that column held."""
    return tuple(Fetched(intervals_of(bounds), parse_instant(at)) for at, bounds in json.loads(column))
