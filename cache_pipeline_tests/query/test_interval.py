"""Tests of intervals and interval sets: set operations, parsing and formatting."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.errors import InvalidInterval
from cache_pipeline.query.interval import Interval, IntervalSet, format_instant, parse_instant

EPOCH = datetime(2026, 3, 28, tzinfo=UTC)
LIMIT = 60


def minute(number: int) -> datetime:
    return EPOCH + timedelta(minutes=number)


spans = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)).filter(lambda ends: ends[0] < ends[1])
lists_of_spans = st.lists(spans, max_size=8)


def interval_set(pairs: list[tuple[int, int]]) -> IntervalSet:
    return IntervalSet(Interval(minute(start), minute(end)) for start, end in pairs)


def minute_model(pairs: list[tuple[int, int]]) -> set[int]:
    return {each for start, end in pairs for each in range(start, end)}


def minutes_of(intervals: IntervalSet) -> set[int]:
    return {number for number in range(LIMIT) if any(part.contains_instant(minute(number)) for part in intervals)}


@given(lists_of_spans, lists_of_spans)
def test_set_operations_match_sets_of_minutes(left, right):
    a, b = interval_set(left), interval_set(right)
    assert minutes_of(a | b) == minute_model(left) | minute_model(right)
    assert minutes_of(a - b) == minute_model(left) - minute_model(right)
    assert minutes_of(a & b) == minute_model(left) & minute_model(right)


@given(lists_of_spans, lists_of_spans)
def test_parts_are_sorted_and_disjoint(left, right):
    a, b = interval_set(left), interval_set(right)
    for result in (a, a | b, a - b, a & b):
        parts = list(result)
        assert all(before.end < after.start for before, after in pairwise(parts))
        assert len(result) == len(parts)
        assert bool(result) == bool(parts)


@given(lists_of_spans, lists_of_spans)
def test_sets_of_the_same_instants_are_equal(left, right):
    assert (interval_set(left) == interval_set(right)) == (minute_model(left) == minute_model(right))
    reordered = interval_set(list(reversed(left)) + left)
    assert reordered == interval_set(left)
    assert hash(reordered) == hash(interval_set(left))


@given(lists_of_spans, spans)
def test_set_covers_interval_if_every_minute_is_in_it(pairs, span):
    covered = interval_set(pairs).covers(Interval(minute(span[0]), minute(span[1])))
    assert covered == (minute_model([span]) <= minute_model(pairs))


@given(
    st.timedeltas(timedelta(days=-20_000), timedelta(days=20_000)),
    st.timedeltas(timedelta(microseconds=1), timedelta(days=4000)),
    st.integers(-14 * 60, 14 * 60),
)
def test_interval_round_trips_through_text(distance, length, offset):
    start = (EPOCH + distance).astimezone(timezone(timedelta(minutes=offset)))
    interval = Interval(start, start + length)
    assert Interval.parse(str(interval)) == interval
    assert str(Interval.parse(str(interval))) == str(interval)
    assert str(interval).count("Z") == 2


def test_utc_and_offset_spellings_are_one_interval():
    """G6: the meaning counts, which is seven hours before the offset's own midnight."""
    utc = Interval.parse("2023-10-01T00:00:00Z/2023-10-02T00:00:00Z")
    offset = Interval.parse("2023-10-01T07:00:00+07:00/2023-10-02T07:00:00+07:00")
    assert offset == utc
    assert str(offset) == str(utc) == "2023-10-01T00:00:00Z/2023-10-02T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-01-01T00:00:00Z", "open"),
        ("2026-01-01T00:00:00Z/", "open"),
        ("/2026-01-01T00:00:00Z", "open"),
        ("2026-01-01T00:00:00Z/..", "open"),
        ("../2026-01-01T00:00:00Z", "open"),
        ("2026-01-01T00:00:00Z/2026-01-01T00:00:00Z", "empty"),
        ("2026-01-01T01:00:00+01:00/2026-01-01T00:00:00Z", "empty"),
        ("2026-01-02T00:00:00Z/2026-01-01T00:00:00Z", "reversed"),
        ("2026-01-01T00:00:00/2026-01-02T00:00:00Z", "no offset"),
        ("2026-01-01/2026-01-02", "no offset"),
        ("yesterday/2026-01-02T00:00:00Z", "'yesterday' is not an ISO 8601"),
        ("2026-02-30T00:00:00Z/2026-03-02T00:00:00Z", "not an ISO 8601"),
        ("2026-01-01T00:00:00Z/P", "'P' is not an ISO 8601 duration"),
        ("2026-01-01T00:00:00Z/P0D", "longer than zero"),
        ("2026-01-01T00:00:00Z/P1.5D", "not an ISO 8601 duration"),
        ("2026-01-01T00:00:00Z/P9999999D", "is outside the calendar"),
        ("2026-01-01T00:00:00Z/P7890Y", "years"),
        ("P1D/P1D", "two durations"),
        ("0001-01-01T00:00:00+14:00/2026-01-02T00:00:00Z", "years"),
        ("2026-01-01T00:00:00Z/9999-12-31T23:59:59-14:00", "years"),
        ("", "open"),
    ],
)
def test_malformed_interval_is_refused(text, message):
    with pytest.raises(InvalidInterval, match=message):
        Interval.parse(text)


def test_ends_without_offset_need_a_zone():
    with pytest.raises(InvalidInterval, match="offset"):
        Interval(datetime(2026, 1, 1), datetime(2026, 1, 2, tzinfo=UTC))  # noqa: DTZ001
    day = Interval.parse("2026-03-29/2026-03-30", ZoneInfo("Europe/Berlin"))
    assert str(day) == "2026-03-28T23:00:00Z/2026-03-29T22:00:00Z"
    assert day.length == timedelta(hours=23)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 3, 29, 3, tzinfo=ZoneInfo("Europe/Berlin")), "2026-03-29T01:00:00Z"),
        (datetime(2026, 3, 29, 3, 0, 0, 250_000, tzinfo=UTC), "2026-03-29T03:00:00.250000Z"),
    ],
)
def test_instant_is_formatted_in_utc_without_zero_fraction(instant, text):
    assert format_instant(instant) == text
    assert parse_instant(text) == instant


def test_interval_contains_its_start_but_not_its_end():
    interval = Interval(minute(0), minute(10))
    assert interval.contains_instant(minute(0))
    assert not interval.contains_instant(minute(10))
    assert interval.intersection(Interval(minute(10), minute(20))) is None
    assert interval.intersection(Interval(minute(5), minute(20))) == Interval(minute(5), minute(10))
