"""Tests of backoff: delays double up to a day, and unfinished runs are respected."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.orchestration.backoff import (
    LAUNCHED_BY_TAG,
    PartitionRun,
    PastAttempts,
    is_due,
    past_attempts,
    read_past_attempts,
)
from cache_pipeline.orchestration.partitions import range_tags
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.storage.coverage import Coverage, FetchTime

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_new_range_is_due_and_running_one_is_not() -> None:
    assert is_due(PastAttempts(), NOW)
    assert not is_due(PastAttempts(is_running=True), NOW)


@given(st.integers(1, 9), st.integers(0, 200))
def test_delay_doubles_after_each_failure_up_to_a_day(failures: int, hours: int) -> None:
    failed = tuple(NOW - timedelta(hours=hours + 500 * number) for number in range(failures))
    assert is_due(PastAttempts(failed_at=failed), NOW) is (hours >= min(2 ** (failures - 1), 24))


def test_failing_partition_is_tried_daily_without_end() -> None:
    """A gap is filled once its cause is gone, however long that takes."""
    failed: list[datetime] = []
    for minute in range(0, 30 * 24 * 60, 15):
        now = NOW + timedelta(minutes=minute)
        if is_due(PastAttempts(failed_at=tuple(failed)), now):
            failed.append(now)
    assert len(failed) == 34
    assert failed[-1] - failed[-2] == timedelta(days=1)


HOURS = {
    f"h{number}": Interval(NOW + timedelta(hours=number), NOW + timedelta(hours=number + 1)) for number in range(4)
}


def _span(first: str, last: str) -> Interval:
    return Interval(HOURS[first].start, HOURS[last].end)


def test_each_partition_has_its_own_attempts() -> None:
    """A partition that always fails does not hold up those that were once in a range with it."""
    runs = [
        PartitionRun(_span("h3", "h3"), is_unfinished=True, updated_at=NOW),
        PartitionRun(_span("h0", "h1"), is_unfinished=False, updated_at=NOW - timedelta(hours=1)),
        PartitionRun(_span("h0", "h2"), is_unfinished=False, updated_at=NOW - timedelta(hours=3)),
    ]
    fetched = FetchTime(IntervalSet([_span("h1", "h2")]), NOW - timedelta(hours=2))
    found = past_attempts(runs, HOURS, Coverage(provisional=fetched.intervals, fetch_times=(fetched,)))
    assert {key: len(past.failed_at) for key, past in found.items()} == {"h0": 2, "h1": 1, "h2": 0, "h3": 0}
    assert [key for key, past in found.items() if past.is_running] == ["h3"]


def test_partition_that_was_fetched_in_part_since_still_waits() -> None:
    half = Interval(HOURS["h0"].start, HOURS["h0"].start + timedelta(minutes=30))
    fetched = FetchTime(IntervalSet([half]), NOW)
    failed = PartitionRun(HOURS["h0"], is_unfinished=False, updated_at=NOW - timedelta(hours=1))
    found = past_attempts([failed], HOURS, Coverage(provisional=fetched.intervals, fetch_times=(fetched,)))
    assert found["h0"].failed_at == (failed.updated_at,)


def test_past_attempts_are_kept_apart_by_sensor_and_range(instance: dg.DagsterInstance) -> None:
    @dg.job
    def some_job() -> None:
        pass

    def run(status: dg.DagsterRunStatus, sensor: str = "a", first: str = "2024-06-10") -> None:
        tags = {LAUNCHED_BY_TAG: sensor, **range_tags(first, "2024-06-12")}
        instance.create_run_for_job(some_job, status=status, tags=tags)

    run(dg.DagsterRunStatus.FAILURE)
    run(dg.DagsterRunStatus.SUCCESS)
    run(dg.DagsterRunStatus.STARTED, sensor="b")
    run(dg.DagsterRunStatus.FAILURE, first="2024-06-11")
    assert read_past_attempts(instance, "a", "some_job", "2024-06-10") == PastAttempts(), "a success resets the count"
    run(dg.DagsterRunStatus.CANCELED)
    run(dg.DagsterRunStatus.FAILURE)
    past = read_past_attempts(instance, "a", "some_job", "2024-06-10")
    assert (len(past.failed_at), past.is_running) == (2, False)
    assert all(datetime.now(UTC) - at < timedelta(minutes=5) for at in past.failed_at)
    run(dg.DagsterRunStatus.STARTED)
    assert read_past_attempts(instance, "a", "some_job", "2024-06-10").is_running
    assert read_past_attempts(instance, "a", "another_job", "2024-06-10") == PastAttempts()
