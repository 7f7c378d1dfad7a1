"""The blocking checks on ``staged``: nothing is published before they pass.

A check's own partitions do not resolve in range runs, so each partition's result is logged as an event of its own. Checks
of published figures belong in ``published_checks``.
See https://docs.dagster.io/guides/test/asset-checks
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

import dagster as dg

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.orchestration.check_events import CheckFinding, EventLogger, event_logger, partition_evaluation
from cache_pipeline.orchestration.dagster_compat import cache_signature
from cache_pipeline.orchestration.metadata import chunk_table
from cache_pipeline.orchestration.naming import COMPLETENESS_CHECK, SCHEMA_CHECK, WATERMARK_CHECK, asset_key
from cache_pipeline.orchestration.partial_publish import publish_partitions
from cache_pipeline.orchestration.partitions import keys_of_run, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.completeness import ChunkResult, Verdict, final_buckets
from cache_pipeline.query.interval import IntervalSet, format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import to_arrow_schema
from cache_pipeline.rows.row_checks import check_rows

_MAX_CLOCK_SKEW = timedelta(minutes=5)
_DESCRIPTIONS = {
    COMPLETENESS_CHECK: "Every final bucket is complete: it has enough rows, or is proven to have no more",
    SCHEMA_CHECK: "Rows have exactly the declared columns, lie inside the partition, and contain each group once",
    WATERMARK_CHECK: "The vendor's watermark, up to which the figures are complete, is plausible",
}


def check_completeness(partition: FetchedPartition, report: Report) -> CheckFinding:
    """Check that no row of the verified answers was lost before staging (G22)."""
    short = [
        chunk
        for chunk in partition.chunks
        if not chunk.is_superseded
        and partition.interval.contains(chunk.interval)
        and partition.rows.count(final_buckets(list_buckets(chunk.interval, report.step, report.zone), chunk.watermark))
        < chunk.kept
    ]
    return CheckFinding(
        f"{len(short)} of {len(partition.chunks)} chunks have fewer rows staged than the vendor returned, "
        f"{short[0].interval} first"
        if short
        else "",
        {
            "rows": partition.rows.num_rows,
            "truncated chunks": sum(chunk.verdict is Verdict.truncated for chunk in partition.chunks),
            "provisional": bool(partition.provisional(report)),
        },
    )


def check_schema(partition: FetchedPartition, report: Report) -> CheckFinding:
    """Check that the rows have exactly the declared columns, lie inside the partition, and contain each group once (G12)."""
    expected = to_arrow_schema(report_columns(report))
    if not partition.rows.schema.equals(expected):
        return CheckFinding(f"columns are {partition.rows.schema.names}, declared are {expected.names}")
    try:
        check_rows(partition.rows, report, partition.interval)
    except SchemaMismatch as error:
        return CheckFinding(str(error))
    return CheckFinding()


def check_watermark(partition: FetchedPartition, report: Report) -> CheckFinding:
    """Check that the vendor's watermarks are plausible: none is later than the answer that named it."""
    for chunk in partition.chunks:
        answered_at = _answered_at(partition, chunk)
        if chunk.watermark > answered_at + _MAX_CLOCK_SKEW:
            return CheckFinding(
                f"{report.platform} claims {chunk.interval} is complete until {chunk.watermark}, which is later than its "
                f"answer at {answered_at}: check this machine's clock"
            )
    return CheckFinding("", {"watermark": format_instant(partition.watermark)})


def _answered_at(partition: FetchedPartition, chunk: ChunkResult) -> datetime:
    """Return when a chunk's answer had been read; its partition may have been fetched over hours."""
    requested = [each.at for each in partition.fetch_times if each.intervals & IntervalSet([chunk.interval])]
    # Without a time of its own, as for a chunk that was fetched again in parts, it is not younger than the youngest.
    latest = max(requested or [each.at for each in partition.fetch_times], default=partition.fetched_at)
    return latest + timedelta(seconds=chunk.seconds)


_CHECKS: Mapping[str, Callable[[FetchedPartition, Report], CheckFinding]] = {
    COMPLETENESS_CHECK: check_completeness,
    SCHEMA_CHECK: check_schema,
    WATERMARK_CHECK: check_watermark,
}


