"""Keeps apart what history holds of each metric of a series, when some of the metrics are stored without the others.

Metrics that are stored together share one row of coverage, and one for each time of fetching. These statements run in the
transaction that stores rows, under the lock of the series.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from psycopg.sql import SQL, Composable, Literal

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.ranges import bounds_as_json, intervals_of, multirange, text_array

_SELECT_OTHERS = SQL(
    """
    SELECT to_json(c.metrics)::text, {bounds}::text FROM cache_pipeline_state.coverage AS c
    WHERE c.series = {series} AND c.metrics <> {metrics} AND (c.final + c.provisional) && {covered}
    """
)
_MOVE = (
    SQL(
        """
        INSERT INTO cache_pipeline_state.coverage AS c
            (series, metrics, report, tenant, definition, final, provisional, unverified, unexpected, watermark)
        SELECT series, {rest}, report, tenant, definition, final * {covered}, provisional * {covered},
               unverified * {covered}, unexpected * {covered}, watermark
        FROM cache_pipeline_state.coverage WHERE series = {series} AND metrics = {old}
        ON CONFLICT (series, metrics) DO UPDATE SET
            final = c.final + excluded.final, provisional = c.provisional + excluded.provisional,
            unverified = c.unverified + excluded.unverified, unexpected = c.unexpected + excluded.unexpected,
            watermark = greatest(c.watermark, excluded.watermark)
        """
    ),
    SQL(
        """
        INSERT INTO cache_pipeline_state.fetch_time AS f (series, metrics, fetched_at, intervals)
        SELECT series, {rest}, fetched_at, intervals * {covered} FROM cache_pipeline_state.fetch_time
        WHERE series = {series} AND metrics = {old} AND intervals && {covered}
        ON CONFLICT (series, metrics, fetched_at) DO UPDATE SET intervals = f.intervals + excluded.intervals
        """
    ),
)
_REMOVE = (
    SQL(
        """
        UPDATE cache_pipeline_state.coverage SET final = final - {covered}, provisional = provisional - {covered},
            unverified = unverified - {covered}, unexpected = unexpected - {covered}
        WHERE series = {series} AND metrics = {old}
        """
    ),
    SQL(
        """
        DELETE FROM cache_pipeline_state.coverage
        WHERE series = {series} AND metrics = {old} AND isempty(final) AND isempty(provisional)
        """
    ),
    SQL(
        """
        UPDATE cache_pipeline_state.fetch_time SET intervals = intervals - {covered}
        WHERE series = {series} AND metrics = {old} AND intervals && {covered}
        """
    ),
    SQL(
        """
        DELETE FROM cache_pipeline_state.fetch_time WHERE series = {series} AND metrics = {old} AND isempty(intervals)
        """
    ),
)


def take_over_metrics(cursor: Any, series: Series, covered: IntervalSet) -> IntervalSet:
    """Take the series' metrics out of what was stored of them with others, because they are about to be stored again.

    Returns:
        The part of the intervals in which history holds other metrics of the same rows.
    """
    values: dict[str, Composable] = {
        "series": Literal(series.id),
        "metrics": text_array(series.report.metrics),
        "covered": multirange(covered),
    }
    select = _SELECT_OTHERS.format(
        bounds=bounds_as_json(SQL("((c.final + c.provisional) * {covered})").format(**values)), **values
    )
    cursor.execute(select.as_string())
    others = IntervalSet()
    for names, bounds in cursor.fetchall():
        old: Sequence[str] = json.loads(names)
        rest = [name for name in old if name not in series.report.metrics]
        if rest:
            others |= intervals_of(bounds)
        if len(rest) == len(old):
            continue
        statements = (*_MOVE, *_REMOVE) if rest else _REMOVE
        for statement in statements:
            cursor.execute(statement.format(rest=text_array(rest), old=text_array(old), **values).as_string())
    return others
