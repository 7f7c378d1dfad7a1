"""A job, a schedule and a staleness sensor for each report (C5).

See https://docs.dagster.io/guides/automate
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import dagster as dg

from cache_pipeline.orchestration.naming import asset_key, job_name, layers_of
from cache_pipeline.orchestration.partitions import keys_within, partition_intervals, range_tags
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.staleness import StaleRange, settled_ranges, stale_ranges
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Cadence, Report
from cache_pipeline.service.engine import utc_now
from cache_pipeline.tiers.ttl import report_freshness

#: How far back the sensor looks for what is missing; older gaps are a backfill, which a person starts.
_LOOK_BACK = timedelta(days=2)
_RANGES_A_TICK = 3
#: A schedule's hour and minute reach no further; what is not settled by then the sensor fetches again.
_LONGEST_WAIT = timedelta(hours=23, minutes=59)


def _within(ranges: Iterable[StaleRange], key: str, order: Sequence[str]) -> bool:
    place = order.index(key)
    return any(order.index(each.first) <= place <= order.index(each.last) for each in ranges)


def report_automation(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.Definitions:
    """The job of all the report's assets and checks, what runs it by the clock, and what runs it by staleness."""
    job = dg.define_asset_job(
        job_name(report),
        selection=dg.AssetSelection.assets(*(asset_key(layer, report) for layer in layers_of(report))),
        description=f"Fetch, check and publish {report.report}",
    )
    hours, minutes = divmod(int(min(report.settle, _LONGEST_WAIT).total_seconds() // 60), 60)
    schedule = dg.build_schedule_from_partitioned_job(
        job,
        name=f"{report.report}_schedule",
        description="The latest partition, once the vendor has had the report's settle time to complete it",
        minute_of_hour=minutes,
        hour_of_day=None if report.partition is Cadence.hour else hours,
    )

    @dg.sensor(
        name=f"{report.report}_stale_sensor",
        job=job,
        minimum_interval_seconds=60,
        description="Fetches recent partitions that are missing, or provisional and past their freshness",
    )
    def sensor(engine: EngineResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
        now = utc_now()
        window = Interval(now - max(_LOOK_BACK, 2 * report.partition.step.nominal), now)
        recent = partition_intervals(partitions, keys_within(partitions, window))
        with engine.history() as history:
            coverage = history.coverage(engine.tenant_series(report))
        found = stale_ranges(coverage, recent, now, report_freshness(report), at_most=_RANGES_A_TICK)
        # Those that stale ranges hold already are asked for with them.
        rest = {key: span for key, span in recent.items() if not _within(found, key, list(recent))}
        found += settled_ranges(coverage, rest, now, report.settle, at_most=_RANGES_A_TICK - len(found))
        if not found:
            yield dg.SkipReason(f"all {len(recent)} recent partitions are fresh")
        for stale in found:
            yield dg.RunRequest(
                run_key=f"{report.report}:{stale.first}:{stale.last}:{stale.seen}",
                tags={**range_tags(stale.first, stale.last), "cache_pipeline/lane": "scheduled"},
            )

    return dg.Definitions(jobs=[job], schedules=[schedule], sensors=[sensor])
