"""The check ``no_open_partitions`` on ``history``: evaluated by every run, and by a sensor for runs that fail."""

from datetime import datetime, timedelta

import dagster as dg

from cache_pipeline.bootstrap import utc_now
from cache_pipeline.orchestration.decisions import find_incomplete_partitions
from cache_pipeline.orchestration.instance_queries import completeness_evaluations, find_failed_partitions
from cache_pipeline.orchestration.naming import OPEN_PARTITIONS_CHECK, asset_key
from cache_pipeline.orchestration.open_partitions import (
    OpenPartition,
    OpenPartitionsCursor,
    PartitionProblem,
    build_evaluation,
    compute_digest,
    find_open_partitions,
)
from cache_pipeline.orchestration.partitions import DeclaredReports, keys_within, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report

OPEN_PARTITIONS_SENSOR = "open_partitions_sensor"
_LOOKBACK = timedelta(days=400)
_MAX_REPORTS_PER_TICK = 50
_EMPTY_DIGEST = compute_digest([])


def load_open_partitions(
    instance: dg.DagsterInstance,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    now: datetime,
) -> list[OpenPartition]:
    """Find the open partitions of the last 400 days among those that were ever requested."""
    spans = partition_intervals(partitions, keys_within(partitions, Interval(now - _LOOKBACK, now)))
    series = engine.tenant_series(report)
    with engine.history() as history:
        coverage = history.coverage(series)
    stored = coverage.final | coverage.provisional
    evaluations = list(completeness_evaluations(instance, report))
    reasons = {each.key: each.reason for each in reversed(evaluations) if not each.passed}
    return find_open_partitions(
        list(spans),
        incomplete={
            each.key: PartitionProblem(reasons[each.key], each.attempts + 1)
            for each in find_incomplete_partitions(evaluations)
        },
        failed=find_failed_partitions(instance, report, partitions, spans),
        unpublished=[key for key in engine.staging().stored_keys(series, spans) if IntervalSet([spans[key]]) - stored],
        provisional=[key for key, span in spans.items() if coverage.provisional & IntervalSet([span])],
    )


def open_partitions_spec(report: Report) -> dg.AssetCheckSpec:
    """Return the spec of the check, which blocks nothing."""
    text = "No partition is failed, incomplete or unpublished; lists those that are, with reasons and attempts"
    return dg.AssetCheckSpec(OPEN_PARTITIONS_CHECK, asset=asset_key("history", report), description=text)


def evaluate_open_partitions(
    context: dg.AssetCheckExecutionContext,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
) -> dg.AssetCheckResult:
    """Evaluate the check over all partitions of the report, not only those of the run."""
    key = asset_key("history", report)
    found = load_open_partitions(context.instance, engine, report, partitions, utc_now())
    evaluation = build_evaluation(key, OPEN_PARTITIONS_CHECK, found)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=OPEN_PARTITIONS_CHECK,
        passed=evaluation.passed,
        severity=evaluation.severity,
        description=evaluation.description,
        metadata=evaluation.metadata,
    )


def open_partitions_sensor(declared: DeclaredReports) -> dg.SensorDefinition:
    """Return the sensor that updates the check where open partitions have changed; fifty reports a tick, in turn."""

    @dg.sensor(
        name=OPEN_PARTITIONS_SENSOR,
        minimum_interval_seconds=300,
        description=f"Updates the check {OPEN_PARTITIONS_CHECK}, which lists failed, incomplete, unpublished and "
        "provisional partitions; launches no runs",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> dg.SensorResult:
        cursor, now = OpenPartitionsCursor.parse(context.cursor), utc_now()
        changed: list[dg.AssetCheckEvaluation] = []
        for name in cursor.next_reports(list(declared), _MAX_REPORTS_PER_TICK):
            report, partitions = declared[name]
            found = load_open_partitions(context.instance, cache_pipeline__engine, report, partitions, now)
            if cursor.digests.get(name, _EMPTY_DIGEST) != compute_digest(found):
                changed.append(build_evaluation(asset_key("history", report), OPEN_PARTITIONS_CHECK, found))
            cursor = cursor.advance(name, compute_digest(found))
        return dg.SensorResult(
            asset_events=changed,
            cursor=cursor.serialize(),
            skip_reason=f"open partitions of {len(changed)} reports have changed" if changed else "nothing has changed",
        )

    return sensor
