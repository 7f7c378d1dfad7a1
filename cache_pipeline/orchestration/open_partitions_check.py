"""The check that shows what is left of a report, made by its runs and, for runs that fail, by a sensor."""

from datetime import datetime, timedelta

import dagster as dg

from cache_pipeline.bootstrap import utc_now
from cache_pipeline.orchestration.decisions import latest_incomplete
from cache_pipeline.orchestration.instance_queries import completeness, failed_partitions
from cache_pipeline.orchestration.naming import LEFT_CHECK, asset_key
from cache_pipeline.orchestration.open_partitions import (
    OpenPartition,
    PartitionProblem,
    ReportSnapshot,
    digest,
    evaluation_of,
    find_open_partitions,
)
from cache_pipeline.orchestration.partitions import Declared, keys_within, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report

_LOOK_BACK = timedelta(days=400)
_REPORTS_A_TICK = 50
_NOTHING = digest([])


def open_partitions_of(
    instance: dg.DagsterInstance,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    now: datetime,
) -> list[OpenPartition]:
    """What is left of the partitions of the last 400 days that were ever asked for."""
    spans = partition_intervals(partitions, keys_within(partitions, Interval(now - _LOOK_BACK, now)))
    series = engine.tenant_series(report)
    with engine.history() as history:
        coverage = history.coverage(series)
    held = coverage.final | coverage.provisional
    evaluated = list(completeness(instance, report))
    reasons = {each.told[0]: each.reason for each in reversed(evaluated) if not each.told[2]}
    incomplete = latest_incomplete(each.told for each in evaluated)
    return find_open_partitions(
        list(spans),
        incomplete={each.key: PartitionProblem(reasons[each.key], each.attempts + 1) for each in incomplete},
        failed=failed_partitions(instance, report, partitions, spans),
        unpublished=[key for key in engine.staging().stored_keys(series, spans) if IntervalSet([spans[key]]) - held],
        provisional=[key for key, span in spans.items() if coverage.provisional & IntervalSet([span])],
    )


def inventory_spec(report: Report) -> dg.AssetCheckSpec:
    """The check on ``history``; it blocks nothing."""
    text = "No partition is left failed, incomplete or unpublished; those that are, with reasons and attempts"
    return dg.AssetCheckSpec(LEFT_CHECK, asset=asset_key("history", report), description=text)


def inventory_result(
    context: dg.AssetCheckExecutionContext,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
) -> dg.AssetCheckResult:
    """What is left of the report, whatever the run was about."""
    key = asset_key("history", report)
    found = evaluation_of(key, LEFT_CHECK, open_partitions_of(context.instance, engine, report, partitions, utc_now()))
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=LEFT_CHECK,
        passed=found.passed,
        severity=found.severity,
        description=found.description,
        metadata=found.metadata,
    )


def inventory_sensor(declared: Declared) -> dg.SensorDefinition:
    """Tells the check anew where what is left of a report has changed; fifty reports a tick, in turn."""

    @dg.sensor(
        name="inventory_sensor",
        minimum_interval_seconds=300,
        description="Shows, in the check nothing_left, partitions that failed, are incomplete, unpublished or provisional",
    )
    def sensor(context: dg.SensorEvaluationContext, engine: EngineResource) -> dg.SensorResult:
        seen, now = ReportSnapshot.read(context.cursor), utc_now()
        turn = seen.turn(list(declared), _REPORTS_A_TICK)
        told: list[dg.AssetCheckEvaluation] = []
        for name in turn:
            report, partitions = declared[name]
            left = open_partitions_of(context.instance, engine, report, partitions, now)
            if seen.digests.get(name, _NOTHING) != digest(left):
                told.append(evaluation_of(asset_key("history", report), LEFT_CHECK, left))
            seen = seen.after(name, digest(left))
        return dg.SensorResult(
            asset_events=told,
            cursor=seen.written(),
            skip_reason=f"what is left has changed for {len(told)} reports" if told else "nothing has changed",
        )

    return sensor
