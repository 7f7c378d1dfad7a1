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

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import refetch_window
from cache_pipeline.orchestration.backoff import is_due, past_attempts, read_past_attempts
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
    latest_completeness_ids,
    read_recent_runs,
)
from cache_pipeline.orchestration.naming import job_name, staged_op_name
from cache_pipeline.orchestration.partitions import (
    DeclaredReports,
    final_span,
    newest_partitions,
    partitions_overlapping,
    partitions_within,
    range_tags,
)
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.run_tags import LANE_TAG, LAUNCHED_BY_TAG, MISSED_REQUESTS_TAG, RETRY_ATTEMPT_TAG
from cache_pipeline.orchestration.shared_state import SharedState
from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.ports.demand import Demand

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
    shared: SharedState,
    status: dg.DefaultSensorStatus,
) -> list[dg.SensorDefinition]:
    """Return the sensors of one report: stale partitions and, if it has a refetch window, corrected ones.

    Args:
        report: The report.
        partitions: Its partitions.
        job: Its job, which the sensors launch.
        shared: What the sensors of all reports read together.
        status: Whether they run until a user switches them in the UI.
    """
    sensors = [_stale_sensor(report, partitions, job, shared, status)]
    if window := refetch_window(report):
        sensors.append(_refetch_sensor(report, partitions, job, window, shared, status))
    return sensors


def shared_sensors(
    declared: DeclaredReports, jobs: Sequence[Any], status: dg.DefaultSensorStatus
) -> list[dg.SensorDefinition]:
    """Return the sensors over all reports.

    Args:
        declared: The reports with their partitions.
        jobs: The jobs that the sensors may launch.
        status: Whether they run until a user switches them in the UI; the one that prefetches never does by itself.
    """
    return [
        _incomplete_sensor(declared, jobs, status),
        _unpublished_sensor(declared, jobs, status),
        _prefetch_sensor(declared, jobs),
    ]


def _stale_sensor(
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    job: dg.JobDefinition,
    shared: SharedState,
    status: dg.DefaultSensorStatus,
) -> dg.SensorDefinition:
    name, rule = f"{report.name}_stale_sensor", FreshnessRule.of(report)

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=60,
        default_status=status,
        description="Fetches recent partitions that are missing, or whose provisional figures are due to be fetched again",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> SensorTick:
        now = cache_pipeline__engine.now()
        whole = final_span(report, partitions, now)
        if whole is None:
            yield dg.SkipReason("no partition can be final yet")
            return
        recent = newest_partitions(report, whole, MAX_STALE_PARTITIONS)
        coverage = shared.coverage(report, cache_pipeline__engine, now)
        stale = _partitions_overlapping(partitions, find_stale_time(coverage, whole, recent, now, rule))
        if not stale:
            yield dg.SkipReason("all partitions are complete or fresh")
            return
        runs = shared.runs(context.instance, now).of_partitions(report, partitions)
        past = past_attempts(runs, stale, coverage)
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
    return {key: span for part in intervals for key, span in partitions_overlapping(partitions, part).items()}


def _refetch_sensor(
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    job: dg.JobDefinition,
    window: timedelta,
    shared: SharedState,
    status: dg.DefaultSensorStatus,
) -> dg.SensorDefinition:
    name = f"{report.name}_refetch_sensor"

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=600,
        default_status=status,
        description=f"Refetches the partitions of the last {window} once a local day, because the vendor may have corrected them",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> SensorTick:
        now = cache_pipeline__engine.now()
        today = now.astimezone(report.zone).date().isoformat()
        if context.cursor == today:
            yield dg.SkipReason("the partitions of the window have been fetched again today")
            return
        corrected, coverage = _find_corrected(cache_pipeline__engine, report, partitions, window)
        if not corrected:
            context.update_cursor(today)
            yield dg.SkipReason("no partition of the window needs to be fetched again today")
            return
        runs = shared.runs(context.instance, now).of_partitions(report, partitions)
        past = past_attempts((run for run in runs if run.is_unfinished or run.launched_by == name), corrected, coverage)
        due = [key for key in corrected if is_due(past[key], now)]
        if not due:
            yield dg.SkipReason("the window is being fetched, or waits after a failure")
            return
        failures = max(len(past[key].failed_at) for key in corrected)
        key = f"{report.name}:refetch:{due[0]}:{due[-1]}:{today}:{failures}"
        yield _run_request(report, name, (due[0], due[-1]), key, lane=Lane.backfill, config={"refetch": True})

    return sensor