def staged_checks(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """Return the definition of the blocking checks, as one step."""
    key = asset_key("staged", report)

    @dg.multi_asset_check(
        name=f"staged_checks__{report.name}",
        specs=[
            dg.AssetCheckSpec(name, asset=key, blocking=True, description=text) for name, text in _DESCRIPTIONS.items()
        ],
    )
    @cache_signature
    def check(
        context: dg.AssetCheckExecutionContext, cache_pipeline__engine: EngineResource
    ) -> Iterator[dg.AssetCheckResult]:
        staging, series = cache_pipeline__engine.staging(), cache_pipeline__engine.tenant_series(report)
        intervals = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
        by_key = {name: staging.read(series, name, interval) for name, interval in intervals.items()}
        findings_by_check = check_partitions(report, by_key)
        staged = [partition for partition in by_key.values() if partition]
        logged = _logged_results(context.instance, context.run.run_id, key)
        passing = select_passing(findings_by_check, staged)
        if len(passing) < len(by_key):
            # This check fails the run. Partitions that pass must not wait for those that fail.
            asyncio.run(_publish_passing(context, cache_pipeline__engine, report, passing))
        for check_name, findings in findings_by_check.items():
            new = {
                name: finding
                for name, finding in findings.items()
                if logged.get((check_name, name)) != (not finding.problem)
            }
            yield _report_check(context, key, check_name, findings, new, staged)

    return check


async def _publish_passing(
    context: dg.AssetCheckExecutionContext, engine: EngineResource, report: Report, passing: list[FetchedPartition]
) -> None:
    async with engine.service() as service:
        log = event_logger(context.op_execution_context)
        await publish_partitions(service, engine.edge(), report, passing, log)


def check_partitions(
    report: Report, staged: Mapping[str, FetchedPartition | None]
) -> dict[str, dict[str, CheckFinding]]:
    """Run each blocking check on each partition; return the findings by check and partition key."""
    return {
        name: {key: check(part, report) if part else CheckFinding("not staged") for key, part in staged.items()}
        for name, check in _CHECKS.items()
    }


def select_passing(
    findings_by_check: Mapping[str, Mapping[str, CheckFinding]], partitions: Iterable[FetchedPartition]
) -> list[FetchedPartition]:
    """Return the partitions that pass every check."""
    return [
        part for part in partitions if not any(findings[part.key].problem for findings in findings_by_check.values())
    ]


def log_staged_checks(report: Report, partition: FetchedPartition, log: EventLogger) -> None:
    """Log the blocking checks' results for a partition that has just been staged.

    A backfill has time to write these events while it waits for the vendor's quota. Written by the check step, they
    would lengthen the run.
    """
    for name, findings in check_partitions(report, {partition.key: partition}).items():
        log(partition_evaluation(asset_key("staged", report), name, partition.key, findings[partition.key]))


def _logged_results(instance: dg.DagsterInstance, run_id: str, key: dg.AssetKey) -> dict[tuple[str, str | None], bool]:
    """Read which checks of single partitions the run's log already has, by check and partition key."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [record.event_log_entry.dagster_event for record in records]
    evaluations = [event.asset_check_evaluation_data for event in events if event]
    return {(each.check_name, each.partition): each.passed for each in evaluations if each.asset_key == key}


def _report_check(
    context: dg.AssetCheckExecutionContext,
    key: dg.AssetKey,
    check_name: str,
    findings: Mapping[str, CheckFinding],
    new: Mapping[str, CheckFinding],
    partitions: list[FetchedPartition],
) -> dg.AssetCheckResult:
    """Log the results that the run's log lacks, and return the result over all partitions."""
    log = event_logger(context.op_execution_context)
    for partition_key, finding in new.items():
        log(partition_evaluation(key, check_name, partition_key, finding))
    problems = {name: finding.problem for name, finding in findings.items() if finding.problem}
    chunks = list(dict.fromkeys(chunk for partition in partitions for chunk in partition.chunks))
    description = None
    if problems:
        first_key, problem = next(iter(problems.items()))
        description = f"{len(problems)} of {len(findings)} partitions fail; {first_key}: {problem}"
    elif check_name == COMPLETENESS_CHECK:
        description = _truncation_note(chunks)
    return dg.AssetCheckResult(
        passed=not problems,
        asset_key=key,
        check_name=check_name,
        description=description,
        metadata={
            "partitions": len(findings),
            "failed partitions": len(problems),
            **({"chunks": chunk_table(chunks)} if check_name == COMPLETENESS_CHECK else {}),
        },
    )


def _truncation_note(chunks: list[ChunkResult]) -> str | None:
    truncated = sum(chunk.verdict is Verdict.truncated for chunk in chunks)
    if not truncated:
        return None
    return f"truncated answers, discarded and fetched again in smaller chunks: {truncated}"
