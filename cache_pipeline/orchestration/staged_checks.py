"""The checks on ``staged``: three that block before anything is published.

A check's own partitions do not resolve in range runs, so each partition's verdict is logged as an event of its own.
See https://docs.dagster.io/guides/test/asset-checks
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta

import dagster as dg

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.orchestration.check_events import CheckFinding, Log, event_log, partition_evaluation
from cache_pipeline.orchestration.dagster_compat import with_signature
from cache_pipeline.orchestration.metadata import chunk_table
from cache_pipeline.orchestration.naming import COMPLETE_CHECK, asset_key
from cache_pipeline.orchestration.partial_publish import publish
from cache_pipeline.orchestration.partitions import keys_of_run
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.completeness import ChunkResult, Verdict, final_buckets
from cache_pipeline.query.interval import format_instant
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import arrow_schema
from cache_pipeline.rows.row_checks import check_rows

_CLOCK_SKEW = timedelta(minutes=5)


def find_complete(partition: FetchedPartition, report: Report) -> CheckFinding:
    """Whether all rows are staged that the judged answers had (G22)."""
    lost = [
        chunk
        for chunk in partition.chunks
        if not chunk.is_superseded
        and partition.interval.contains(chunk.interval)
        and partition.rows.count(final_buckets(list_buckets(chunk.interval, report.step, report.zone), chunk.watermark))
        < chunk.got
    ]
    return CheckFinding(
        f"{len(lost)} chunks have fewer rows staged than the vendor gave, {lost[0].interval} first" if lost else "",
        {
            "rows": partition.rows.num_rows,
            "truncated and asked again": sum(chunk.verdict is Verdict.truncated for chunk in partition.chunks),
            "provisional": bool(partition.provisional(report)),
        },
    )


def find_schema(partition: FetchedPartition, report: Report) -> CheckFinding:
    """Whether the staged rows have exactly the declared columns, inside the partition, each group once (G12)."""
    expected = arrow_schema(report_columns(report))
    if not partition.rows.schema.equals(expected):
        return CheckFinding(f"columns are {partition.rows.schema.names}, declared are {expected.names}")
    try:
        check_rows(partition.rows, report, partition.interval)
    except SchemaMismatch as error:
        return CheckFinding(str(error))
    return CheckFinding()


def find_watermark(partition: FetchedPartition, report: Report) -> CheckFinding:
    """Whether the vendor's watermark can be believed: it never lies in the future of the fetch."""
    ahead = [chunk for chunk in partition.chunks if chunk.watermark > partition.fetched_at + _CLOCK_SKEW]
    if ahead:
        return CheckFinding(
            f"{report.platform} says {ahead[0].interval} is complete to {ahead[0].watermark}, which lies after the "
            f"fetch at {partition.fetched_at}: check this machine's clock"
        )
    return CheckFinding("", {"watermark": format_instant(partition.watermark)})


_FINDERS: Mapping[str, Callable[[FetchedPartition, Report], CheckFinding]] = {
    COMPLETE_CHECK: find_complete,
    "schema": find_schema,
    "watermark": find_watermark,
}


def staged_checks(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """The blocking checks on ``staged``."""
    key = asset_key("staged", report)
    texts = {
        COMPLETE_CHECK: "Every final bucket is there: enough rows, or proven to be all there are",
        "schema": "Exactly the declared columns, inside the partition, each group once",
        "watermark": "It is known until when the figures are complete",
    }

    @dg.multi_asset_check(
        name=f"staged_checks__{report.name}",
        specs=[dg.AssetCheckSpec(name, asset=key, blocking=True, description=text) for name, text in texts.items()],
    )
    @with_signature
    def check(context: dg.AssetCheckExecutionContext, engine: EngineResource) -> Iterator[dg.AssetCheckResult]:
        staging, series = engine.staging(), engine.tenant_series(report)
        staged = {name: staging.read(series, name) for name in keys_of_run(partitions, context.run.tags)}
        found = findings_of(report, staged)
        there = [partition for partition in staged.values() if partition]
        told = _told(context.instance, context.run.run_id, key)
        proven = passing(found, there)
        if len(proven) < len(staged):
            # This check fails the run, and what passes must not wait for what does not.
            asyncio.run(_publish_besides(context, engine, report, proven))
        for check_name, findings in found.items():
            untold = {each: it for each, it in findings.items() if told.get((check_name, each)) != (not it.problem)}
            yield _reported(context, key, check_name, findings, untold, there)

    return check


async def _publish_besides(
    context: dg.AssetCheckExecutionContext, engine: EngineResource, report: Report, proven: list[FetchedPartition]
) -> None:
    async with engine.service() as service:
        await publish(service, engine.edge(), report, proven, event_log(context.op_execution_context))


def findings_of(report: Report, staged: Mapping[str, FetchedPartition | None]) -> dict[str, dict[str, CheckFinding]]:
    """What each blocking check has against each partition, by check and partition key."""
    return {
        name: {key: find(part, report) if part else CheckFinding("not staged") for key, part in staged.items()}
        for name, find in _FINDERS.items()
    }


def passing(
    found: Mapping[str, Mapping[str, CheckFinding]], partitions: Iterable[FetchedPartition]
) -> list[FetchedPartition]:
    """The partitions that no check has anything against."""
    return [part for part in partitions if not any(findings[part.key].problem for findings in found.values())]


def tell_staged(report: Report, partition: FetchedPartition, log: Log) -> None:
    """Log what the blocking checks say of a partition that has just been staged.

    A backfill waits for the vendor's quota while it stages, and has time to write this; when its checks come, it has none.
    """
    for name, findings in findings_of(report, {partition.key: partition}).items():
        log(partition_evaluation(asset_key("staged", report), name, partition.key, findings[partition.key]))


def _told(instance: dg.DagsterInstance, run_id: str, key: dg.AssetKey) -> dict[tuple[str, str | None], bool]:
    """What the run's log says of single partitions already, by check and partition key."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [record.event_log_entry.dagster_event for record in records]
    evaluations = [event.asset_check_evaluation_data for event in events if event]
    return {(each.check_name, each.partition): each.passed for each in evaluations if each.asset_key == key}


def _reported(
    context: dg.AssetCheckExecutionContext,
    key: dg.AssetKey,
    check_name: str,
    findings: Mapping[str, CheckFinding],
    untold: Mapping[str, CheckFinding],
    partitions: list[FetchedPartition],
) -> dg.AssetCheckResult:
    """Report the verdicts that the run's log lacks, and return that of all together."""
    log = event_log(context.op_execution_context)
    for partition_key, finding in untold.items():
        log(partition_evaluation(key, check_name, partition_key, finding))
    bad = {name: finding.problem for name, finding in findings.items() if finding.problem}
    chunks = list(dict.fromkeys(chunk for partition in partitions for chunk in partition.chunks))
    first = next(iter(bad.items()), None)
    return dg.AssetCheckResult(
        passed=not bad,
        asset_key=key,
        check_name=check_name,
        description=(
            f"{len(bad)} of {len(findings)} partitions fail; {first[0]}: {first[1]}"
            if first
            else _mended(chunks)
            if check_name == COMPLETE_CHECK
            else None
        ),
        metadata={
            "partitions": len(findings),
            "failed partitions": len(bad),
            **({"chunks": chunk_table(chunks)} if check_name == COMPLETE_CHECK else {}),
        },
    )


def _mended(chunks: list[ChunkResult]) -> str | None:
    truncated = sum(chunk.verdict is Verdict.truncated for chunk in chunks)
    if not truncated:
        return None
    return f"{truncated} of the vendor's answers failed: truncated, so discarded and asked again in smaller chunks"
