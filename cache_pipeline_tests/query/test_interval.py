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
sets_of_spans = st.lists(spans, max_size=8)


def interval_set(pairs: list[tuple[int, int]]) -> IntervalSet:
    return IntervalSet(Interval(minute(start), minute(end)) for start, end in pairs)


def model(pairs: list[tuple[int, int]]) -> set[int]:
    return {each for start, end in pairs for each in range(start, end)}


def minutes_of(intervals: IntervalSet) -> set[int]:
    return {number for number in range(LIMIT) if any(part.contains_instant(minute(number)) for part in intervals)}


@given(sets_of_spans, sets_of_spans)
def test_union_difference_and_intersection_are_those_of_sets_of_minutes(left, right):
    a, b = interval_set(left), interval_set(right)
    assert minutes_of(a | b) == model(left) | model(right)
    assert minutes_of(a - b) == model(left) - model(right)
    assert minutes_of(a & b) == model(left) & model(right)


@given(sets_of_spans, sets_of_spans)
def test_every_result_is_sorted_and_its_parts_neither_touch_nor_overlap(left, right):
    a, b = interval_set(left), interval_set(right)
    for result in (a, a | b, a - b, a & b):
        parts = list(result)
        assert all(before.end < after.start for before, after in pairwise(parts))
        assert len(result) == len(parts)
        assert bool(result) == bool(parts)


@given(sets_of_spans, sets_of_spans)
def test_sets_of_the_same_instants_are_equal_however_they_were_put_together(left, right):
    assert (interval_set(left) == interval_set(right)) == (model(left) == model(right))
    again = interval_set(list(reversed(left)) + left)
    assert again == interval_set(left)
    assert hash(again) == hash(interval_set(left))


@given(sets_of_spans, spans)
def test_a_set_covers_an_interval_when_it_holds_every_minute_of_it(pairs, span):
    covered = interval_set(pairs).covers(Interval(minute(span[0]), minute(span[1])))
    assert covered == (model([span]) <= model(pairs))


@given(
    st.timedeltas(timedelta(days=-20_000), timedelta(days=20_000)),
    st.timedeltas(timedelta(microseconds=1), timedelta(days=4000)),
    st.integers(-14 * 60, 14 * 60),
)
def test_what_is_written_is_read_back_as_the_same_interval(distance, length, offset):
    start = (EPOCH + distance).astimezone(timezone(timedelta(minutes=offset)))
    interval = Interval(start, start + length)
    assert Interval.parse(str(interval)) == interval
    assert str(Interval.parse(str(interval))) == str(interval)
    assert str(interval).count("Z") == 2


def test_the_two_spellings_of_the_guide_are_one_interval_and_one_text():
    """G6: by the meaning, which is seven hours before the offset's own midnight."""
    utc = Interval.parse("2023-10-01T00:00:00Z/2023-10-02T00:00:00Z")
    offset = Interval.parse("2023-10-01T07:00:00+07:00/2023-10-02T07:00:00+07:00")
    assert offset == utc
    assert str(offset) == str(utc) == "2023-10-01T00:00:00Z/2023-10-02T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "told"),
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
def test_what_is_no_interval_is_refused_by_name(text, told):
    with pytest.raises(InvalidInterval, match=told):
        Interval.parse(text)


def test_ends_without_an_offset_are_refused_and_read_in_a_zone_where_one_is_given():
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
def test_an_instant_is_written_in_utc_without_a_zero_fraction(instant, text):
    assert format_instant(instant) == text
    assert parse_instant(text) == instant


def test_an_interval_holds_its_start_and_not_its_end():
    interval = Interval(minute(0), minute(10))
    assert interval.contains_instant(minute(0))
    assert not interval.contains_instant(minute(10))
    assert interval.intersection(Interval(minute(10), minute(20))) is None
    assert interval.intersection(Interval(minute(5), minute(20))) == Interval(minute(5), minute(10))
