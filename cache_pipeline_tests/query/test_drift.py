"""Figures held against comparable days: what is told to differ, and what never is."""

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
    """The day so many days after a certain Monday, in Berlin."""
    first = MONDAY + timedelta(days=offset)
    return Interval(midnight(first, BERLIN), midnight(first + timedelta(days=1), BERLIN))


def mondays(before: list[float], figure: float, tolerance: float = 0.5) -> Comparison:
    """One Monday held against those of the weeks before it."""
    weeks = {day(-7 * (number + 1)): value for number, value in enumerate(before)}
    (found,) = compare_with_earlier([day(0)], {**weeks, day(0): figure}, BERLIN, tolerance)
    return found


@given(st.lists(st.floats(0, 1e6), max_size=MIN_COMPARABLE - 1), st.floats(0, 1e6), TOLERANCES)
def test_with_too_little_history_nothing_differs_and_nothing_is_called_usual(before, figure, tolerance):
    found = mondays(before, figure, tolerance)
    assert (found.median, found.is_outlier, found.comparable_count) == (None, False, len(before))


@given(FIGURES, TOLERANCES, st.floats(-1, 1))
def test_a_figure_within_the_tolerance_never_differs(before, tolerance, share):
    usual = median(before)
    assert not mondays(before, max(usual * (1 + share * tolerance * 0.999), 0), tolerance).is_outlier


@given(FIGURES, TOLERANCES, st.floats(0, 1e5), st.floats(1, 1e4))
def test_what_lies_farther_out_than_a_figure_that_differs_differs_too(before, tolerance, figure, further):
    found = mondays(before, figure, tolerance)
    if found.is_outlier and found.median is not None:
        outward = figure + further if figure > found.median else max(figure - further, 0.0)
        assert mondays(before, outward, tolerance).is_outlier


@given(st.integers(17, 10_000), st.integers(3, 8))
def test_a_day_without_any_figure_differs_where_days_are_alike_and_busier_than_chance(usual, weeks):
    assert mondays([float(usual)] * weeks, 0.0).is_outlier


@given(st.integers(0, 16), st.integers(3, 8))
def test_a_quiet_hour_may_be_empty(usual, weeks):
    assert not mondays([float(usual)] * weeks, 0.0).is_outlier


@given(st.integers(100, 10_000), st.floats(0, 1e6), st.integers(0, 5))
def test_one_odd_day_among_the_comparable_ones_moves_nothing(usual, odd, place):
    before = [float(usual)] * 5
    before.insert(place, odd)
    assert mondays(before, float(usual)) == mondays([float(usual)] * 6, float(usual))


@given(FIGURES)
def test_days_that_vary_much_among_themselves_are_given_more_room(before):
    usual = median(before)
    spread = 3 * 1.4826 * median(abs(each - usual) for each in before)
    found = mondays(before, usual)
    assert found.upper_bound >= usual + max(spread, 4 * math.sqrt(usual)) * 0.999


@given(st.permutations(range(-60, 1)))
def test_neither_the_order_of_the_figures_nor_what_came_later_or_long_before_matters(order):
    figures = {day(offset): 1000.0 + offset % 7 for offset in order}
    alone = compare_with_earlier(
        [day(-1)], {each: value for each, value in figures.items() if each <= day(-1)}, BERLIN, 0.5
    )
    assert compare_with_earlier([day(-1)], figures, BERLIN, 0.5) == alone
    assert alone[0].comparable_count == 8


def test_a_weekday_is_held_against_itself_and_where_it_is_too_new_against_its_kind_of_day():
    weekdays = {day(-offset): 100.0 for offset in range(1, 8) if day(-offset).start.astimezone(BERLIN).isoweekday() < 6}
    weekend = {day(-offset): 5.0 for offset in (1, 2)}
    (found,) = compare_with_earlier([day(0)], {**weekdays, **weekend, day(0): 100.0}, BERLIN, 0.5)
    assert (found.median, found.comparable_count) == (100.0, 5)
    weeks = {day(-7 * number): 300.0 for number in (1, 2, 3)}
    (found,) = compare_with_earlier([day(0)], {**weekdays, **weeks, day(0): 100.0}, BERLIN, 0.5)
    assert (found.median, found.is_outlier) == (300.0, True)


def test_hours_are_held_against_the_same_hour_of_the_wall_clock_also_after_it_was_changed():
    def at(day_of: date, hour: int) -> Interval:
        start = datetime(day_of.year, day_of.month, day_of.day, hour, tzinfo=BERLIN).astimezone(UTC)
        return Interval(start, start + timedelta(hours=1))

    # The clocks went forward on 29 March.
    sundays = [date(2026, 3, 8), date(2026, 3, 15), date(2026, 3, 22), date(2026, 4, 5)]
    figures = {at(each, hour): 1000.0 * (hour == 9) for each in sundays for hour in (8, 9, 10)}
    found = compare_with_earlier([at(sundays[-1], hour) for hour in (8, 9, 10)], figures, BERLIN, 0.5)
    assert [(each.median, each.is_outlier) for each in found] == [(0.0, False), (1000.0, False), (0.0, False)]


@given(st.dictionaries(st.integers(0, 4 * 24 * 3 - 1), st.integers(1, 500).map(float)))
def test_every_figure_of_a_covered_day_is_counted_once(quarters):
    # Three days around the 25-hour day of the clock change.
    start = midnight(date(2026, 10, 24), BERLIN)
    covered = IntervalSet([Interval(start, midnight(date(2026, 10, 27), BERLIN))])
    figures = {start + timedelta(minutes=15 * place): value for place, value in quarters.items()}
    hours, days = sum_by_step(figures, covered, HOUR, BERLIN), sum_by_step(figures, covered, DAY, BERLIN)
    assert (len(hours), len(days)) == (73, 3)
    assert sum(hours.values()) == sum(days.values()) == sum(quarters.values())


def test_an_hour_of_which_a_part_is_not_known_is_not_compared():
    start = midnight(MONDAY, BERLIN)
    covered = IntervalSet([Interval(start + timedelta(minutes=30), start + timedelta(hours=3))])
    found = sum_by_step({start + timedelta(minutes=45): 7.0, start + timedelta(hours=1): 9.0}, covered, HOUR, BERLIN)
    assert list(found.values()) == [9.0, 0.0]


@pytest.mark.parametrize(
    ("granularity", "partition", "step"),
    [("PT15M", "hour", HOUR), ("PT1H", "day", HOUR), ("P1D", "day", DAY), ("PT1H", "week", DAY), ("P1D", "week", DAY)],
)
def test_reports_are_compared_by_hour_where_they_have_hours_and_weeks_by_day(granularity, partition, step):
    report = Report.model_validate(
        grouped({**FIELDS, "granularity": granularity, "partition": partition, "max_query_interval": "P1W"})
    )
    assert comparison_step(report) == step


def test_a_sunday_that_only_saturdays_and_one_sunday_can_judge_passes_as_quiet_as_that_sunday():
    # Day 0 is a Monday, so -1 and -8 are Sundays, -2 and -9 Saturdays.
    figures = {day(-9): 2000.0, day(-8): 800.0, day(-2): 2100.0, day(-1): 790.0}
    (found,) = compare_with_earlier([day(-1)], figures, BERLIN, 0.5)
    assert (found.median, found.comparable_count, found.is_outlier) == (2000.0, 3, False)
    (found,) = compare_with_earlier([day(-1)], {**figures, day(-1): 100.0}, BERLIN, 0.5)
    assert found.is_outlier


def test_reports_are_compared_unless_they_say_otherwise_or_have_a_row_for_each_conversation():
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
