"""Drift detection: which figures are outliers among comparable days, and which never are."""

import math
from datetime import UTC, date, datetime, timedelta
from statistics import median
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.calendar import Step, midnight
from cache_pipeline.query.drift import (
    MIN_COMPARABLE,
    Comparison,
    compare_with_earlier,
    comparison_step,
    drift_tolerance,
    sum_by_step,
)
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline_tests.query.declared import FIELDS, grouped

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = Step(minutes=60), Step(days=1)
MONDAY = date(2026, 6, 8)
FIGURES = st.lists(st.integers(0, 10_000).map(float), min_size=MIN_COMPARABLE, max_size=8)
TOLERANCES = st.floats(0.05, 2.0)


def day(offset: int) -> Interval:
    """Return the day that many days after a fixed Monday, in Berlin."""
    first = MONDAY + timedelta(days=offset)
    return Interval(midnight(first, BERLIN), midnight(first + timedelta(days=1), BERLIN))


def compare_monday(before: list[float], figure: float, tolerance: float = 0.5) -> Comparison:
    """Compare one Monday with those of the weeks before it."""
    weeks = {day(-7 * (number + 1)): value for number, value in enumerate(before)}
    (found,) = compare_with_earlier([day(0)], {**weeks, day(0): figure}, BERLIN, tolerance)
    return found


@given(st.lists(st.floats(0, 1e6), max_size=MIN_COMPARABLE - 1), st.floats(0, 1e6), TOLERANCES)
def test_too_little_history_gives_no_outlier(before, figure, tolerance):
    found = compare_monday(before, figure, tolerance)
    assert (found.median, found.is_outlier, found.comparable_count) == (None, False, len(before))


@given(FIGURES, TOLERANCES, st.floats(-1, 1))
def test_figure_within_tolerance_is_no_outlier(before, tolerance, share):
    usual = median(before)
    assert not compare_monday(before, max(usual * (1 + share * tolerance * 0.999), 0), tolerance).is_outlier


@given(FIGURES, TOLERANCES, st.floats(0, 1e5), st.floats(1, 1e4))
def test_figure_beyond_an_outlier_is_an_outlier(before, tolerance, figure, further):
    found = compare_monday(before, figure, tolerance)
    if found.is_outlier and found.median is not None:
        outward = figure + further if figure > found.median else max(figure - further, 0.0)
        assert compare_monday(before, outward, tolerance).is_outlier


@given(st.integers(17, 10_000), st.integers(3, 8))
def test_zero_is_an_outlier_among_busy_days(usual, weeks):
    assert compare_monday([float(usual)] * weeks, 0.0).is_outlier


@given(st.integers(0, 16), st.integers(3, 8))
def test_quiet_hour_may_be_empty(usual, weeks):
    assert not compare_monday([float(usual)] * weeks, 0.0).is_outlier


@given(st.integers(100, 10_000), st.floats(0, 1e6), st.integers(0, 5))
def test_single_odd_day_changes_no_bound(usual, odd, place):
    before = [float(usual)] * 5
    before.insert(place, odd)
    assert compare_monday(before, float(usual)) == compare_monday([float(usual)] * 6, float(usual))


@given(FIGURES)
def test_spread_of_comparable_days_widens_the_bounds(before):
    usual = median(before)
    spread = 3 * 1.4826 * median(abs(each - usual) for each in before)
    found = compare_monday(before, usual)
    assert found.upper_bound >= usual + max(spread, 4 * math.sqrt(usual)) * 0.999


@given(st.permutations(range(-60, 1)))
def test_order_later_and_old_figures_do_not_matter(order):
    figures = {day(offset): 1000.0 + offset % 7 for offset in order}
    alone = compare_with_earlier(
        [day(-1)], {each: value for each, value in figures.items() if each <= day(-1)}, BERLIN, 0.5
    )
    assert compare_with_earlier([day(-1)], figures, BERLIN, 0.5) == alone
    assert alone[0].comparable_count == 8


