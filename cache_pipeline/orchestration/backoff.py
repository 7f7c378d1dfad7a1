"""How often sensors ask again for what fails: never beside a run that goes on, and each wait twice as long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from cache_pipeline.orchestration.partitions import starts_at_tag

#: On the runs that a sensor asks for: which one did.
ASKED_BY_TAG = "cache_pipeline/asked_by"
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_FIRST_WAIT = timedelta(hours=1)
_MOST_ATTEMPTS = 8


@dataclass(frozen=True)
class PastAttempts:
    """What came of asking for the same before.

    Attributes:
        goes_on: whether a run of it has not ended.
        failed_at: when runs of it failed, since one succeeded.
    """

    goes_on: bool = False
    failed_at: tuple[datetime, ...] = ()


def is_due(tried: PastAttempts, now: datetime) -> bool:
    """Whether to ask now: an hour after the first failure, then two, four ...; after eight failures a person must."""
    failures = len(tried.failed_at)
    if tried.goes_on or failures >= _MOST_ATTEMPTS:
        return False
    return not failures or now - max(tried.failed_at) >= _FIRST_WAIT * 2 ** (failures - 1)


def read_past_attempts(instance: dg.DagsterInstance, sensor: str, job: str, first: str) -> PastAttempts:
    """What came of a sensor's asking for partitions from ``first`` on; later ones join such a range as they end."""
    asked = dg.RunsFilter(job_name=job, tags={ASKED_BY_TAG: sensor, **starts_at_tag(first)})
    failed: list[datetime] = []
    records = instance.get_run_records(asked, limit=_MOST_ATTEMPTS)
    for record in records:
        status = record.dagster_run.status
        if status is dg.DagsterRunStatus.SUCCESS:
            break
        if status not in UNFINISHED:
            failed.append(record.update_timestamp.replace(tzinfo=UTC))
    return PastAttempts(any(record.dagster_run.status in UNFINISHED for record in records), tuple(failed))
