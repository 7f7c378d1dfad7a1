"""Backoff of sensors: never beside a run of the same partitions, and twice as long after each failure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from cache_pipeline.orchestration.partitions import starts_at_tag
from cache_pipeline.orchestration.run_tags import LAUNCHED_BY_TAG

UNFINISHED_STATUSES = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_FIRST_DELAY = timedelta(hours=1)
_MAX_FAILURES = 8


@dataclass(frozen=True)
class PastAttempts:
    """Earlier runs that a sensor requested for the same partitions.

    Attributes:
        is_running: Whether one of them has not finished yet.
        failed_at: When runs failed since the last success.
    """

    is_running: bool = False
    failed_at: tuple[datetime, ...] = ()


def is_due(past: PastAttempts, now: datetime) -> bool:
    """Return whether to request a run now.

    The delay is one hour after the first failure, then two, four and so on. After eight failures no more runs are
    requested: a person has to look at the cause.
    """
    failures = len(past.failed_at)
    if past.is_running or failures >= _MAX_FAILURES:
        return False
    return not failures or now - max(past.failed_at) >= _FIRST_DELAY * 2 ** (failures - 1)


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
