"""Reads the coverage of series, over whichever connection the caller has."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.storage.coverage import Coverage, coverage_of_metrics
from cache_pipeline.storage.postgres.fetch_times import fetch_time_column, parse_fetch_times
from cache_pipeline.storage.postgres.ranges import bounds_as_json, intervals_of
from cache_pipeline.storage.postgres.schemas import UNREACHABLE
from cache_pipeline.storage.postgres.sync_connection import connect

_COVERAGE_COLUMNS = """
    c.series, to_json(c.metrics)::text, {final}::text, {provisional}::text, {unverified}::text, {unexpected}::text, c.watermark, {fetch_times}
"""
_SELECT_COVERAGE = SQL(
    f"SELECT {_COVERAGE_COLUMNS} FROM cache_pipeline_state.coverage AS c WHERE c.series = ANY ({{series}})"  # noqa: S608 - a constant of this module
)
#: The join returns a row with the cost even if there is no coverage.
_SELECT_COVERAGE_AND_COST = SQL(
    f"""
    SELECT {_COVERAGE_COLUMNS}, cost.requests, cost.seconds
    FROM (SELECT avg(requests)::float8 AS requests, avg(duration_seconds)::float8 AS seconds FROM (
              SELECT requests, duration_seconds FROM cache_pipeline_state.chunk_result
              WHERE series = {{cost_of}} ORDER BY fetched_at DESC, id DESC LIMIT {{latest}}) AS latest) AS cost
    LEFT JOIN cache_pipeline_state.coverage AS c ON c.series = ANY ({{series}})
    """  # noqa: S608 - a constant of this module
)
#: The upstream queries whose mean is the cost of the next one.
_LATEST_QUERIES = 50


@contextmanager
def open_coverage(postgres_url: str) -> Generator[PostgresCoverage]:
    """Connect to a server to read coverage alone.

    An Arrow connection first reads the server's types, which takes half a second with a thousand reports.

    Raises:
        HistoryUnavailable: The server cannot be reached, or refuses the login.
    """
    with connect(postgres_url) as connection:
        yield PostgresCoverage(connection)


class PostgresCoverage:
    """The coverage of series. The methods raise HistoryUnavailable if the server is lost or lacks the table."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def coverage(self, series: Series, interval: Interval | None = None) -> Coverage:
        """Read the coverage of a series, including the fetch times of the final parts of `interval`."""
        return self.coverages([series], interval)[series.id]

    def coverages(self, series: Sequence[Series], interval: Interval | None = None) -> dict[str, Coverage]:
        """Read the same for several series in one query; return it by the series' ids."""
        try:
            with self._connection.cursor() as cursor:
                return read_coverages(cursor, series, interval)
        except psycopg.errors.UndefinedTable as error:
            raise HistoryUnavailable("PostgreSQL lacks the table of coverage: run `cache-pipeline migrate`") from error
        except psycopg.OperationalError as error:
            raise HistoryUnavailable(f"PostgreSQL {UNREACHABLE}") from error


def read_coverages(cursor: Any, series: Sequence[Series], interval: Interval | None) -> dict[str, Coverage]:
    """Read the coverage of several series, including the fetch times of the final parts of `interval`.

    Args:
        cursor: A cursor of either driver.
        series: The series.
        interval: The interval; None for no fetch times but those of provisional parts.

    Returns:
        The coverages by the series' ids.
    """
    cursor.execute(_SELECT_COVERAGE.format(**_coverage_columns(series, interval)).as_string())
    return _parse_coverages(series, cursor.fetchall())


def read_coverages_with_cost(
    cursor: Any, series: Sequence[Series], interval: Interval | None, cost_of: Series
) -> tuple[dict[str, Coverage], tuple[float, float] | None]:
    """Read the same, and the mean requests and seconds of one series' latest upstream queries; None if it has none."""
    query = _SELECT_COVERAGE_AND_COST.format(
        cost_of=Literal(cost_of.id), latest=Literal(_LATEST_QUERIES), **_coverage_columns(series, interval)
    )
    cursor.execute(query.as_string())
    rows = cursor.fetchall()
    requests, seconds = rows[0][-2:]
    coverages = _parse_coverages(series, [row[:-2] for row in rows if row[0] is not None])
    return coverages, None if requests is None else (requests, seconds)


def _coverage_columns(series: Sequence[Series], interval: Interval | None) -> dict[str, Composable]:
    """Return the parts of a query for the coverage of some series."""
    bounds = {
        name: bounds_as_json(Identifier("c", name)) for name in ("final", "provisional", "unverified", "unexpected")
    }
    return {**bounds, "fetch_times": fetch_time_column(interval), "series": Literal([each.id for each in series])}


def _parse_coverages(series: Sequence[Series], rows: Iterable[Sequence[Any]]) -> dict[str, Coverage]:
    """Return the coverage of each series, empty where there is no row of it."""
    found: dict[str, list[tuple[frozenset[str], Coverage]]] = {each.id: [] for each in series}
    for series_id, metrics, final, provisional, unverified, unexpected, watermark, fetch_times in rows:
        coverage = Coverage(
            intervals_of(final),
            intervals_of(provisional),
            watermark,
            parse_fetch_times(fetch_times),
            _second_looks(unverified, unexpected),
        )
        found[series_id].append((frozenset(json.loads(metrics)), coverage))
    return {
        each.id: coverage_of_metrics(each.report.metrics, found[each.id], each.report.freshness.recheck_delay)
        for each in series
    }


def _second_looks(unverified: str, unexpected: str) -> dict[SecondLook, IntervalSet]:
    """Return the intervals that wait for a second look, by reason, without the reasons that have none."""
    found = {SecondLook.unverified: intervals_of(unverified), SecondLook.unexpected: intervals_of(unexpected)}
    return {reason: intervals for reason, intervals in found.items() if intervals}
