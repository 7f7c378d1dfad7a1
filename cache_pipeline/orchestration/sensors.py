"""Sensors that launch runs for partitions that are stale, corrected, incomplete, unpublished or often missed.

The first two belong to one report each, the others watch all reports.
Each sensor reads the state, lets a pure function of ``decisions`` choose, and requests a few runs at most. A run key
contains the state, so that the same state launches one run. Sensors that launch no runs are in ``open_partitions_check``
and ``edge_maintenance``.
See https://docs.dagster.io/guides/automate/sensors
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from cache_pipeline.bootstrap import refetch_window, utc_now
from cache_pipeline.orchestration.backoff import UNFINISHED_STATUSES, is_due, past_attempts, read_past_attempts
from cache_pipeline.orchestration.cursors import AllPassedCursor
from cache_pipeline.orchestration.decisions import (
    PartitionRange,
    PrefetchCandidate,
    RetryDecision,
    decide_retries,
    find_correctable_partitions,
    find_incomplete_partitions,
    find_prefetch_candidates,
    find_stale_ranges,
    find_stale_time,
    find_unpublished_ranges,
    suggest_prefetch,
)
from cache_pipeline.orchestration.instance_queries import (
    completeness_evaluations,
    find_partition_runs,
    has_unfinished_run,
    latest_completeness_ids,
)
from cache_pipeline.orchestration.naming import job_name, staged_op_name
from cache_pipeline.orchestration.partitions import (
    DeclaredReports,
    final_span,
    keys_overlapping,
    keys_within,
    partition_intervals,
    range_tags,
)
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.run_tags import LANE_TAG, LAUNCHED_BY_TAG, MISSED_REQUESTS_TAG, RETRY_ATTEMPT_TAG
from cache_pipeline.orchestration.shared_coverage import SharedCoverage
from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.storage.base import Demand
from cache_pipeline.storage.freshness import FreshnessRule

INCOMPLETE_SENSOR, UNPUBLISHED_SENSOR, PREFETCH_SENSOR = "incomplete_sensor", "unpublished_sensor", "prefetch_sensor"

SensorTick = Iterator[dg.RunRequest | dg.SkipReason]

_NO_TAGS: Mapping[str, str] = {}
_MAX_RUNS_PER_TICK = 3
#: How many of the newest partitions the stale sensor fills. Older gaps need a backfill, which a person starts.
MAX_STALE_PARTITIONS = 100
_LOOKBACK = timedelta(days=400)
_FIRST_RETRY_DELAY = timedelta(minutes=5)


def report_sensors(
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    job: dg.JobDefinition,
    coverage: SharedCoverage,
) -> list[dg.SensorDefinition]:
    """Return the sensors of one report: stale partitions and, if it has a refetch window, corrected ones."""
    sensors = [_stale_sensor(report, partitions, job, coverage)]
    if window := refetch_window(report):
        sensors.append(_refetch_sensor(report, partitions, job, window))
    return sensors


def shared_sensors(declared: DeclaredReports, jobs: Sequence[Any]) -> list[dg.SensorDefinition]:
    """Return the sensors over all reports; ``jobs`` are the jobs that they may launch."""
    return [_incomplete_sensor(declared, jobs), _unpublished_sensor(declared, jobs), _prefetch_sensor(declared, jobs)]


def _stale_sensor(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, job: dg.JobDefinition, shared: SharedCoverage
) -> dg.SensorDefinition:
    name, rule = f"{report.name}_stale_sensor", FreshnessRule.of(report)

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=60,
        description="Fetches recent partitions that are missing, or whose provisional figures are due to be fetched again",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> SensorTick:
        now = cache_pipeline__engine.now()
        whole = final_span(report, partitions, now)
        recent = final_span(report, partitions, now, at_most=MAX_STALE_PARTITIONS)
        if whole is None or recent is None:
            yield dg.SkipReason("no partition can be final yet")
            return
        coverage = shared.of(report, cache_pipeline__engine, now)
        stale = _partitions_overlapping(partitions, find_stale_time(coverage, whole, recent, now, rule))
        if not stale:
            yield dg.SkipReason("all partitions are complete or fresh")
            return
        past = past_attempts(find_partition_runs(context.instance, report, partitions), stale)
        due = {key: span for key, span in stale.items() if is_due(past[key], now)}
        if not due:
            yield dg.SkipReason(f"{len(stale)} partitions are being fetched, or wait after a failure")
        for each in find_stale_ranges(coverage, due, now, at_most=_MAX_RUNS_PER_TICK):
            key = f"{report.name}:{each.first}:{each.last}:{each.state}"
            yield _run_request(report, name, (each.first, each.last), key)

    return sensor


def _partitions_overlapping(
    partitions: dg.TimeWindowPartitionsDefinition, intervals: IntervalSet
) -> dict[str, Interval]:
    keys = dict.fromkeys(key for part in intervals for key in keys_overlapping(partitions, part))
    return partition_intervals(partitions, keys)


def _refetch_sensor(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, job: dg.JobDefinition, window: timedelta
) -> dg.SensorDefinition:
    name = f"{report.name}_refetch_sensor"

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=600,
        description=f"Refetches the partitions of the last {window} once a local day, because the vendor may have corrected them",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> SensorTick:
        now = cache_pipeline__engine.now()
        today = now.astimezone(report.zone).date().isoformat()
        if context.cursor == today:
            yield dg.SkipReason("the partitions of the window have been fetched again today")
            return
        due, attempts = _find_corrected(context.instance, cache_pipeline__engine, report, partitions, window, name)
        if due is None:
            context.update_cursor(today)
            yield dg.SkipReason("no partition of the window needs to be fetched again today")
        elif not due:
            yield dg.SkipReason("the window is being fetched, or waits after a failure")
        else:
            key = f"{report.name}:refetch:{due[0]}:{due[-1]}:{today}:{attempts}"
            yield _run_request(report, name, (due[0], due[-1]), key, lane=Lane.backfill, config={"refetch": True})

    return sensor


def local_days(now: datetime, window: timedelta, zone: ZoneInfo) -> Interval:
    """Return the window that ends with the last midnight; its days may have 23 or 25 hours."""
    today = now.astimezone(zone).date()
    days, rest = divmod(window, timedelta(days=1))
    return Interval(midnight(today - timedelta(days=days), zone) - rest, midnight(today, zone))


def _find_corrected(
    instance: dg.DagsterInstance,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    window: timedelta,
    sensor: str,
) -> tuple[list[str] | None, int]:
    """Return the partitions to refetch now, and how often that failed; None if none has to be fetched again today."""
    now = engine.now()
    whole, touched = final_span(report, partitions, now), local_days(now, window, report.zone)
    recent = final_span(report, partitions, touched.start, at_most=MAX_STALE_PARTITIONS) or touched
    touched = whole.intersection(Interval(recent.start, touched.end)) if whole else None
    if touched is None:
        return None, 0
    in_window = _partitions_overlapping(partitions, IntervalSet([touched]))
    with engine.history() as history:
        around = Interval(min(each.start for each in in_window.values()), max(each.end for each in in_window.values()))
        coverage = history.coverage(engine.tenant_series(report), around)
    corrected = find_correctable_partitions(coverage, in_window, now, window, report.zone)
    if not corrected:
        return None, 0
    runs = find_partition_runs(instance, report, partitions)
    relevant = [run for run in runs if run.launched_by == sensor or run.status in UNFINISHED_STATUSES]
    past = past_attempts(relevant, corrected)
    due = [key for key in corrected if is_due(past[key], now)]
    return due, max(len(past[key].failed_at) for key in corrected)


def _incomplete_sensor(declared: DeclaredReports, jobs: Sequence[Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=INCOMPLETE_SENSOR,
        jobs=jobs,
        minimum_interval_seconds=60,
        description="Fetches partitions whose completeness check failed again, in smaller chunks",
    )
    def sensor(context: dg.SensorEvaluationContext) -> SensorTick:
        now, requested = utc_now(), 0
        latest = latest_completeness_ids(context.instance, [report for report, _ in declared.values()])
        cursor = AllPassedCursor.parse(context.cursor)
        for report, _ in cursor.reports_to_examine(declared, latest, now):
            incomplete = find_incomplete_partitions(completeness_evaluations(context.instance, report))
            if not incomplete:
                cursor.mark_passed(report.name, latest[report.name])
            at_most = _MAX_RUNS_PER_TICK - requested
            for retry in decide_retries(report, incomplete, now, wait=_FIRST_RETRY_DELAY, at_most=at_most):
                requested += 1
                yield _retry_request(report, retry)
        context.update_cursor(cursor.serialize())
        if not requested:
            yield dg.SkipReason("no incomplete partition is due for a retry")

    return sensor


def _retry_request(report: Report, retry: RetryDecision) -> dg.RunRequest:
    return _run_request(
        report,
        INCOMPLETE_SENSOR,
        (retry.key, retry.key),
        f"{report.name}:retry:{retry.key}:{retry.state}:{retry.attempt}",
        tags={RETRY_ATTEMPT_TAG: str(retry.attempt)},
        config={"max_query_interval": retry.chunk, "retry_attempt": retry.attempt},
    )


def _run_request(
    report: Report,
    sensor: str,
    span: tuple[str, str],
    run_key: str,
    *,
    lane: Lane = Lane.scheduled,
    tags: Mapping[str, str] = _NO_TAGS,
    config: Mapping[str, Any] | None = None,
) -> dg.RunRequest:
    return dg.RunRequest(
        job_name=job_name(report),
        run_key=run_key,
        run_config={"ops": {staged_op_name(report): {"config": dict(config)}}} if config else {},
        tags={**range_tags(*span), LANE_TAG: str(lane), LAUNCHED_BY_TAG: sensor, **tags},
    )


def _unpublished_sensor(declared: DeclaredReports, jobs: Sequence[Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=UNPUBLISHED_SENSOR,
        jobs=jobs,
        minimum_interval_seconds=60,
        description="Publishes partitions that a killed run staged but did not write to history; sends no queries",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> SensorTick:
        now, requested = cache_pipeline__engine.now(), 0
        for report, ranges in _find_unpublished(context.instance, declared, cache_pipeline__engine):
            for found in ranges:
                past = read_past_attempts(context.instance, UNPUBLISHED_SENSOR, job_name(report), found.first)
                if requested < _MAX_RUNS_PER_TICK and is_due(past, now):
                    requested += 1
                    key = f"{report.name}:{found.first}:{found.last}:{found.state}@{now:%Y-%m-%dT%H}"
                    yield _run_request(report, UNPUBLISHED_SENSOR, (found.first, found.last), key)
        if not requested:
            yield dg.SkipReason("all staged partitions are published or being published")

    return sensor


def _find_unpublished(
    instance: dg.DagsterInstance, declared: DeclaredReports, engine: EngineResource
) -> list[tuple[Report, list[PartitionRange]]]:
    staging, now = engine.staging(), engine.now()
    found: list[tuple[Report, list[PartitionRange]]] = []
    with engine.history() as history:
        for report, partitions in declared.values():
            series = engine.tenant_series(report)
            # An unfinished run publishes its own files.
            if not staging.has_any(series) or has_unfinished_run(instance, report):
                continue
            order = keys_within(partitions, Interval(now - _LOOKBACK, now))
            intervals = partition_intervals(partitions, order)
            if staged_keys := staging.stored_keys(series, intervals):
                staged = {key: intervals[key] for key in staged_keys}
                coverage = history.coverage(series)
                ranges = find_unpublished_ranges(coverage, staged, order, at_most=_MAX_RUNS_PER_TICK)
                found.append((report, ranges))
    return found


def _prefetch_sensor(declared: DeclaredReports, jobs: Sequence[Any]) -> dg.SensorDefinition:
    reports = {name: report for name, (report, _) in declared.items()}

    @dg.sensor(
        name=PREFETCH_SENSOR,
        jobs=jobs,
        minimum_interval_seconds=60,
        description="Prefetches partitions that API callers repeatedly miss (reports with prefetch_after_misses); logs a "
        "suggestion for others",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> SensorTick:
        now, requested = cache_pipeline__engine.now(), 0
        demands = asyncio.run(cache_pipeline__engine.recent_demand())
        suggestions = [str(suggestion) for suggestion in suggest_prefetch(reports, demands)]
        for suggestion in suggestions:
            context.log.info(suggestion)
        for candidate in _find_candidates(declared, demands, cache_pipeline__engine, now):
            report = reports[candidate.report]
            past = read_past_attempts(context.instance, PREFETCH_SENSOR, job_name(report), candidate.key)
            if requested < _MAX_RUNS_PER_TICK and is_due(past, now):
                requested += 1
                key = f"{candidate.report}:prefetch:{candidate.key}:{now:%Y-%m-%dT%H}"
                tags = {MISSED_REQUESTS_TAG: str(candidate.missed)}
                yield _run_request(report, PREFETCH_SENSOR, (candidate.key, candidate.key), key, tags=tags)
        if not requested:
            yield dg.SkipReason("; ".join(suggestions) or "no partition is missed often enough")

    return sensor


def _find_candidates(
    declared: DeclaredReports, demands: Sequence[Demand], engine: EngineResource, now: datetime
) -> list[PrefetchCandidate]:
    missed = {demand.report for demand in demands if demand.misses}
    prefetched = [
        each
        for name, each in declared.items()
        if name in missed and each[0].freshness.prefetch_after_misses is not None
    ]
    if not prefetched:
        return []
    found: list[PrefetchCandidate] = []
    with engine.history() as history:
        for report, partitions in prefetched:
            recent = partition_intervals(partitions, keys_within(partitions, Interval(now - _LOOKBACK, now)))
            coverage = history.coverage(engine.tenant_series(report))
            found += find_prefetch_candidates(report, demands, recent, coverage, at_most=_MAX_RUNS_PER_TICK)
    return sorted(found, key=lambda each: -each.missed)
