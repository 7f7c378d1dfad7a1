"""Tests of the partitions of a report, on ordinary days and across clock changes."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_pipeline.orchestration.partitions import (
    final_span,
    keys_of_run,
    keys_within,
    partition_intervals,
    partitions_overlapping,
    partitions_within,
    range_tags,
    report_partitions,
)
from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.partition_days import PartitionDays, final_interval
from cache_pipeline.query.report import Report
from cache_pipeline_tests.orchestration.workbench import declaration

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Adelaide", "America/St_Johns"]


def _report(**changes: Any) -> Report:
    return Report.model_validate(declaration(start="2024-01-01", **changes))


def _local(report: Report, first: str, end: str) -> Interval:
    return Interval(*(midnight(date.fromisoformat(day), report.zone) for day in (first, end)))


def _hours(interval: Interval) -> float:
    return interval.length / timedelta(hours=1)


@pytest.mark.parametrize(("day", "hours"), [("2024-03-31", 23), ("2024-10-27", 25), ("2024-07-01", 24)])
def test_each_hour_is_one_partition_across_clock_changes(day: str, hours: int) -> None:
    report = _report(partition="hour")
    partitions = report_partitions(report)
    full_interval = _local(report, day, (date.fromisoformat(day) + timedelta(days=1)).isoformat())
    keys = keys_within(partitions, full_interval)
    assert len(keys) == len(set(keys)) == hours
    found = list(partition_intervals(partitions, keys).values())
    assert {_hours(interval) for interval in found} == {1}
    assert (found[0].start, found[-1].end) == (full_interval.start, full_interval.end)
    assert all(earlier.end == later.start for earlier, later in pairwise(found))


def test_repeated_hour_has_two_keys_with_offsets() -> None:
    report = _report(partition="hour")
    partitions = report_partitions(report)
    keys = keys_within(partitions, _local(report, "2024-10-27", "2024-10-28"))
    repeated = [key for key in keys if "T02:00" in key]
    assert repeated == ["2024-10-27T02:00+0200", "2024-10-27T02:00+0100"]
    first, second = partition_intervals(partitions, repeated).values()
    assert first.start == datetime(2024, 10, 27, 0, tzinfo=UTC)
    assert second.start == first.end == datetime(2024, 10, 27, 1, tzinfo=UTC)


@pytest.mark.parametrize("day", ["2024-03-31", "2024-10-27"])
def test_hour_range_across_clock_change_has_no_gaps(day: str) -> None:
    report = _report(partition="hour")
    partitions = report_partitions(report)
    keys = keys_within(partitions, _local(report, day, (date.fromisoformat(day) + timedelta(days=1)).isoformat()))
    assert keys_of_run(partitions, range_tags(keys[0], keys[-1])) == keys


@pytest.mark.parametrize(
    ("key", "start", "hours"),
    [
        ("2024-03-30", "2024-03-29T23:00Z", 24),
        ("2024-03-31", "2024-03-30T23:00Z", 23),
        ("2024-10-27", "2024-10-26T22:00Z", 25),
    ],
)
def test_daily_partition_is_a_local_day(key: str, start: str, hours: int) -> None:
    (interval,) = partition_intervals(report_partitions(_report()), [key]).values()
    assert interval.start == datetime.fromisoformat(start)
    assert _hours(interval) == hours


@pytest.mark.parametrize(
    ("key", "start", "hours"), [("2024-03-25", "2024-03-24T23:00Z", 167), ("2024-10-21", "2024-10-20T22:00Z", 169)]
)
def test_weekly_partition_runs_from_monday_to_monday(key: str, start: str, hours: int) -> None:
    (interval,) = partition_intervals(report_partitions(_report(partition="week")), [key]).values()
    assert interval.start == datetime.fromisoformat(start)
    assert _hours(interval) == hours


def test_weeks_begin_on_the_first_monday() -> None:
    partitions = report_partitions(_report(partition="week"), PartitionDays(date(2024, 1, 3), date(2024, 2, 1)))
    assert partitions.get_partition_keys() == ["2024-01-08", "2024-01-15", "2024-01-22"]


def test_partitions_begin_on_the_declared_day() -> None:
    assert report_partitions(_report()).get_first_partition_key() == "2024-01-01"


@pytest.mark.parametrize(
    ("cadence", "keys"),
    [
        ("day", ["1999-01-04", "1999-01-05"]),
        ("hour", [f"1999-01-{day:02}T{hour:02}:00+0100" for day in (4, 5) for hour in range(24)]),
    ],
)
def test_first_and_end_day_override_the_declaration(cadence: str, keys: list[str]) -> None:
    partitions = report_partitions(_report(partition=cadence), PartitionDays(date(1999, 1, 4), date(1999, 1, 6)))
    assert partitions.get_partition_keys() == keys


def test_only_whole_partitions_are_within_an_interval() -> None:
    partitions = report_partitions(_report())
    inside = Interval.parse("2024-06-01T12:00:00+02:00/2024-06-04T12:00:00+02:00")
    assert keys_within(partitions, inside) == ["2024-06-02", "2024-06-03"]
    assert keys_within(partitions, Interval.parse("2024-06-01T01:00:00Z/2024-06-01T02:00:00Z")) == []


@pytest.mark.parametrize("cadence", ["hour", "day", "week"])
def test_no_partitions_exist_outside_the_range(cadence: str) -> None:
    report = _report(partition=cadence)
    partitions = report_partitions(report, PartitionDays(date(2024, 6, 3), date(2024, 6, 10)))
    everything = keys_within(partitions, _local(report, "2024-05-20", "2024-06-30"))
    assert everything == partitions.get_partition_keys()
    assert len(everything) == {"hour": 7 * 24, "day": 7, "week": 1}[cadence]
    assert keys_within(partitions, _local(report, "2024-05-01", "2024-06-03")) == []
    assert keys_within(partitions, _local(report, "2024-06-10", "2024-07-01")) == []


def test_unfinished_partition_does_not_exist() -> None:
    now = datetime.now(UTC)
    # Yesterday began 49 hours ago at most: late in the evening, after a day that the clock change made longer.
    ahead = Interval(now - timedelta(hours=50), now + timedelta(days=3))
    partitions = report_partitions(_report())
    keys = keys_within(partitions, ahead)
    assert 0 < len(keys) <= 2
    assert keys[-1] == partitions.get_last_partition_key()


def test_no_partitions_before_the_first_has_ended() -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    partitions = report_partitions(_report(), PartitionDays(tomorrow))
    assert keys_within(partitions, _local(_report(), "2024-01-01", "2099-01-01")) == []


def test_run_of_one_partition_covers_it() -> None:
    assert keys_of_run(report_partitions(_report()), {"dagster/partition": "2024-06-01"}) == ["2024-06-01"]


def test_run_of_a_range_covers_both_ends() -> None:
    tags = range_tags("2024-06-01", "2024-06-03")
    assert keys_of_run(report_partitions(_report()), tags) == ["2024-06-01", "2024-06-02", "2024-06-03"]


@pytest.mark.parametrize("tags", [{}, {"owner": "me"}, range_tags("2024-06-03", "2024-06-01")])
def test_run_covering_no_partition_fails(tags: dict[str, str]) -> None:
    with pytest.raises(dg.Failure, match="covers no partition") as caught:
        keys_of_run(report_partitions(_report()), tags)
    assert not caught.value.allow_retries


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    cadence=st.sampled_from(["hour", "day", "week"]),
    first=st.dates(date(2024, 1, 1), date(2024, 12, 31)),
    days=st.integers(1, 20),
)
def test_partitions_have_no_gaps_or_overlaps(zone: str, cadence: str, first: date, days: int) -> None:
    report = _report(time_zone=zone, partition=cadence)
    partitions = report_partitions(report)
    span = Interval(midnight(first, report.zone), midnight(first + timedelta(days=days), report.zone))
    keys = keys_within(partitions, span)
    assert len(set(keys)) == len(keys)
    found = list(partition_intervals(partitions, keys).values())
    assert all(span.contains(interval) for interval in found)
    assert all(earlier.end == later.start for earlier, later in pairwise(found))
    if cadence != "week":
        assert (found[0].start, found[-1].end) == (span.start, span.end)


@settings(max_examples=40, deadline=None)
@given(
    zone=st.sampled_from([*ZONES, "America/Sao_Paulo", "America/Havana", "Asia/Beirut"]),
    cadence=st.sampled_from(["hour", "day", "week"]),
    start=st.datetimes(datetime(2016, 1, 2), datetime(2025, 12, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - the strategy adds the zone
    hours=st.integers(1, 400),
)
def test_our_calendar_agrees_with_dagsters(zone: str, cadence: str, start: datetime, hours: int) -> None:
    """Both have the same keys for the same intervals, also where the clocks change at midnight."""
    report = Report.model_validate(declaration(start="2016-01-01", time_zone=zone, partition=cadence))
    partitions, interval = report_partitions(report), Interval(start, start + timedelta(hours=hours))
    found = partitions_overlapping(partitions, interval)
    assert found == partition_intervals(partitions, found)
    assert all(earlier.end == later.start for earlier, later in pairwise(found.values()))
    if found:
        first, *_, last = [*found.values(), list(found.values())[-1]]
        whole = Interval(first.start, last.end)
        assert whole.contains(interval) or cadence == "week"
        assert list(found) == keys_within(partitions, whole)
    assert list(partitions_within(partitions, interval)) == keys_within(partitions, interval)


@given(
    start=st.dates(date(2024, 1, 1), date(2024, 12, 1)),
    # Dagster lists a partition that has not ended where the range has room for none.
    length=st.integers(14, 60),
    later=st.timedeltas(timedelta(hours=-30), timedelta(days=80)),
    cadence=st.sampled_from(["hour", "day", "week"]),
    zone=st.sampled_from(ZONES),
)
@settings(max_examples=150, deadline=None)
def test_final_interval_is_that_of_dagsters_partitions(
    start: date, length: int, later: timedelta, cadence: str, zone: str
) -> None:
    report = _report(partition=cadence, time_zone=zone)
    days = PartitionDays(start, start + timedelta(days=length))
    now = midnight(start, report.zone) + later
    partitions = report_partitions(report, days)
    intervals = partition_intervals(partitions, partitions.get_partition_keys()).values()
    final = [each for each in intervals if each.end <= now - report.freshness.finality_delay]
    expected = Interval(final[0].start, final[-1].end) if final else None
    assert final_interval(report, days, now) == final_span(report, partitions, now) == expected
