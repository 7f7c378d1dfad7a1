"""The check ``no_open_partitions`` on ``history``: evaluated by every run, and by a sensor for runs that fail."""

from datetime import timedelta

import dagster as dg

from cache_pipeline.orchestration.decisions import find_incomplete_partitions
from cache_pipeline.orchestration.instance_queries import (
    RecentRuns,
    completeness_evaluations,
    find_failed_partitions,
    read_recent_runs,
)
from cache_pipeline.orchestration.naming import OPEN_PARTITIONS_CHECK, asset_key
from cache_pipeline.orchestration.open_partitions import (
    MAX_ROWS,
    OpenPartition,
    OpenPartitionsCursor,
    PartitionProblem,
    build_evaluation,
    compute_digest,
    find_open_partitions,
    missing_entry,
)
from cache_pipeline.orchestration.partitions import (
    DeclaredReports,
    final_span,
    newest_partitions,
    partition_days,
    partitions_overlapping,
    partitions_within,
)
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.service.status import due_partitions
from cache_pipeline.storage.coverage import Coverage

OPEN_PARTITIONS_SENSOR = "open_partitions_sensor"
#: The newest partitions, whose runs and checks are looked at.
_MAX_PARTITIONS = 400
_INSTANT = timedelta(microseconds=1)
_MAX_REPORTS_PER_TICK = 20
#: Older failures are reported as missing partitions.
_FAILURE_MEMORY = timedelta(days=100)
_EMPTY_DIGEST = compute_digest([])


def load_open_partitions(
    instance: dg.DagsterInstance,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
    coverage: Coverage,
    runs: RecentRuns,
) -> list[OpenPartition]:
    """Find the open partitions: the missing ones since the first partition, and the others among the newest.

    The missing ones are those that ``status`` and the metrics count, except those that a run is fetching.
    """
    now = engine.now()
    final = final_span(report, partitions, now)
    newest = Interval(newest_partitions(report, final, _MAX_PARTITIONS).start, now) if final else None
    spans = partitions_within(partitions, newest) if newest else {}
    series = engine.tenant_series(report)
    stored = coverage.final | coverage.provisional
    evaluations = list(completeness_evaluations(instance, report))
    reasons = {each.key: each.reason for each in reversed(evaluations) if not each.passed}
    incomplete = {
        each.key: PartitionProblem(reasons[each.key], each.attempts + 1)
        for each in find_incomplete_partitions(evaluations)
    }
    failed = find_failed_partitions(instance, report, partitions, spans) if runs.has_failed(report) else {}
    unpublished = [key for key in engine.staging().stored_keys(series, spans) if IntervalSet([spans[key]]) - stored]
    known = {*incomplete, *failed, *unpublished} & set(spans)
    explained = IntervalSet(
        [
            *(run.interval for run in runs.of_partitions(report, partitions) if run.is_unfinished),
            *(spans[key] for key in known),
        ]
    )
    return find_open_partitions(
        list(spans),
        incomplete=incomplete,
        failed=failed,
        unpublished=unpublished,
        provisional=[key for key, span in spans.items() if coverage.provisional & IntervalSet([span])],
        missing=_missing_stretches(
            report, partitions, due_partitions(report, partition_days(partitions), now) - stored - explained
        ),
    )


def _missing_stretches(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, missing: IntervalSet
) -> list[OpenPartition]:
    """Return the newest stretches, in order; only their ends are looked up, because years may be missing."""
    stretches: list[OpenPartition] = []
    for part in list(missing)[-MAX_ROWS:]:
        ends = [Interval(part.start, part.start + _INSTANT), Interval(part.end - _INSTANT, part.end)]
        (first, start), (last, end) = (next(iter(partitions_overlapping(partitions, each).items())) for each in ends)
        count = round((end.end - start.start) / report.partition.step.nominal_length)
        stretches.append(missing_entry(first, last, count))
    return stretches


def open_partitions_spec(report: Report) -> dg.AssetCheckSpec:
    """Return the spec of the check, which blocks nothing."""
    text = "No partition is failed, incomplete, unpublished or missing; lists those that are, with reasons and attempts"
    return dg.AssetCheckSpec(OPEN_PARTITIONS_CHECK, asset=asset_key("history", report), description=text)


def evaluate_open_partitions(
    context: dg.AssetCheckExecutionContext,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
) -> dg.AssetCheckResult:
    """Evaluate the check over all partitions of the report, not only those of the run."""
    key = asset_key("history", report)
    with engine.coverage() as stored:
        coverage = stored.coverage(engine.tenant_series(report))
    runs = read_recent_runs(context.instance, engine.now() - _FAILURE_MEMORY)
    found = load_open_partitions(context.instance, engine, report, partitions, coverage, runs)
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
    """Return the sensor that updates the check where open partitions have changed; twenty reports a tick, in turn."""

    @dg.sensor(
        name=OPEN_PARTITIONS_SENSOR,
        minimum_interval_seconds=60,
        description=f"Updates the check {OPEN_PARTITIONS_CHECK}, which lists failed, incomplete, unpublished, "
        "missing and provisional partitions; launches no runs",
    )
    def sensor(context: dg.SensorEvaluationContext, cache_pipeline__engine: EngineResource) -> dg.SensorResult:
        cursor = OpenPartitionsCursor.parse(context.cursor)
        changed: list[dg.AssetCheckEvaluation] = []
        names = cursor.next_reports(list(declared), _MAX_REPORTS_PER_TICK)
        series = {name: cache_pipeline__engine.tenant_series(declared[name][0]) for name in names}
        with cache_pipeline__engine.coverage() as stored:
            coverages = stored.coverages(list(series.values()))
        runs = read_recent_runs(context.instance, cache_pipeline__engine.now() - _FAILURE_MEMORY)
        for name in names:
            report, partitions = declared[name]
            found = load_open_partitions(
                context.instance, cache_pipeline__engine, report, partitions, coverages[series[name].id], runs
            )
            if cursor.digests.get(name, _EMPTY_DIGEST) != compute_digest(found):
                changed.append(build_evaluation(asset_key("history", report), OPEN_PARTITIONS_CHECK, found))
            cursor = cursor.advance(name, compute_digest(found))
        return dg.SensorResult(
            asset_events=changed,
            cursor=cursor.serialize(),
            skip_reason=f"open partitions of {len(changed)} reports have changed" if changed else "nothing has changed",
        )

    return sensor
