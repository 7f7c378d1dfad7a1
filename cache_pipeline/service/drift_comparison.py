"""Compares figures in history with those of comparable days."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from cache_pipeline.query.drift import LOOKBACK, Comparison, compare_with_earlier, comparison_step, sum_by_step
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import Column, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.history import History


def volume_column(series: Series, columns: Sequence[Column]) -> str | None:
    """Return the column of the declared volume metric, or None if rows are counted instead."""
    metric = to_snake_case(series.report.volume_metric or "")
    names = {column.name for column in columns}
    return next((name for name in (metric, f"{metric}_count") if metric and name in names), None)


def compare_with_comparable_days(
    history: History, series: Series, columns: Sequence[Column], partitions: Sequence[Interval], tolerance: float
) -> list[list[Comparison]]:
    """Compare the final hours or days of each partition with comparable ones that history holds.

    Args:
        history: The tier that holds the figures.
        series: The series.
        columns: The report's columns.
        partitions: Intervals of whole buckets.
        tolerance: The share by which a figure may differ.

    Returns:
        One list of comparisons for each partition, in the order given.
    """
    report = series.report
    step, first = comparison_step(report), min(part.start for part in partitions)
    around = Interval(first - LOOKBACK, max(part.end for part in partitions))
    final = history.coverage(series).final & IntervalSet([around])
    totals = history.totals_by_bucket(series, around, volume_column(series, columns))
    figures = sum_by_step(totals, final, step, report.zone)
    comparisons = compare_with_earlier(
        [each for each in figures if each.start >= first], figures, report.zone, tolerance
    )
    starts = [each.interval.start for each in comparisons]
    return [comparisons[bisect_left(starts, part.start) : bisect_left(starts, part.end)] for part in partitions]
