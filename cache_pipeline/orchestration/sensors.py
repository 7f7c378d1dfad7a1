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

import dagster as dg

from cache_pipeline.bootstrap import utc_now
from cache_pipeline.orchestration.backoff import is_due, read_past_attempts
from cache_pipeline.orchestration.cursors import AllPassedCursor
from cache_pipeline.orchestration.decisions import (
    PartitionRange,
    PrefetchCandidate,
    RetryDecision,
    decide_retries,
    find_incomplete_partitions,
    find_prefetch_candidates,
    find_refetch_ranges,
    find_stale_ranges,
    find_unpublished_ranges,
    suggest_prefetch,
)
from cache_pipeline.orchestration.instance_queries import (
    completeness_evaluations,
    has_unfinished_run,
    latest_completeness_ids,
)
from cache_pipeline.orchestration.naming import job_name, staged_op_name
from cache_pipeline.orchestration.partitions import DeclaredReports, keys_within, partition_intervals, range_tags
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.run_tags import LANE_TAG, LAUNCHED_BY_TAG, MISSED_REQUESTS_TAG, RETRY_ATTEMPT_TAG
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.redis.demand import Demand

INCOMPLETE_SENSOR, UNPUBLISHED_SENSOR, PREFETCH_SENSOR = "incomplete_sensor", "unpublished_sensor", "prefetch_sensor"

SensorTick = Iterator[dg.RunRequest | dg.SkipReason]

_NO_TAGS: Mapping[str, str] = {}
_MAX_RUNS_PER_TICK = 3
#: How far back the stale sensor looks. Older gaps need a backfill, which a person starts.
_STALE_LOOKBACK = timedelta(days=2)
_LOOKBACK = timedelta(days=400)
#: Vendors correct figures at night.
_REFETCH_PERIOD = timedelta(days=1)
_FIRST_RETRY_DELAY = timedelta(minutes=5)


def report_sensors(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, job: dg.JobDefinition
) -> list[dg.SensorDefinition]:
    """Return the sensors of one report: stale partitions and, if it declares a refetch window, corrected ones."""
    sensors = [_stale_sensor(report, partitions, job)]
    if report.fetch.refetch_window:
        sensors.append(_refetch_sensor(report, partitions, job, report.fetch.refetch_window))
    return sensors


def shared_sensors(declared: DeclaredReports, jobs: Sequence[Any]) -> list[dg.SensorDefinition]:
    """Return the sensors over all reports; ``jobs`` are the jobs that they may launch."""
    return [_incomplete_sensor(declared, jobs), _unpublished_sensor(declared, jobs), _prefetch_sensor(declared, jobs)]


def _stale_sensor(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, job: dg.JobDefinition
) -> dg.SensorDefinition:
    name = f"{report.name}_stale_sensor"

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=60,
        description="Fetches recent partitions that are missing, or whose provisional figures are due to be fetched again",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> SensorTick:
        now = utc_now()
        window = Interval(now - max(_STALE_LOOKBACK, 2 * report.partition.step.nominal_length), now)
        recent = partition_intervals(partitions, keys_within(partitions, window))
        with cache_pipeline__engine.history() as history:
            coverage = history.coverage(cache_pipeline__engine.tenant_series(report))
        found = find_stale_ranges(coverage, recent, now, FreshnessRule.of(report), at_most=_MAX_RUNS_PER_TICK)
        past = {each.first: read_past_attempts(context.instance, name, job_name(report), each.first) for each in found}
        due = [each for each in found if is_due(past[each.first], now)]
        if not due:
            waiting = f"{len(found)} ranges are being fetched, or wait after a failure"
            yield dg.SkipReason(waiting if found else f"all {len(recent)} recent partitions are fresh")
        for each in due:
            key = f"{report.name}:{each.first}:{each.last}:{each.state}"
            yield _run_request(report, name, (each.first, each.last), key)

    return sensor


def _refetch_sensor(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, job: dg.JobDefinition, window: timedelta
) -> dg.SensorDefinition:
    name = f"{report.name}_refetch_sensor"

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=600,
        description=f"Refetches the partitions of the last {window} once a day, because the vendor may have corrected them",
    )
    def sensor() -> Iterator[dg.RunRequest]:
        now = utc_now()
        recent = partition_intervals(partitions, keys_within(partitions, Interval(now - window, now)))
        for found in find_refetch_ranges(recent, now, window, _REFETCH_PERIOD, at_most=_MAX_RUNS_PER_TICK):
            key = f"{report.name}:refetch:{found.first}:{found.last}:{found.state}"
            span = (found.first, found.last)
            yield _run_request(report, name, span, key, lane=Lane.backfill, config={"refetch": True})

    return sensor


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
        now, requested = utc_now(), 0
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
    staging, now = engine.staging(), utc_now()
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
        now, requested = utc_now(), 0
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
