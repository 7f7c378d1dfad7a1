"""Tests of intervals, periods and bucket edges."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.intervals import Interval, Period

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Asia/Beirut"]
spans = st.builds(
    lambda start, length: Interval(start * 1000, (start + length) * 1000),
    st.integers(1_577_836_800, 1_767_225_600),
    st.integers(1, 90 * 86_400),
)


@given(interval=spans, grouping=st.sampled_from(intervals.TIME_GROUPINGS), zone=st.sampled_from(ZONES))
def test_calendar_buckets_follow_the_local_calendar(interval, grouping, zone) -> None:
    local = ZoneInfo(zone)
    edges = intervals.calendar_edges(interval, grouping, local, 1_000_000)
    assert (edges[0], edges[-1]) == (interval.start_ms, interval.end_ms)
    assert (np.diff(edges) > 0).all()
    for edge in edges[1:-1].tolist():
        wall = datetime.fromtimestamp(edge / 1000, local)
        before = datetime.fromtimestamp(edge / 1000 - 1, local)
        assert grouping.startswith("by1") or grouping == "by30Minutes" or wall.minute in (0, 30)
        if grouping in ("byDay", "byWeek", "byMonth"):
            assert before.date() < wall.date()
        if grouping == "byWeek":
            assert wall.weekday() == 0
        if grouping == "byMonth":
            assert wall.day == 1


@given(
    interval=spans,
    zone=st.sampled_from(ZONES),
    days=st.integers(0, 40),
    hours=st.integers(0, 30),
    months=st.integers(0, 3),
)
def test_period_buckets_cover_the_interval_from_its_start(interval, zone, days, hours, months) -> None:
    period = Period(months, days, hours * 3_600_000)
    if not (months or days or hours):
        return
    edges = intervals.period_edges(interval, period, ZoneInfo(zone), 1_000_000)
    assert (edges[0], edges[-1]) == (interval.start_ms, interval.end_ms)
    assert (np.diff(edges) > 0).all()
    if not months and not days:
        assert (np.diff(edges)[:-1] == period.milliseconds).all()


def test_short_month_does_not_shift_later_ones() -> None:
    zone = ZoneInfo("Europe/Berlin")
    interval = intervals.parse_interval("2024-01-31T00:00:00/2024-06-01T00:00:00", zone)
    edges = intervals.period_edges(interval, intervals.parse_period("P1M"), zone, 100)
    days = [datetime.fromtimestamp(edge / 1000, zone).strftime("%m-%d %H:%M") for edge in edges.tolist()]
    assert days == ["01-31 00:00", "02-29 00:00", "03-31 00:00", "04-30 00:00", "05-31 00:00", "06-01 00:00"]


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("PT30M", Period(0, 0, 1_800_000)),
        ("P1D", Period(0, 1, 0)),
        ("P1DT12H", Period(0, 1, 43_200_000)),
        ("P1W", Period(0, 7, 0)),
        ("P1Y2M", Period(14, 0, 0)),
    ],
)
def test_periods_are_parsed(text: str, period: Period) -> None:
    assert intervals.parse_period(text) == period


def test_offset_takes_precedence_over_the_zone() -> None:
    zone = ZoneInfo("Europe/Berlin")
    texts = [
        "2024-06-10T00:00:00+02:00/2024-06-11T00:00:00+02:00",
        "2024-06-09T22:00:00Z/2024-06-10T22:00:00.000Z",
        "2024-06-10T05:00+0700/2024-06-11T05:00+0700",
        "2024-06-10T00:00:00/2024-06-11T00:00:00",
    ]
    assert len({intervals.parse_interval(text, zone) for text in texts}) == 1


@given(st.integers(0, 7_200_000_000_000_000))
def test_text_and_milliseconds_are_the_same_instant(microseconds: int) -> None:
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    text = intervals.iso(intervals.to_ms(instant))
    assert timedelta() <= instant - datetime.fromisoformat(text) < timedelta(milliseconds=1)
