"""A check that warns where figures are unlike those of the same hour, or day, of comparable days; it blocks nothing."""

from collections.abc import Mapping, Sequence

import dagster as dg

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.orchestration.check_events import CheckFinding, event_log, partition_evaluation
from cache_pipeline.orchestration.naming import DRIFT_CHECK, asset_key
from cache_pipeline.orchestration.partitions import keys_of_run, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.drift import MIN_COMPARABLE, Comparison, drift_tolerance
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.service.drift_comparison import compare_with_comparable_days
from cache_pipeline.storage.postgres.history import History

_TOO_LITTLE = f"too little history to compare with: {MIN_COMPARABLE} comparable days are needed"


def drift_findings(history: History, series: Series, partitions: Mapping[str, Interval]) -> dict[str, CheckFinding]:
    """What the check has to say of each partition; nothing where the report declares no tolerance."""
    report = series.report
    tolerance = drift_tolerance(report)
    if tolerance is None or not partitions:
        return {}
    columns, intervals = report_columns(report), list(partitions.values())
    compared = compare_with_comparable_days(history, series, columns, intervals, tolerance)
    return {key: finding_of(found, report) for key, found in zip(partitions, compared, strict=True)}


def finding_of(compared: Sequence[Comparison], report: Report) -> CheckFinding:
    """One partition's comparison in words and as a table."""
    judged = [each for each in compared if each.median is not None]
    unlike = sorted((each for each in judged if each.is_outlier), key=_distance, reverse=True)
    metadata = {"compared": len(judged), "differ": len(unlike), "comparison": _table(compared, report)}
    if not unlike:
        return CheckFinding("", metadata, "" if judged or not compared else _TOO_LITTLE)
    problem = f"{len(unlike)} of {len(judged)} differ from comparable ones, {_sentence(unlike[0], report)}"
    return CheckFinding(problem, metadata)


def _distance(each: Comparison) -> float:
    return max(each.lower_bound - each.figure, each.figure - each.upper_bound)


def _local(each: Comparison, report: Report) -> str:
    return f"{each.interval.start.astimezone(report.zone):%a %Y-%m-%d %H:%M}"


def _sentence(each: Comparison, report: Report) -> str:
    return (
        f"{_local(each, report)} most: {each.figure:,.0f}, where {each.median:,.0f} is usual "
        f"and {each.lower_bound:,.0f} to {each.upper_bound:,.0f} would pass"
    )


def _table(compared: Sequence[Comparison], report: Report) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "start": _local(each, report),
                    "figure": round(each.figure),
                    "usual": "not known" if each.median is None else f"{each.median:,.0f}",
                    "would pass": "" if each.median is None else f"{each.lower_bound:,.0f} to {each.upper_bound:,.0f}",
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
                dg.TableColumn("usual", "string", "median of the comparable ones"),
                dg.TableColumn("would pass", "string"),
                dg.TableColumn("comparable", "int", "earlier hours or days it is held against"),
                dg.TableColumn("differs", "bool"),
            ]
        ),
    )


def drift_spec(report: Report) -> dg.AssetCheckSpec | None:
    """The check on ``history``; None where the report has none."""
    tolerance = drift_tolerance(report)
    if tolerance is None:
        return None
    text = f"Figures are within {tolerance:.0%} of the same hour or day of comparable days, or what chance explains"
    return dg.AssetCheckSpec(DRIFT_CHECK, asset=asset_key("history", report), description=text)


def drift_result(
    context: dg.AssetCheckExecutionContext,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
) -> dg.AssetCheckResult:
    """Compare the run's partitions; each partition's verdict is logged, and that of all together returned."""
    key = asset_key("history", report)
    spans = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
    with engine.history() as history:
        findings = drift_findings(history, engine.tenant_series(report), spans)
    log = event_log(context.op_execution_context)
    for name, finding in findings.items():
        log(partition_evaluation(key, DRIFT_CHECK, name, finding, blocking=False))
    return _of_all(key, findings)


def _of_all(key: dg.AssetKey, findings: Mapping[str, CheckFinding]) -> dg.AssetCheckResult:
    unlike = {name: finding.problem for name, finding in findings.items() if finding.problem}
    unknown = sum(finding.note == _TOO_LITTLE for finding in findings.values())
    first = next(iter(unlike.items()), None)
    told = f"{len(unlike)} of {len(findings)} partitions differ; {first[0]}: {first[1]}" if first else None
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=DRIFT_CHECK,
        passed=not unlike,
        severity=dg.AssetCheckSeverity.WARN,
        description=told or (f"{unknown} of {len(findings)} partitions: {_TOO_LITTLE}" if unknown else None),
        metadata={"partitions": len(findings), "differ": len(unlike), "with too little history": unknown},
    )