def test_weekday_is_compared_with_itself_then_its_kind():
    weekdays = {day(-offset): 100.0 for offset in range(1, 8) if day(-offset).start.astimezone(BERLIN).isoweekday() < 6}
    weekend = {day(-offset): 5.0 for offset in (1, 2)}
    (found,) = compare_with_earlier([day(0)], {**weekdays, **weekend, day(0): 100.0}, BERLIN, 0.5)
    assert (found.median, found.comparable_count) == (100.0, 5)
    weeks = {day(-7 * number): 300.0 for number in (1, 2, 3)}
    (found,) = compare_with_earlier([day(0)], {**weekdays, **weeks, day(0): 100.0}, BERLIN, 0.5)
    assert (found.median, found.is_outlier) == (300.0, True)


def test_hours_are_compared_by_wall_clock_across_dst():
    def hour_of(day_of: date, hour: int) -> Interval:
        start = datetime(day_of.year, day_of.month, day_of.day, hour, tzinfo=BERLIN).astimezone(UTC)
        return Interval(start, start + timedelta(hours=1))

    # The clocks went forward on 29 March.
    sundays = [date(2026, 3, 8), date(2026, 3, 15), date(2026, 3, 22), date(2026, 4, 5)]
    figures = {hour_of(each, hour): 1000.0 * (hour == 9) for each in sundays for hour in (8, 9, 10)}
    found = compare_with_earlier([hour_of(sundays[-1], hour) for hour in (8, 9, 10)], figures, BERLIN, 0.5)
    assert [(each.median, each.is_outlier) for each in found] == [(0.0, False), (1000.0, False), (0.0, False)]


@given(st.dictionaries(st.integers(0, 4 * 24 * 3 - 1), st.integers(1, 500).map(float)))
def test_sums_count_every_covered_figure_once(quarters):
    # Three days around the 25-hour day of the clock change.
    start = midnight(date(2026, 10, 24), BERLIN)
    covered = IntervalSet([Interval(start, midnight(date(2026, 10, 27), BERLIN))])
    figures = {start + timedelta(minutes=15 * place): value for place, value in quarters.items()}
    hours, days = sum_by_step(figures, covered, HOUR, BERLIN), sum_by_step(figures, covered, DAY, BERLIN)
    assert (len(hours), len(days)) == (73, 3)
    assert sum(hours.values()) == sum(days.values()) == sum(quarters.values())


def test_partly_covered_hour_is_not_compared():
    start = midnight(MONDAY, BERLIN)
    covered = IntervalSet([Interval(start + timedelta(minutes=30), start + timedelta(hours=3))])
    found = sum_by_step({start + timedelta(minutes=45): 7.0, start + timedelta(hours=1): 9.0}, covered, HOUR, BERLIN)
    assert list(found.values()) == [9.0, 0.0]


@pytest.mark.parametrize(
    ("granularity", "partition", "step"),
    [("PT15M", "hour", HOUR), ("PT1H", "day", HOUR), ("P1D", "day", DAY), ("PT1H", "week", DAY), ("P1D", "week", DAY)],
)
def test_comparison_step_follows_granularity_and_partition(granularity, partition, step):
    report = Report.model_validate(
        grouped({**FIELDS, "granularity": granularity, "partition": partition, "max_query_interval": "P1W"})
    )
    assert comparison_step(report) == step


def test_new_sunday_may_be_as_quiet_as_another():
    # Day 0 is a Monday, so -1 and -8 are Sundays, -2 and -9 Saturdays.
    figures = {day(-9): 2000.0, day(-8): 800.0, day(-2): 2100.0, day(-1): 790.0}
    (found,) = compare_with_earlier([day(-1)], figures, BERLIN, 0.5)
    assert (found.median, found.comparable_count, found.is_outlier) == (2000.0, 3, False)
    (found,) = compare_with_earlier([day(-1)], {**figures, day(-1): 100.0}, BERLIN, 0.5)
    assert found.is_outlier


def test_drift_tolerance_is_none_if_disabled_or_row_level():
    assert drift_tolerance(Report.model_validate(grouped(FIELDS))) == 0.5
    assert drift_tolerance(Report.model_validate(grouped({**FIELDS, "drift_tolerance": 0.2}))) == 0.2
    assert drift_tolerance(Report.model_validate(grouped({**FIELDS, "drift_tolerance": None}))) is None
    by_row = {
        "group_by": [],
        "rows": "conversations",
        "platform": "genesys",
        "volume_metric": None,
        "tiers": ["history"],
    }
    assert drift_tolerance(Report.model_validate(grouped({**FIELDS, **by_row}))) is None
