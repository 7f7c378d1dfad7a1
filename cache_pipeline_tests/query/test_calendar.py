"""Tests of calendar steps: local days across clock changes, boundaries and splitting."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.errors import InvalidInterval, QueryError
from cache_pipeline.query.calendar import (
    Step,
    cut_at_boundaries,
    expand_to_steps,
    floor_to_step,
    is_aligned,
    list_buckets,
    midnight,
    next_boundary,
    split,
)
from cache_pipeline.query.durations import Duration
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.zones import canonical_zone, time_zone, zone_names

BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "America/Havana",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Atlantic/Azores",
]
PERIODS = ["PT15M", "PT30M", "PT1H", "PT2H", "PT8H", "PT12H", "P1D", "P1W", "P1M"]

zones = st.sampled_from(ZONES).map(ZoneInfo)
periods = st.sampled_from(PERIODS)
# Both clock changes of each zone, Apia's missing day, and the years when Sao Paulo had no midnight.
CLOCK_CHANGES = [
    "2018-11-04",
    "2018-02-17",
    "2026-03-28",
    "2026-10-24",
    "2011-12-29",
    "2024-03-09",
    "2024-11-02",
    "2024-04-06",
]
instants = st.one_of(
    st.integers(0, 16 * 366 * 24 * 60).map(
        lambda minutes: datetime(2010, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ),
    st.sampled_from(CLOCK_CHANGES).map(lambda day: datetime.fromisoformat(f"{day}T00:00:00Z")),
)


def local_day(zone: str, day: date) -> Interval:
    return Interval(midnight(day, ZoneInfo(zone)), midnight(day + timedelta(days=1), ZoneInfo(zone)))


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 28), 24),
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        ("America/Sao_Paulo", date(2018, 2, 18), 24),
        ("America/Havana", date(2024, 3, 10), 23),
        ("America/Havana", date(2024, 11, 3), 25),
        ("Australia/Lord_Howe", date(2024, 10, 6), 23.5),
    ],
)
def test_local_day_length_follows_clock_changes(zone, day, hours):
    day_interval = local_day(zone, day)
    assert day_interval.length == timedelta(hours=hours)
    assert cut_at_boundaries(day_interval, Step.parse("P1D"), ZoneInfo(zone)) == [day_interval]
    hourly = list_buckets(day_interval, Step.parse("PT1H"), ZoneInfo(zone))
    assert sum((bucket.length for bucket in hourly), timedelta()) == day_interval.length
    assert [bucket.length for bucket in hourly[: int(hours)]] == [timedelta(hours=1)] * int(hours)


def test_day_without_midnight_starts_at_its_first_instant():
    start = midnight(date(2018, 11, 4), ZoneInfo("America/Sao_Paulo"))
    assert start.astimezone(ZoneInfo("America/Sao_Paulo")).isoformat() == "2018-11-04T01:00:00-02:00"
    before = start - timedelta(microseconds=1)
    assert before.astimezone(ZoneInfo("America/Sao_Paulo")).date() == date(2018, 11, 3)


def test_day_with_two_midnights_starts_at_the_first():
    start = midnight(date(2024, 11, 3), ZoneInfo("America/Havana"))
    assert start.astimezone(ZoneInfo("America/Havana")).isoformat() == "2024-11-03T00:00:00-04:00"


@given(instants, st.timedeltas(timedelta(minutes=1), timedelta(days=10)), zones, periods)
def test_parts_cover_the_interval_and_end_at_boundaries(start, length, zone, period):
    step, interval = Step.parse(period), Interval(start, start + length)
    parts = cut_at_boundaries(interval, step, zone)
    assert (parts[0].start, parts[-1].end) == (interval.start, interval.end)
    for before, after in pairwise(parts):
        assert before.end == after.start
        assert floor_to_step(after.start, step, zone) == after.start
    assert all(floor_to_step(part.end - timedelta(microseconds=1), step, zone) <= part.start for part in parts)


@given(instants, zones, periods)
def test_boundaries_are_fixed_points_and_consecutive(instant, zone, period):
    step = Step.parse(period)
    boundary = floor_to_step(instant, step, zone)
    assert boundary <= instant < next_boundary(boundary, step, zone)
    assert floor_to_step(boundary, step, zone) == boundary
    after = next_boundary(boundary, step, zone)
    assert floor_to_step(after, step, zone) == after
    assert floor_to_step(after - timedelta(microseconds=1), step, zone) == boundary


@given(instants, st.timedeltas(timedelta(0), timedelta(days=75)), zones, periods)
def test_split_covers_whole_buckets_down_to_one(instant, length, zone, period):
    granularity = Step.parse(period)
    start = floor_to_step(instant, granularity, zone)
    end = next_boundary(floor_to_step(start + length, granularity, zone), granularity, zone)
    interval = Interval(start, end)
    while True:
        parts = split(interval, granularity, zone)
        if not parts:
            break
        assert len(parts) >= 2
        assert (parts[0].start, parts[-1].end) == (interval.start, interval.end)
        assert all(before.end == after.start for before, after in pairwise(parts))
        assert all(is_aligned(part, granularity, zone) for part in parts)
        interval = parts[len(parts) // 2]
    assert list_buckets(interval, granularity, zone) == [interval]


def test_month_splits_into_weeks_days_hours_buckets():
    interval, quarter = Interval.parse("2026-01-01/2026-02-01", BERLIN), Step.parse("PT15M")
    lengths: list[timedelta] = []
    while parts := split(interval, quarter, BERLIN):
        interval = parts[1]
        lengths.append(interval.length)
    hours = [7 * 24, 24, 12, 6, 3, 1, 0.25]
    assert lengths == [timedelta(hours=each) for each in hours]


def test_half_hour_zone_has_its_own_hours():
    day = Interval.parse("2026-01-01/2026-01-02", KOLKATA)
    hourly = list_buckets(day, Step.parse("PT1H"), KOLKATA)
    assert len(hourly) == 24
    assert str(hourly[0]) == "2025-12-31T18:30:00Z/2025-12-31T19:30:00Z"
    with pytest.raises(InvalidInterval, match="cuts a bucket of PT1H in Asia/Kolkata"):
        list_buckets(Interval.parse("2026-01-01T00:00:00Z/2026-01-02T00:00:00Z"), Step.parse("PT1H"), KOLKATA)


@pytest.mark.parametrize(
    ("text", "granularity", "aligned"),
    [
        ("2026-03-29T08:10:00Z/2026-03-29T09:00:00Z", "PT1H", "2026-03-29T08:00:00Z/2026-03-29T09:00:00Z"),
        ("2026-03-29T08:00:00Z/2026-03-29T09:00:01Z", "PT1H", "2026-03-29T08:00:00Z/2026-03-29T10:00:00Z"),
        ("2026-03-29T00:00:00Z/2026-03-30T00:00:00Z", "P1D", "2026-03-28T23:00:00Z/2026-03-30T22:00:00Z"),
        ("2026-03-25T00:00:00Z/2026-03-26T00:00:00Z", "P1W", "2026-03-22T23:00:00Z/2026-03-29T22:00:00Z"),
        ("2026-03-25T00:00:00Z/2026-03-26T00:00:00Z", "P1M", "2026-02-28T23:00:00Z/2026-03-31T22:00:00Z"),
    ],
)
def test_cut_bucket_error_names_the_aligned_interval(text, granularity, aligned):
    step = Step.parse(granularity)
    with pytest.raises(InvalidInterval) as raised:
        list_buckets(Interval.parse(text), step, BERLIN)
    assert f"ask for {aligned}" in str(raised.value)
    assert list_buckets(Interval.parse(aligned), step, BERLIN)


@pytest.mark.parametrize(
    ("period", "canonical"), [("PT60M", "PT1H"), ("PT24H", "P1D"), ("PT1440M", "P1D"), ("P7D", "P1W"), ("P1M", "P1M")]
)
def test_period_has_one_canonical_form(period, canonical):
    assert str(Step.parse(period)) == canonical
    assert Step.parse(canonical) == Step.parse(period)


@pytest.mark.parametrize("period", ["", "PT0M", "PT7M", "PT5H", "PT25H", "P2D", "P2M", "P1Y", "PT1S", "1h", "P1DT1H"])
def test_uneven_period_is_refused(period):
    with pytest.raises(QueryError, match="not a calendar step"):
        Step.parse(period)


@given(instants, zones, periods, periods)
def test_dividing_step_has_all_boundaries_of_the_longer(instant, zone, short, long):
    step, longer = Step.parse(short), Step.parse(long)
    boundary = floor_to_step(instant, longer, zone)
    if step.divides(longer):
        assert floor_to_step(boundary, step, zone) == boundary


@pytest.mark.parametrize(
    ("short", "long", "divides"),
    [
        ("PT15M", "PT1H", True),
        ("PT45M", "PT1H", False),
        ("PT8H", "PT12H", False),
        ("PT8H", "P1D", True),
        ("P1D", "PT12H", False),
        ("P1D", "P1M", True),
        ("P1W", "P1M", False),
        ("P1M", "P1W", False),
        ("P1M", "P1M", True),
    ],
)
def test_step_division_follows_the_calendar(short, long, divides):
    assert Step.parse(short).divides(Step.parse(long)) is divides


@pytest.mark.parametrize("name", ["Mars/Phobos", "", "Europe", "../../etc/passwd", "a\0b", "CET+1"])
def test_unknown_time_zone_is_refused(name):
    with pytest.raises(QueryError, match="IANA"):
        time_zone(name)


@pytest.mark.parametrize(
    "name",
    ["localtime", "posixrules", "Factory", "right/UTC", "right/Europe/Berlin", "posix/UTC", "build/etc/localtime"],
)
def test_zone_outside_the_database_is_refused_though_the_machine_has_it(name):
    with pytest.raises(QueryError, match="IANA"):
        time_zone(name)


@pytest.mark.parametrize("name", ["UTC", "Z", "Etc/GMT+5", "US/Eastern", "EST5EDT", "Asia/Calcutta", "Europe/Kyiv"])
def test_every_name_of_the_database_is_accepted(name):
    assert datetime(2026, 1, 1, tzinfo=time_zone(name)).utcoffset() is not None


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        # The clocks of St. John's changed one minute after midnight until November 2011.
        ("America/St_Johns", date(2010, 11, 6), 24),
        ("America/St_Johns", date(2010, 11, 7), 25),
        ("America/St_Johns", date(2010, 3, 14), 23),
        # Casey Station moved by hours, across midnight in both directions.
        ("Antarctica/Casey", date(2010, 3, 5), 27),
        ("Antarctica/Casey", date(2020, 10, 4), 21),
        # The clocks of Samoa skipped a day.
        ("Pacific/Apia", date(2011, 12, 29), 24),
        ("Pacific/Apia", date(2011, 12, 30), 0),
    ],
)
def test_local_day_has_its_hours_where_clocks_change_across_midnight(zone, day, hours):
    start, end = (midnight(each, ZoneInfo(zone)) for each in (day, day + timedelta(days=1)))
    assert end - start == timedelta(hours=hours)


def test_repeated_end_of_a_day_belongs_to_the_next_day():
    zone = ZoneInfo("America/St_Johns")
    repeated = datetime(2010, 11, 6, 23, 30, tzinfo=zone, fold=1).astimezone(UTC)
    assert floor_to_step(repeated, Step.parse("P1D"), zone) == midnight(date(2010, 11, 7), zone)
    assert next_boundary(floor_to_step(repeated, Step.parse("PT1H"), zone), Step.parse("PT1H"), zone) > repeated


#: One name for every clock, and years in which clocks changed at odd hours or by odd amounts.
CLOCKS = sorted({canonical_zone(name) for name in zone_names()})
YEARS = [1993, 1994, 1995, 2006, 2010, 2011, 2014, 2018, 2020, 2023, 2026]


def days_around_clock_changes(zone: ZoneInfo, year: int) -> Iterator[date]:
    """Yield the days of a year on which the offset is another than a day later."""
    noon = datetime(year, 1, 1, 12, tzinfo=UTC)
    for number in range(366):
        instant = noon + timedelta(days=number)
        if instant.astimezone(zone).utcoffset() != (instant + timedelta(days=1)).astimezone(zone).utcoffset():
            yield instant.date()


@pytest.mark.parametrize("year", YEARS)
def test_every_clock_change_of_every_zone_keeps_boundaries_in_order(year):
    problems: list[str] = []
    for name in CLOCKS:
        zone = ZoneInfo(name)
        for day in days_around_clock_changes(zone, year):
            around = Interval(midnight(day - timedelta(days=1), zone), midnight(day + timedelta(days=3), zone))
            for period in ("PT15M", "PT1H", "P1D"):
                step = Step.parse(period)
                buckets = list_buckets(around, step, zone)
                ends = [bucket.end for bucket in buckets]
                if [bucket.start for bucket in buckets] != [around.start, *ends[:-1]] or ends[-1] != around.end:
                    problems.append(f"{name}: buckets of {period} around {day} have gaps")
                for bucket in buckets:
                    last = bucket.end - timedelta(microseconds=1)
                    if (floor_to_step(bucket.start, step, zone), floor_to_step(last, step, zone)) != (
                        bucket.start,
                    ) * 2:
                        problems.append(f"{name}: {bucket} is no bucket of {period}")
            for period in ("P1W", "P1M"):
                whole = expand_to_steps(around, Step.parse(period), zone)
                if not is_aligned(whole, Step.parse(period), zone) or not whole.contains(around):
                    problems.append(f"{name}: {whole} is no interval of whole {period}")
    assert not problems


@given(
    st.integers(0, 40 * 366 * 24 * 60).map(
        lambda minutes: datetime(1990, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ),
    st.sampled_from(CLOCKS).map(ZoneInfo),
    periods,
)
def test_every_instant_lies_between_its_boundaries_in_every_zone(instant, zone, period):
    step = Step.parse(period)
    boundary = floor_to_step(instant, step, zone)
    assert boundary <= instant < next_boundary(boundary, step, zone)


@given(st.sampled_from(CLOCKS).map(ZoneInfo), st.dates(date(1990, 1, 1), date(2030, 1, 1)), st.integers(1, 40))
def test_days_added_to_a_midnight_end_at_a_midnight(zone, day, days):
    later = Duration.parse(f"P{days}D").add_to(midnight(day, zone), zone)
    start = midnight(day, zone).astimezone(zone).date()
    assert later == midnight(start + timedelta(days=days), zone)
