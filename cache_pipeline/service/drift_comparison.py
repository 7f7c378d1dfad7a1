"""How figures in history compare with those of comparable days."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from cache_pipeline.query.drift import LOOKBACK, Comparison, compare_with_earlier, comparison_step, sum_by_step
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import Column, snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.history import History


def volume_column(series: Series, columns: Sequence[Column]) -> str | None:
    """The column of the declared volume metric; None where rows are counted in its place."""
    metric = snake_case(series.report.volume_metric or "")
    names = {column.name for column in columns}
    return next((name for name in (metric, f"{metric}_count") if metric and name in names), None)


def compare_with_comparable_days(
    history: History, series: Series, columns: Sequence[Column], partitions: Sequence[Interval], tolerance: float
) -> list[list[Comparison]]:
    """For each partition, its final hours or days held against those of comparable days that history holds.

    Args:
        history: where the figures are.
        series: whose.
        columns: of the report.
        partitions: intervals of whole buckets.
        tolerance: share by which a figure may differ.
    """
    report = series.report
    step, earliest = comparison_step(report), min(part.start for part in partitions) - LOOKBACK
    around = Interval(earliest, max(part.end for part in partitions))
    held = history.coverage(series).complete & IntervalSet([around])
    totals = history.totals_by_bucket(series, around, volume_column(series, columns))
    figures = sum_by_step(totals, held, step, report.zone)
    first = min(part.start for part in partitions)
    found = compare_with_earlier([each for each in figures if each.start >= first], figures, report.zone, tolerance)
    starts = [each.interval.start for each in found]
    return [found[bisect_left(starts, part.start) : bisect_left(starts, part.end)] for part in partitions]
