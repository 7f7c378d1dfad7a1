"""A job, a schedule and a staleness sensor for each report (C5).

See https://docs.dagster.io/guides/automate
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from cache_pipeline.bootstrap import utc_now
from cache_pipeline.orchestration.backoff import ASKED_BY_TAG, is_due, read_past_attempts
from cache_pipeline.orchestration.decisions import (
    StaleRange,
    find_refetch_ranges,
    find_settled_ranges,
    find_stale_ranges,
)
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.partitions import keys_within, partition_intervals, range_tags
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.run_tags import LANE_TAG
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Cadence, Report
from cache_pipeline.storage.ttl import report_freshness

#: How far back the sensor looks for what is missing; older gaps are a backfill, which a person starts.
_LOOK_BACK = timedelta(days=2)
_RANGES_A_TICK = 3
#: A schedule's hour and minute reach no further; what is not settled by then the sensor fetches again.
_LONGEST_WAIT = timedelta(hours=23, minutes=59)
#: Vendors correct figures by night.
_RESTATED_EVERY = timedelta(days=1)


def _within(ranges: Iterable[StaleRange], key: str, order: Sequence[str]) -> bool:
    place = order.index(key)
    return any(order.index(each.first) <= place <= order.index(each.last) for each in ranges)


def report_automation(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, job: dg.JobDefinition
) -> dg.Definitions:
    """The job of all the report's assets and checks, what runs it by the clock, and what runs it by staleness."""
    hours, minutes = divmod(int(min(report.freshness.finality_delay, _LONGEST_WAIT).total_seconds() // 60), 60)
    schedule = dg.build_schedule_from_partitioned_job(
        job,
        name=f"{report.name}_schedule",
        description="The latest partition, once the vendor has had the report's settle time to complete it",
        minute_of_hour=minutes,
        hour_of_day=None if report.partition is Cadence.hour else hours,
    )

    name = f"{report.name}_stale_sensor"

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=60,
        description="Fetches recent partitions that are missing, or provisional and past their freshness",
    )
    def sensor(context: dg.SensorEvaluationContext, engine: EngineResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
        now = utc_now()
        window = Interval(now - max(_LOOK_BACK, 2 * report.partition.step.nominal_length), now)
        recent = partition_intervals(partitions, keys_within(partitions, window))
        with engine.history() as history:
            coverage = history.coverage(engine.tenant_series(report))
        found = find_stale_ranges(coverage, recent, now, report_freshness(report), at_most=_RANGES_A_TICK)
        # Those that stale ranges hold already are asked for with them.
        rest = {key: span for key, span in recent.items() if not _within(found, key, list(recent))}
        found += find_settled_ranges(
            coverage, rest, now, report.freshness.finality_delay, at_most=_RANGES_A_TICK - len(found)
        )
        tried = {each.first: read_past_attempts(context.instance, name, job_name(report), each.first) for each in found}
        due = [each for each in found if is_due(tried[each.first], now)]
        if not due:
            left = f"{len(found)} ranges are being fetched, or wait after a failure"
            yield dg.SkipReason(left if found else f"all {len(recent)} recent partitions are fresh")
        for stale in due:
            yield _run_of(report, stale, name)

    restatement = [_restatement_sensor(report, partitions, job)] if report.fetch.refetch_window else []
    return dg.Definitions(jobs=[job], schedules=[schedule], sensors=[sensor, *restatement])


def _run_of(report: Report, found: StaleRange, sensor: str, *, again: bool = False) -> dg.RunRequest:
    fetch = {"ops": {f"staged__{report.name}": {"config": {"again": True}}}}
    return dg.RunRequest(
        run_key=f"{report.name}:{'restated:' if again else ''}{found.first}:{found.last}:{found.seen}",
        run_config=fetch if again else {},
        tags={
            **range_tags(found.first, found.last),
            LANE_TAG: str(Lane.backfill if again else Lane.scheduled),
            ASKED_BY_TAG: sensor,
        },
    )


def _restatement_sensor(report: Report, partitions: dg.TimeWindowPartitionsDefinition, job: Any) -> dg.SensorDefinition:
    """Asks again, once a day, for what the vendor may have corrected; whatever history holds."""
    window, name = report.fetch.refetch_window or timedelta(0), f"{report.name}_restatement_sensor"

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=600,
        description=f"Asks once a day again for the partitions of the last {window}, which the vendor may have corrected",
    )
    def restatement() -> Iterator[dg.RunRequest]:
        now = utc_now()
        recent = partition_intervals(partitions, keys_within(partitions, Interval(now - window, now)))
        for found in find_refetch_ranges(recent, now, window, _RESTATED_EVERY, at_most=_RANGES_A_TICK):
            yield _run_of(report, found, name, again=True)

    return restatement
