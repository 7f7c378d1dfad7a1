"""Backoff of sensors: never beside a run of the same partitions, and twice as long after each failure, up to a day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from cache_pipeline.orchestration.partitions import starts_at_tag
from cache_pipeline.orchestration.run_tags import LAUNCHED_BY_TAG
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.storage.coverage import Coverage

UNFINISHED_STATUSES = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_FIRST_DELAY, _MAX_DELAY = timedelta(hours=1), timedelta(days=1)
#: The delay does not grow any more after so many failures.
_MAX_FAILURES = 6


@dataclass(frozen=True)
class PastAttempts:
    """Earlier runs of the same partitions.

    Attributes:
        is_running: Whether one of them has not finished yet.
        failed_at: When runs failed since the last success.
    """

    is_running: bool = False
    failed_at: tuple[datetime, ...] = ()


def is_due(past: PastAttempts, now: datetime) -> bool:
    """Return whether to request a run now.

    The delay is one hour after the first failure, then two, four and so on, up to a day. It has no end, so that a gap is
    filled once its cause is gone, however long that took.
    """
    if past.is_running or not past.failed_at:
        return not past.is_running
    failures = min(len(past.failed_at), _MAX_FAILURES)
    return now - max(past.failed_at) >= min(_FIRST_DELAY * 2 ** (failures - 1), _MAX_DELAY)


@dataclass(frozen=True)
class PartitionRun:
    """One run of a report that has not finished, or that failed.

    Attributes:
        interval: From the start of its first partition to the end of its last.
        is_unfinished: Whether it has not finished.
        updated_at: When its status changed last.
        launched_by: The sensor that requested it, or "".
    """

    interval: Interval
    is_unfinished: bool
    updated_at: datetime
    launched_by: str = ""


def past_attempts(
    runs: Iterable[PartitionRun], partitions: Mapping[str, Interval], coverage: Coverage
) -> dict[str, PastAttempts]:
    """Return for each partition whether it is being run, and its failures since it was last fetched.

    A range whose first partition always fails must not hold up its other partitions, hence one result for each.

    Args:
        runs: The recent runs of the report, whatever launched them.
        partitions: Interval by key.
        coverage: Coverage of the report; what was fetched after a failure has overcome it.
    """
    ordered = list(runs)
    if not ordered:
        return dict.fromkeys(partitions, PastAttempts())
    unfinished = IntervalSet(run.interval for run in ordered if run.is_unfinished)
    failures = [
        (run.updated_at, IntervalSet([run.interval]) - coverage.fetched_since(run.updated_at))
        for run in ordered
        if not run.is_unfinished
    ]
    return {
        key: PastAttempts(
            bool(unfinished & IntervalSet([span])),
            tuple(at for at, failed in failures if failed & IntervalSet([span])),
        )
        for key, span in partitions.items()
    }


def read_past_attempts(instance: dg.DagsterInstance, sensor: str, job: str, first: str) -> PastAttempts:
    """Read the runs that a sensor requested from partition ``first`` on.

    The last partition is not compared: a range grows as later partitions end.
    """
    filters = dg.RunsFilter(job_name=job, tags={LAUNCHED_BY_TAG: sensor, **starts_at_tag(first)})
    failed: list[datetime] = []
    records = instance.get_run_records(filters, limit=_MAX_FAILURES)
    for record in records:
        status = record.dagster_run.status
        if status is dg.DagsterRunStatus.SUCCESS:
            break
        if status not in UNFINISHED_STATUSES:
            failed.append(record.update_timestamp.replace(tzinfo=UTC))
    return PastAttempts(any(record.dagster_run.status in UNFINISHED_STATUSES for record in records), tuple(failed))