def local_days(now: datetime, window: timedelta, zone: ZoneInfo) -> Interval:
    """Return the window that ends with the last midnight; its days may have 23 or 25 hours."""
    today = now.astimezone(zone).date()
    days, rest = divmod(window, timedelta(days=1))
    return Interval(midnight(today - timedelta(days=days), zone) - rest, midnight(today, zone))


def _find_corrected(
    engine: EngineResource, report: Report, partitions: dg.TimeWindowPartitionsDefinition, window: timedelta
) -> tuple[Mapping[str, Interval], Coverage]:
    """Return the partitions to fetch once more today, and the coverage of the time around them."""
    now = engine.now()
    whole, touched = final_span(report, partitions, now), local_days(now, window, report.zone)
    before = final_span(report, partitions, touched.start)
    start = newest_partitions(report, before, MAX_STALE_PARTITIONS).start if before else touched.start
    touched = whole.intersection(Interval(start, touched.end)) if whole else None
    if touched is None:
        return {}, Coverage()
    in_window = partitions_overlapping(partitions, touched)
    with engine.coverage() as stored:
        around = Interval(min(each.start for each in in_window.values()), max(each.end for each in in_window.values()))
        coverage = stored.coverage(engine.tenant_series(report), around)
    return find_correctable_partitions(coverage, in_window, now, window, report.zone), coverage


def _incomplete_sensor(
    declared: DeclaredReports, jobs: Sequence[Any], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=INCOMPLETE_SENSOR,
        jobs=jobs,
        minimum_interval_seconds=60,
        default_status=status,
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


def _unpublished_sensor(
    declared: DeclaredReports, jobs: Sequence[Any], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=UNPUBLISHED_SENSOR,
        jobs=jobs,
        minimum_interval_seconds=60,
        default_status=status,
        description="Publishes partitions that a killed run staged but did not write to history; sends no queries",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> SensorTick:
        now, requested = cache_pipeline__engine.now(), 0
        staging, series = cache_pipeline__engine.staging(), cache_pipeline__engine.tenant_series
        versions = {name: staging.version(series(report)) for name, (report, _) in declared.items()}
        latest = {name: version for name, version in versions.items() if version is not None}
        cursor = AllPassedCursor.parse(context.cursor)
        examined = list(cursor.reports_to_examine(declared, latest, now))
        for report, ranges in _find_unpublished(context.instance, examined, cache_pipeline__engine):
            if not ranges:
                cursor.mark_passed(report.name, latest[report.name])
            for found in ranges:
                past = read_past_attempts(context.instance, UNPUBLISHED_SENSOR, job_name(report), found.first)
                if requested < _MAX_RUNS_PER_TICK and is_due(past, now):
                    requested += 1
                    key = f"{report.name}:{found.first}:{found.last}:{found.state}@{now:%Y-%m-%dT%H}"
                    yield _run_request(report, UNPUBLISHED_SENSOR, (found.first, found.last), key)
        context.update_cursor(cursor.serialize())
        if not requested:
            yield dg.SkipReason("all staged partitions are published or being published")

    return sensor


def _find_unpublished(
    instance: dg.DagsterInstance,
    examined: Sequence[tuple[Report, dg.TimeWindowPartitionsDefinition]],
    engine: EngineResource,
) -> list[tuple[Report, list[PartitionRange]]]:
    """Return what is staged and not in history of each report, apart from those that have an unfinished run."""
    if not examined:
        return []
    # Before coverage is read: an unfinished run publishes its own files.
    runs, staging = read_recent_runs(instance, engine.now()), engine.staging()
    idle = [(report, partitions) for report, partitions in examined if not runs.has_unfinished(report)]
    with engine.coverage() as stored:
        coverages = stored.coverages([engine.tenant_series(report) for report, _ in idle])
    found: list[tuple[Report, list[PartitionRange]]] = []
    for report, partitions in idle:
        series = engine.tenant_series(report)
        coverage = coverages[series.id]
        unpublished = staging.stored_intervals(series) - coverage.final - coverage.provisional
        spans = _partitions_overlapping(partitions, unpublished)
        staged = {key: spans[key] for key in staging.stored_keys(series, spans)}
        found.append((report, find_unpublished_ranges(coverage, staged, at_most=_MAX_RUNS_PER_TICK)))
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
    with engine.coverage() as stored:
        for report, partitions in prefetched:
            recent = partitions_within(partitions, Interval(now - _LOOKBACK, now))
            coverage = stored.coverage(engine.tenant_series(report))
            found += find_prefetch_candidates(report, demands, recent, coverage, at_most=_MAX_RUNS_PER_TICK)
    return sorted(found, key=lambda each: -each.missed)
