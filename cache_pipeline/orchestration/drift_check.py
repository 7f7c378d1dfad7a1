"""The check ``drift`` on ``history``: warns if figures differ from the same hour, or day, of comparable days.

The statistics are in ``query.drift``; this module turns them into check results. The check blocks nothing.
"""

from collections.abc import Mapping, Sequence

import dagster as dg

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.orchestration.check_events import CheckFinding, event_logger, partition_evaluation
from cache_pipeline.orchestration.naming import DRIFT_CHECK, asset_key
from cache_pipeline.orchestration.partitions import keys_of_run, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.drift import MIN_COMPARABLE, Comparison, drift_tolerance
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.service.drift_comparison import compare_with_comparable_days
from cache_pipeline.storage.ports.history import History

_TOO_LITTLE_HISTORY = f"too little history to compare with: {MIN_COMPARABLE} comparable days are needed"


def find_drift(history: History, series: Series, partitions: Mapping[str, Interval]) -> dict[str, CheckFinding]:
    """Compare each partition with comparable days; return nothing if the report disables the check."""
    report = series.report
    tolerance = drift_tolerance(report)
    if tolerance is None or not partitions:
        return {}
    columns, intervals = report_columns(report), list(partitions.values())
    compared = compare_with_comparable_days(history, series, columns, intervals, tolerance)
    return {key: describe_comparison(found, report) for key, found in zip(partitions, compared, strict=True)}


def describe_comparison(compared: Sequence[Comparison], report: Report) -> CheckFinding:
    """Describe one partition's comparison in a sentence and as a table."""
    known = [each for each in compared if each.median is not None]
    deviating = sorted((each for each in known if each.is_outlier), key=_distance, reverse=True)
    metadata = {"compared": len(known), "differ": len(deviating), "comparison": _table(compared, report)}
    if not deviating:
        return CheckFinding("", metadata, "" if known or not compared else _TOO_LITTLE_HISTORY)
    problem = (
        f"{len(deviating)} of {len(known)} hours or days differ from comparable ones, most of all "
        f"{_sentence(deviating[0], report)}"
    )
    return CheckFinding(problem, metadata)


def _distance(each: Comparison) -> float:
    return max(each.lower_bound - each.figure, each.figure - each.upper_bound)


def _local_time(each: Comparison, report: Report) -> str:
    return f"{each.interval.start.astimezone(report.zone):%a %Y-%m-%d %H:%M}"


def _sentence(each: Comparison, report: Report) -> str:
    return (
        f"{_local_time(each, report)}: {each.figure:,.0f}, but {each.median:,.0f} is usual "
        f"and {each.lower_bound:,.0f} to {each.upper_bound:,.0f} are within tolerance"
    )


def _table(compared: Sequence[Comparison], report: Report) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "start": _local_time(each, report),
                    "figure": round(each.figure),
                    "usual": "unknown" if each.median is None else f"{each.median:,.0f}",
                    "tolerance": "" if each.median is None else f"{each.lower_bound:,.0f} to {each.upper_bound:,.0f}",
                    "comparable": each.comparable_count,
                    "differs": each.is_outlier,
                }
            )
            for each in compared
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("start", "string", f"in {report.time_zone}"),
                dg.TableColumn("figure", "int", report.volume_metric or "rows"),
                dg.TableColumn("usual", "string", "median of the comparable hours or days"),
                dg.TableColumn("tolerance", "string", "range that passes"),
                dg.TableColumn("comparable", "int", "number of earlier hours or days it is compared with"),
                dg.TableColumn("differs", "bool"),
            ]
        ),
    )


def drift_spec(report: Report) -> dg.AssetCheckSpec | None:
    """Return the spec of the check, or None if the report disables it."""
    tolerance = drift_tolerance(report)
    if tolerance is None:
        return None
    text = f"Figures are within {tolerance:.0%}, or within chance, of the same hour or day of comparable days"
    return dg.AssetCheckSpec(DRIFT_CHECK, asset=asset_key("history", report), description=text)


def evaluate_drift(
    context: dg.AssetCheckExecutionContext,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
) -> dg.AssetCheckResult:
    """Log the result of each of the run's partitions, and return the result over all of them."""
    key = asset_key("history", report)
    spans = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
    with engine.history() as history:
        findings = find_drift(history, engine.tenant_series(report), spans)
    log = event_logger(context.op_execution_context)
    for name, finding in findings.items():
        log(partition_evaluation(key, DRIFT_CHECK, name, finding, blocking=False))
    return _combine(key, findings)


def _combine(key: dg.AssetKey, findings: Mapping[str, CheckFinding]) -> dg.AssetCheckResult:
    deviating = {name: finding.problem for name, finding in findings.items() if finding.problem}
    unknown = sum(finding.note == _TOO_LITTLE_HISTORY for finding in findings.values())
    first = next(iter(deviating.items()), None)
    summary = f"{len(deviating)} of {len(findings)} partitions differ; {first[0]}: {first[1]}" if first else None
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=DRIFT_CHECK,
        passed=not deviating,
        severity=dg.AssetCheckSeverity.WARN,
        description=summary or (f"{unknown} of {len(findings)} partitions: {_TOO_LITTLE_HISTORY}" if unknown else None),
        metadata={"partitions": len(findings), "differ": len(deviating), "too little history": unknown},
    )
