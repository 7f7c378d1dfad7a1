"""An error counts for as long as it was recorded for, and takes no memory afterwards."""

from datetime import UTC, datetime, timedelta

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.service.recent_failures import RecentFailures

NOW = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_error_counts_until_its_end_or_a_success() -> None:
    failures, error = RecentFailures(), CachePipelineError("no")
    failures.record("a", error, NOW, NOW + MINUTE)
    assert failures.find("a", NOW) is error
    assert failures.find("b", NOW) is None
    assert failures.find("a", NOW + MINUTE) is None
    failures.forget("a")
    assert failures.find("a", NOW) is None
    failures.forget("a")


def test_ended_errors_are_dropped() -> None:
    failures, error = RecentFailures(), CachePipelineError("no")
    for number in range(100):
        at = NOW + number * MINUTE
        failures.record(str(number), error, at, at + 2 * MINUTE)
    assert len(failures._errors) == 2
