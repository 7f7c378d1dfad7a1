"""The status of a report, day by day."""

from datetime import UTC, date, datetime, timedelta

import pytest

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.partition_days import AS_DECLARED, PartitionDays
from cache_pipeline.query.report import Cadence, Report
from cache_pipeline.service.status import DayState, missing_partitions, report_status
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline_tests.query.declared import with_changes

REPORT = Report.model_validate(
    {
        "name": "calls_hour",
        "description": "Calls",
        "platform": "genesys",
        "query_type": "conversations",
        "granularity": "PT1H",
        "time_zone": "Europe/Berlin",
        "group_by": ["queueId"],
        "metrics": ["nOffered"],
        "partition": "day",
        "start": "2026-03-27",
        "freshness": {"ttl": "PT30M"},
    }
)
# Half past ten in Berlin, on the day after the clocks went forward.
NOW = datetime(2026, 3, 30, 8, 30, tzinfo=UTC)


def held(*intervals: str) -> IntervalSet:
    return IntervalSet(Interval.parse(each, REPORT.zone) for each in intervals)


def test_each_local_day_has_its_state():
    coverage = Coverage(
        final=held("2026-03-27/2026-03-28", "2026-03-28T06:00/2026-03-28T09:00", "2026-03-30/2026-03-30T09:00"),
        provisional=held("2026-03-30T09:00/2026-03-30T11:00"),
        fetch_times=(FetchTime(held("2026-03-30T09:00/2026-03-30T11:00"), NOW - timedelta(minutes=10)),),
    )
    status = report_status(REPORT, AS_DECLARED, coverage, NOW, days=30)
    later = report_status(REPORT, AS_DECLARED, coverage, NOW + timedelta(minutes=21), days=30)
    assert status.days == (
        (date(2026, 3, 27), DayState.final),
        (date(2026, 3, 28), DayState.partial),
        (date(2026, 3, 29), DayState.missing),
        (date(2026, 3, 30), DayState.provisional),
    )
    assert not status.is_stale
    assert later.is_stale


def test_dst_day_is_one_hour_shorter_in_the_gaps():
    status = report_status(REPORT, AS_DECLARED, Coverage(final=held("2026-03-27/2026-03-29")), NOW, days=2)
    assert [gap.length for gap in status.gaps] == [timedelta(hours=23)]


@pytest.mark.parametrize("stored", [held(), held("2026-03-30/2026-03-30T05:00")])
def test_what_is_not_due_yet_is_not_missing(stored: IntervalSet):
    coverage = Coverage(final=held("2026-03-27/2026-03-30") | stored)
    status = report_status(REPORT, AS_DECLARED, coverage, NOW, days=2)
    assert status.days == ((date(2026, 3, 29), DayState.final), (date(2026, 3, 30), DayState.begun))
    assert status.gaps == ()
    # Until it is over and its figures could have been fetched.
    later = report_status(REPORT, AS_DECLARED, coverage, NOW + timedelta(days=1), days=2)
    assert later.days[0][1] is (DayState.partial if stored else DayState.missing)
    assert len(later.gaps) == 1


@pytest.mark.parametrize("days", [1, 2, 400])
def test_future_and_time_before_start_are_no_gaps(days):
    status = report_status(REPORT, AS_DECLARED, Coverage(), NOW, days=days)
    assert all(gap.end <= NOW for gap in status.gaps)
    assert min(day for day, _ in status.days) >= REPORT.start
    assert len(status.days) == min(days, 4)


def _missing_days(report: Report, partition_days: PartitionDays) -> list[date]:
    status = report_status(report, partition_days, Coverage(), NOW, days=400)
    assert not status.gaps or status.gaps[0].start.astimezone(report.zone).date() == status.days[0][0]
    return [day for day, _ in status.days]


@pytest.mark.parametrize(
    ("partition_days", "days", "partitions"),
    [
        (AS_DECLARED, [27, 28, 29, 30], 3),
        (PartitionDays(first=date(2026, 3, 29)), [29, 30], 1),
        (PartitionDays(first=date(2026, 3, 25)), [25, 26, 27, 28, 29, 30], 5),
        (PartitionDays(end=date(2026, 3, 29)), [27, 28], 2),
        (PartitionDays(first=date(2026, 3, 31)), [], 0),
    ],
)
def test_only_days_of_partitions_are_missing(partition_days, days, partitions):
    assert _missing_days(REPORT, partition_days) == [date(2026, 3, day) for day in days]
    assert missing_partitions(REPORT, partition_days, Coverage(), NOW) == partitions


def test_weeks_are_missing_since_the_first_monday():
    weekly = with_changes(REPORT, partition=Cadence.week, start=date(2026, 3, 20))
    assert _missing_days(weekly, AS_DECLARED)[0] == date(2026, 3, 23)
    assert missing_partitions(weekly, AS_DECLARED, Coverage(), NOW) == 1


def test_days_that_are_not_kept_are_not_missing():
    assert _missing_days(with_changes(REPORT, retention=timedelta(days=1)), AS_DECLARED)[0] == date(2026, 3, 29)
