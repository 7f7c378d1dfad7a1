"""Tests of backoff: delays double, unfinished runs are respected, and attempts end."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.orchestration.backoff import LAUNCHED_BY_TAG, PastAttempts, is_due, read_past_attempts
from cache_pipeline.orchestration.partitions import range_tags

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_new_range_is_due_and_running_one_is_not() -> None:
    assert is_due(PastAttempts(), NOW)
    assert not is_due(PastAttempts(is_running=True), NOW)


@given(st.integers(1, 7), st.integers(0, 200))
def test_delay_doubles_after_each_failure(failures: int, hours: int) -> None:
    failed = tuple(NOW - timedelta(hours=hours + 500 * number) for number in range(failures))
    assert is_due(PastAttempts(failed_at=failed), NOW) is (hours >= 2 ** (failures - 1))


def test_failing_range_is_run_eight_times_at_most() -> None:
    failed: list[datetime] = []
    for minute in range(0, 365 * 24 * 60, 15):
        now = NOW + timedelta(minutes=minute)
        if is_due(PastAttempts(failed_at=tuple(failed)), now):
            failed.append(now)
    assert len(failed) == 8
    assert failed[-1] - failed[0] < timedelta(days=6)


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
