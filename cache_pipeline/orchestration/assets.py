"""The assets of one report: ``staged``, then ``history``, then ``hot``, ``edge`` and ``warehouse`` (C1).

Nothing that a reader sees is written before the blocking checks on ``staged`` have passed. Bodies of assets belong here,
as far as they translate between Dagster and the services; IO managers write what the assets return.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import dagster as dg

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.errors import QueryError
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.orchestration.backfill_estimate import describe_estimate, estimate_backfill, estimate_metadata
from cache_pipeline.orchestration.check_events import CheckFinding, event_logger, partition_evaluation
from cache_pipeline.orchestration.dagster_compat import cache_signature, run_interruptibly
from cache_pipeline.orchestration.io_managers import REPORT_METADATA, report_metadata
from cache_pipeline.orchestration.metadata import (
    chunk_table,
    code_references,
    code_version,
    column_lineage,
    column_schema,
    describe_chunk,
    partition_chart,
    partition_metadata,
    published_code_version,
)
from cache_pipeline.orchestration.naming import (
    COMPLETENESS_CHECK,
    FAILED_PARTITIONS_METADATA,
    RETRY_ATTEMPT_METADATA,
    WAREHOUSE_LAYER,
    asset_key,
    layers_of,
    pool_name,
    staged_op_name,
)
from cache_pipeline.orchestration.partial_publish import publish_partitions
from cache_pipeline.orchestration.partitions import keys_of_run, partition_intervals
from cache_pipeline.orchestration.progress import RunProgress, progress_logger
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.orchestration.run_tags import PROGRESS_TAG, lane_of_run
from cache_pipeline.orchestration.staged_checks import check_partitions, log_staged_checks, select_passing
from cache_pipeline.query.completeness import ChunkResult, Verdict
from cache_pipeline.query.declarations import Declaration
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.publication import published_columns
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.query.series import Series
from cache_pipeline.storage.known_errors import known_error
from cache_pipeline.storage.postgres.schemas import reporting_schema
from cache_pipeline.storage.ttl import report_freshness

# As in resources.py, what takes long to import is imported by the function that needs it.
if TYPE_CHECKING:
    from cache_pipeline.fetch.staging import Staging
    from cache_pipeline.service.report_service import ReportService

EstimateMetadata = Mapping[str, float]

_KINDS = {"staged": "parquet", "history": "postgres", "hot": "redis", "edge": "parquet", "warehouse": "dlt"}
_UPSTREAM_LAYERS = {"history": "staged", "hot": "history", "edge": "history", "warehouse": "history"}
_SUMMARIES = {
    "staged": "Staged: fetched and verified as complete, not yet published.",
    "history": "History: kept for years in PostgreSQL, with its coverage.",
    "hot": "Hot: rendered answers in Redis, for a few seconds.",
    "edge": "Edge: Parquet files for everyone who has the URL.",
    "warehouse": "Warehouse: a copy of history in another database, exported as far as it has changed.",
}
#: Writes to hot, edge and warehouse what history has received: once, if the run that wrote it did not, or failed to. The job of a report
#: writes all of them in one run, so this acts only if history was materialised alone or a store was unavailable.
_FOLLOWS_HISTORY = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.newly_updated()).since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("follows_history")


class FetchConfig(dg.Config):
    """Run config of ``staged``.

    Attributes:
        refetch: Fetch everything from the vendor, even what history has; for figures that the vendor has corrected.
        max_query_interval: Longest interval of one upstream query, instead of the declared one.
        retry_attempt: Number of the retry after a failed completeness check; 0 for a first fetch.
    """

    refetch: bool = False
    max_query_interval: str | None = None
    retry_attempt: int = 0


def freshness_policy(report: Report) -> dg.FreshnessPolicy:
    """Return the policy of the freshness badge in the UI.

    A partition is due once each cadence, the finality delay later; one cadence after that the badge fails. The badge
    belongs to the asset, not to its partitions: backfilling an old day turns it green. Which partitions are stale is
    decided by the stale sensor.
    """
    due = report.partition.step.nominal_length + report.freshness.finality_delay + report_freshness(report)
    return dg.FreshnessPolicy.time_window(fail_window=due + report.partition.step.nominal_length, warn_window=due)


def report_assets(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, declaration: Declaration | None, tenant: str
) -> list[dg.AssetsDefinition]:
    """Return the assets of a report, for the tiers that it declares.

    Args:
        report: The report.
        partitions: Its partitions.
        declaration: Where it is declared, if it was read from a file.
        tenant: The deployment's tenant.
    """
    specs = _asset_specs(report, partitions, declaration, tenant)
    makers = {
        "staged": staged_asset,
        "history": history_asset,
        "hot": hot_asset,
        "edge": edge_asset,
        WAREHOUSE_LAYER: warehouse_asset,
    }
    return [makers[layer](report, partitions, spec) for layer, spec in specs.items()]


def _asset_specs(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, declaration: Declaration | None, tenant: str
) -> dict[str, dg.AssetSpec]:
    columns, version = report_columns(report), code_version(report)
    schema = column_schema(columns)
    schemas = {"edge": column_schema(published_columns(report, columns))} if Tier.edge in report.publish.tiers else {}
    shared = {
        REPORT_METADATA: report_metadata(report),
        **({"dagster/code_references": code_references(declaration)} if declaration else {}),
    }

    def spec(layer: str) -> dg.AssetSpec:
        upstream, own_schema = _UPSTREAM_LAYERS.get(layer), schemas.get(layer, schema)
        metadata: dict[str, Any] = {
            **shared,
            "dagster/storage_kind": _KINDS[layer],
            "dagster/column_schema": own_schema,
        }
        if upstream:
            metadata["dagster/column_lineage"] = column_lineage(own_schema, asset_key(upstream, report), schema)
        if layer == "history":
            metadata["dagster/table_name"] = f"{reporting_schema(tenant)}.{report.name}"
        return dg.AssetSpec(
            asset_key(layer, report),
            deps=[asset_key(upstream, report)] if upstream else [],
            description=f"{_SUMMARIES[layer]}\n\n{report.description}.",
            group_name=report.name,
            kinds={layer, _KINDS[layer]},
            owners=report.owners,
            partitions_def=partitions,
            code_version=published_code_version(report) if layer == "edge" else version,
            freshness_policy=freshness_policy(report) if layer == "history" else None,
            automation_condition=_FOLLOWS_HISTORY if upstream == "history" else None,
            metadata=metadata,
        )

    return {layer: spec(layer) for layer in layers_of(report)}


def staged_asset(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, spec: dg.AssetSpec
) -> dg.AssetsDefinition:
    """Return the asset that fetches partitions and stages each as soon as it is verified to be complete."""

    @dg.multi_asset(
        name=staged_op_name(report),
        specs=[spec],
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=pool_name(report),
    )
    @cache_signature
    async def staged(
        context: dg.AssetExecutionContext, config: FetchConfig, cache_pipeline__engine: EngineResource
    ) -> dg.MaterializeResult[Any]:
        intervals = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
        # The chunk size does not change what the figures mean, so the series stays the same.
        fetched_report = (
            report.with_max_query_interval(config.max_query_interval) if config.max_query_interval else report
        )
        started = time.monotonic()
        done, failed, estimate = await run_interruptibly(
            _fetch_and_stage(context, fetched_report, intervals, cache_pipeline__engine, refetch=config.refetch)
        )
        _log_incomplete(context, report, failed, config)
        if failed:
            # This step fails. Partitions that succeeded must not wait for it, nor for the next run.
            await run_interruptibly(_publish_passing(context, report, list(done.values()), cache_pipeline__engine))
            raise _step_failure(report, failed, len(intervals)) from failed[0].error
        for partition in done.values():
            context.add_asset_metadata(partition_metadata(partition), partition_key=partition.key)
        return dg.MaterializeResult(
            metadata=_run_metadata(list(done.values()), time.monotonic() - started, estimate),
        )

    return staged


def _run_metadata(
    done: list[FetchedPartition], seconds: float, estimate: EstimateMetadata
) -> "Mapping[str, dg.RawMetadataValue]":
    chunks = list(dict.fromkeys(chunk for partition in done for chunk in partition.chunks))
    rows, calls = sum(part.rows.num_rows for part in done), sum(chunk.calls for chunk in chunks)
    ordered = _sort_by_interval(done)
    return {
        "run total": f"{rows:,} rows, {calls:,} calls",
        "upstream calls": calls,
        "minutes": round(seconds / 60, 2),
        **estimate,
        "chunks of the run": chunk_table(chunks),
        "rows by partition": partition_chart({part.key: part.rows.num_rows for part in ordered}),
        "calls by partition": partition_chart(
            {part.key: sum(chunk.calls for chunk in part.chunks) for part in ordered}
        ),
    }


def _sort_by_interval(partitions: Iterable[FetchedPartition]) -> list[FetchedPartition]:
    return sorted(partitions, key=lambda partition: partition.interval)


async def _publish_passing(
    context: dg.AssetExecutionContext, report: Report, done: list[FetchedPartition], engine: EngineResource
) -> None:
    passing = select_passing(check_partitions(report, {part.key: part for part in done}), _sort_by_interval(done))
    log = event_logger(context.op_execution_context)
    async with engine.service() as service:
        published = await publish_partitions(service, engine.edge(), report, passing, log)
    context.log.info(f"published the {len(published)} partitions that did not fail")


async def _fetch_and_stage(
    context: dg.AssetExecutionContext,
    report: Report,
    intervals: Mapping[str, Interval],
    engine: EngineResource,
    *,
    refetch: bool,
) -> tuple[dict[str, FetchedPartition], list[FailedPartition], EstimateMetadata]:
    from cache_pipeline.fetch.upstream_jobs import QueryProgress

    staging, series = engine.staging(), engine.tenant_series(report)
    await asyncio.to_thread(staging.delete_old, engine.settings.staged_retention, utc_now())
    failed: list[FailedPartition] = []
    estimate: EstimateMetadata = {}

    def log_chunk(chunk: ChunkResult) -> None:
        if chunk.verdict is Verdict.truncated:
            _log_truncation(context, report, chunk, intervals)
        else:
            context.log.info(describe_chunk(chunk))

    with reported_failures():
        async with engine.service() as service:
            await asyncio.to_thread(engine.ensure_history_table, report)
            await asyncio.to_thread(engine.expire_history, report)
            stored = await asyncio.to_thread(service.history.coverage, series)
            done = {} if refetch else await asyncio.to_thread(staging.final_partitions, series, intervals, stored)
            for partition in done.values():
                _log_staged(context, report, partition)
            missing = {key: interval for key, interval in intervals.items() if key not in done}
            already_staged = len(done)
            progress = RunProgress(len(missing), time.monotonic)
            lane = lane_of_run(context.run.tags)
            estimate = await _log_estimate(context, service, engine, report, missing, lane, refetch=refetch)
            async with aclosing(service.fetch(report, missing, lane, refetch=refetch)) as events:
                async for event in events:
                    match event:
                        case QueryProgress():
                            continue
                        case ChunkResult():
                            log_chunk(event)
                            continue
                        case FailedPartition():
                            failed.append(event)
                            context.log.error(f"{event.key}: {event.error}")
                            continue
                        case FetchedPartition():
                            # Waiting for a disk would delay the requests that are in flight, and what keeps their locks.
                            done[event.key] = await asyncio.to_thread(_stage, staging, series, event)
                    # Log it now, so that a run that is killed later has recorded what it had done.
                    _log_staged(context, report, done[event.key])
                    progress_logger.info(
                        "%s: %d of %d partitions staged",
                        report.name,
                        len(done),
                        len(intervals),
                        extra={"done": len(done), "total": len(intervals)},
                    )
                    if line := progress.report(len(done) + len(failed) - already_staged):
                        context.log.info(f"{report.name}: {line}")
                        # The list of runs shows tags, so the progress can be seen without opening the log.
                        context.instance.add_run_tags(context.run.run_id, {PROGRESS_TAG: line})
    return done, failed, estimate


def _stage(staging: "Staging", series: Series, partition: FetchedPartition) -> FetchedPartition:
    """Write a partition to disk, and return it as the file holds it, so that its rows do not stay in memory."""
    staging.write(series, partition)
    return staging.read(series, partition.key, partition.interval) or partition


async def _log_estimate(
    context: dg.AssetExecutionContext,
    service: "ReportService",
    engine: EngineResource,
    report: Report,
    missing: Mapping[str, Interval],
    lane: Lane,
    *,
    refetch: bool,
) -> EstimateMetadata:
    """Log what the run is about to fetch and how long that takes; a run without an estimate continues."""
    if not missing:
        return {}
    try:
        plan = await estimate_backfill(service, engine, report, missing, lane, refetch=refetch)
    except QueryError as error:
        context.log.info(f"{report.name}: no estimate: {error}")
        return {}
    context.log.info(f"{report.name}: {describe_estimate(plan, len(missing))}")
    return estimate_metadata(plan)


def _log_staged(context: dg.AssetExecutionContext, report: Report, partition: FetchedPartition) -> None:
    context.log_event(
        dg.AssetMaterialization(
            asset_key("staged", report), partition=partition.key, metadata=partition_metadata(partition)
        )
    )
    log_staged_checks(report, partition, event_logger(context.op_execution_context))


def _log_truncation(
    context: dg.AssetExecutionContext, report: Report, chunk: ChunkResult, intervals: Mapping[str, Interval]
) -> None:
    """Let the completeness check of the partitions concerned warn; it passes once the parts are fetched, or fails then."""
    description = describe_chunk(chunk)
    context.log.warning(description)
    log, finding = (
        event_logger(context.op_execution_context),
        CheckFinding(description, {"chunks": chunk_table([chunk])}),
    )
    for key, interval in intervals.items():
        if interval.intersection(chunk.interval):
            event = partition_evaluation(asset_key("staged", report), COMPLETENESS_CHECK, key, finding, blocking=False)
            log(event)


def _log_incomplete(
    context: dg.AssetExecutionContext, report: Report, failed: Iterable[FailedPartition], config: FetchConfig
) -> None:
    """Fail the completeness check of each partition that is incomplete; a sensor retries these partitions."""
    from cache_pipeline.fetch.chunk_states import IncompleteAnswer

    log = event_logger(context.op_execution_context)
    for part in failed:
        if isinstance(part.error, IncompleteAnswer):
            metadata = {
                RETRY_ATTEMPT_METADATA: config.retry_attempt,
                "max query interval": config.max_query_interval or report.fetch.max_query_interval,
                "chunks": chunk_table([part.error.chunk]),
            }
            finding = CheckFinding(str(part.error), metadata)
            log(partition_evaluation(asset_key("staged", report), COMPLETENESS_CHECK, part.key, finding))


def _step_failure(report: Report, failed: list[FailedPartition], total: int) -> dg.Failure:
    first = failed[0]
    known = known_error(first.error)
    return dg.Failure(
        f"{len(failed)} of {total} partitions of {report.name} failed; {first.key}: {first.error}",
        metadata={
            FAILED_PARTITIONS_METADATA: dg.MetadataValue.table(
                [dg.TableRecord({"partition": part.key, "error": str(part.error)}) for part in failed]
            )
        },
        allow_retries=known is None or known.retryable,
    )


def history_asset(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, spec: dg.AssetSpec
) -> dg.AssetsDefinition:
    """Return the asset that copies checked partitions into PostgreSQL."""

    @dg.multi_asset(
        name=f"history__{report.name}",
        specs=[spec.with_io_manager_key("cache_pipeline__history_io_manager")],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @cache_signature
    def history(context: dg.AssetExecutionContext, cache_pipeline__engine: EngineResource) -> dg.MaterializeResult[Any]:
        keys = keys_of_run(partitions, context.run.tags)
        staged = _read_staged(
            cache_pipeline__engine.staging(),
            cache_pipeline__engine.tenant_series(report),
            partition_intervals(partitions, keys),
        )
        for partition in staged:
            context.add_asset_metadata(
                {"dagster/partition_row_count": partition.rows.num_rows}, partition_key=partition.key
            )
        return dg.MaterializeResult(value=staged)

    return history


def _read_staged(staging: "Staging", series: Series, intervals: Mapping[str, Interval]) -> list[FetchedPartition]:
    staged = {key: staging.read(series, key, interval) for key, interval in intervals.items()}
    missing = [key for key, partition in staged.items() if partition is None]
    if missing:
        raise dg.Failure(
            f"{len(missing)} partitions are not staged, {missing[0]} first: materialise {series.report.name}/staged",
            allow_retries=False,
        )
    return [partition for partition in staged.values() if partition is not None]


def hot_asset(report: Report, partitions: dg.TimeWindowPartitionsDefinition, spec: dg.AssetSpec) -> dg.AssetsDefinition:
    """Return the asset whose partitions' answers are rendered for Redis."""

    @dg.multi_asset(
        name=f"hot__{report.name}",
        specs=[spec.with_io_manager_key("cache_pipeline__hot_io_manager")],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @cache_signature
    def hot(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        intervals = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
        return dg.MaterializeResult(value=list(intervals.values()))

    return hot


def edge_asset(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, spec: dg.AssetSpec
) -> dg.AssetsDefinition:
    """Return the asset that is published from history."""

    @dg.multi_asset(
        name=f"edge__{report.name}",
        specs=[spec.with_io_manager_key("cache_pipeline__edge_io_manager")],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @cache_signature
    def edge(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        intervals = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
        return dg.MaterializeResult(value=list(intervals.values()))

    return edge


def warehouse_asset(
    report: Report, partitions: dg.TimeWindowPartitionsDefinition, spec: dg.AssetSpec
) -> dg.AssetsDefinition:
    """Return the asset that copies history to a warehouse."""

    @dg.multi_asset(name=f"warehouse__{report.name}", specs=[spec], backfill_policy=dg.BackfillPolicy.single_run())
    @cache_signature
    def warehouse(
        context: dg.AssetExecutionContext, cache_pipeline__engine: EngineResource
    ) -> dg.MaterializeResult[Any]:
        intervals = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
        with cache_pipeline__engine.exporter(report) as exporter:
            result = exporter.export(
                intervals.values(),
                cache_pipeline__engine.now(),
                on_progress=lambda done: context.log.info(
                    f"exported {len(done)} partitions to {exporter.warehouse.name}"
                ),
            )
            return dg.MaterializeResult(
                metadata={
                    "run total": f"{result.rows:,} rows",
                    "dagster/uri": exporter.warehouse.name,
                    "dagster/table_name": f"{exporter.dataset}.{report.name}",
                    "partitions exported": len(result.exported),
                    "of which provisional": result.provisional,
                    "partitions unchanged": result.unchanged,
                }
            )

    return warehouse
