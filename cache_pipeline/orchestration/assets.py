"""The assets of one report: staged, then history, then hot and edge (C1).

Nothing a user sees is written before the blocking checks on ``staged`` have passed.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import Any

import dagster as dg
from redis.exceptions import RedisError

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.errors import QueryError
from cache_pipeline.fetch.completeness_checker import IncompleteAnswer
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.fetch.staging import Staging
from cache_pipeline.orchestration.backfill_estimate import estimate_backfill, estimate_metadata, estimate_sentence
from cache_pipeline.orchestration.check_events import CheckFinding, event_log, partition_evaluation
from cache_pipeline.orchestration.dagster_compat import run_interruptibly, with_signature
from cache_pipeline.orchestration.decisions import ATTEMPT_METADATA
from cache_pipeline.orchestration.io_managers import REPORT_METADATA
from cache_pipeline.orchestration.metadata import (
    chunk_sentence,
    chunk_table,
    column_schema,
    partition_chart,
    partition_metadata,
)
from cache_pipeline.orchestration.naming import COMPLETE_CHECK, FAILED_METADATA, asset_key
from cache_pipeline.orchestration.partial_publish import publish
from cache_pipeline.orchestration.partitions import keys_of_run, partition_intervals
from cache_pipeline.orchestration.progress import RunProgress
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.orchestration.run_tags import lane_of_run
from cache_pipeline.orchestration.staged_checks import findings_of, passing, tell_staged
from cache_pipeline.query.completeness import ChunkResult, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.known_errors import known_error
from cache_pipeline.storage.published.aggregated_rows import is_publishable
from cache_pipeline.storage.ttl import report_freshness

Foretold = Mapping[str, float]

#: On a run that fetches: how far it is, and when it will be done.
PROGRESS_TAG = "cache_pipeline/progress"

#: Says how far a run is, with ``done`` and ``total`` as extras of each record.
progress = logging.getLogger("cache_pipeline.progress")

_KINDS = {"staged": "parquet", "history": "postgres", "hot": "redis", "edge": "parquet"}


class FetchConfig(dg.Config):
    """How ``staged`` fetches.

    Attributes:
        again: ask the vendor for everything, whatever is held; for restated figures.
        chunk: longest interval of one upstream query, instead of the declared one.
        attempt: which attempt it is where a failed completeness check is asked again; 0 where it is none.
    """

    again: bool = False
    chunk: str | None = None
    attempt: int = 0


def freshness_badge(report: Report) -> dg.FreshnessPolicy:
    """The badge in the UI: a partition is due each cadence, its settle time later, and a failure one cadence after that.

    It is the asset's alone: an old day that is backfilled makes it green. Which partitions are stale the sensor says.
    """
    due = report.partition.step.nominal_length + report.freshness.finality_delay + report_freshness(report)
    return dg.FreshnessPolicy.time_window(fail_window=due + report.partition.step.nominal_length, warn_window=due)


def _spec(layer: str, report: Report, partitions: dg.TimeWindowPartitionsDefinition, text: str) -> dg.AssetSpec:
    above = {"staged": [], "history": ["staged"], "hot": ["history"], "edge": ["history"]}[layer]
    return dg.AssetSpec(
        asset_key(layer, report),
        deps=[asset_key(name, report) for name in above],
        # The graph shows the report's name and this one's first words: those tell the four of them apart.
        description=f"{text}\n\n{report.description}.",
        group_name=report.name,
        kinds={layer, _KINDS[layer]},
        owners=report.owners,
        partitions_def=partitions,
        freshness_policy=freshness_badge(report) if layer == "history" else None,
        metadata={
            REPORT_METADATA: report.name,
            "dagster/column_schema": column_schema(report, report_columns(report)),
        },
    )


def staged_asset(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetsDefinition:
    """Fetches partitions and stages each as soon as it is proven complete."""
    spec = _spec("staged", report, partitions, "Staged: fetched and proven complete, waiting for its checks.")

    @dg.multi_asset(
        name=f"staged__{report.name}",
        specs=[spec],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @with_signature
    async def staged(
        context: dg.AssetExecutionContext, config: FetchConfig, engine: EngineResource
    ) -> dg.MaterializeResult[Any]:
        wanted = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
        # How figures are fetched is not part of what they mean: the series stays the same.
        asked = report.with_max_query_interval(config.chunk) if config.chunk else report
        started = time.monotonic()
        done, failed, foretold = await run_interruptibly(_stage(context, asked, wanted, engine, again=config.again))
        _fail_checks(context, report, failed, config)
        if failed:
            # This step fails, and what succeeded must wait neither for it nor for the next run.
            await run_interruptibly(_publish_besides(context, report, list(done.values()), engine))
            raise _failed(report, failed, len(wanted)) from failed[0].error
        for partition in done.values():
            context.add_asset_metadata(partition_metadata(partition), partition_key=partition.key)
        chunks = list(dict.fromkeys(chunk for partition in done.values() for chunk in partition.chunks))
        return dg.MaterializeResult(
            metadata={
                "whole run": f"{sum(part.rows.num_rows for part in done.values()):,} rows, "
                f"{sum(chunk.calls for chunk in chunks):,} calls",
                "upstream calls": sum(chunk.calls for chunk in chunks),
                "minutes": round((time.monotonic() - started) / 60, 2),
                **foretold,
                "chunks of the run": chunk_table(chunks),
                "rows by partition": partition_chart(
                    {part.key: part.rows.num_rows for part in _in_order(done.values())}
                ),
                "calls by partition": partition_chart(
                    {part.key: sum(chunk.calls for chunk in part.chunks) for part in _in_order(done.values())}
                ),
            }
        )

    return staged


def _in_order(partitions: Iterable[FetchedPartition]) -> list[FetchedPartition]:
    return sorted(partitions, key=lambda partition: partition.interval)


async def _publish_besides(
    context: dg.AssetExecutionContext, report: Report, done: list[FetchedPartition], engine: EngineResource
) -> None:
    proven = passing(findings_of(report, {part.key: part for part in done}), _in_order(done))
    async with engine.service() as service:
        published = await publish(service, engine.edge(), report, proven, event_log(context.op_execution_context))
    context.log.info(f"{len(published)} partitions that did not fail are published all the same")


async def _stage(
    context: dg.AssetExecutionContext,
    report: Report,
    wanted: Mapping[str, Interval],
    engine: EngineResource,
    *,
    again: bool,
) -> tuple[dict[str, FetchedPartition], list[FailedPartition], Foretold]:
    staging, series = engine.staging(), engine.tenant_series(report)
    done = {} if again else staging.final_partitions(series, wanted)
    missing = {key: interval for key, interval in wanted.items() if key not in done}
    failed: list[FailedPartition] = []
    foretold: Foretold = {}
    pace = RunProgress(len(missing), time.monotonic)

    def hear(chunk: ChunkResult) -> None:
        if chunk.verdict is Verdict.truncated:
            _fail_visibly(context, report, chunk)
        else:
            context.log.info(chunk_sentence(chunk))

    for partition in done.values():
        _record(context, report, partition)
    with reported_failures():
        async with engine.service() as service:
            await asyncio.to_thread(engine.prepare, report)
            lane = lane_of_run(context.run.tags)
            foretold = await _foretell(context, service, engine, report, missing, lane, again=again)
            fetched = service.fetch(report, missing, lane, on_chunk=hear, refetch=again)
            async with aclosing(fetched) as partitions:
                async for partition in partitions:
                    if isinstance(partition, FailedPartition):
                        failed.append(partition)
                        context.log.error(f"{partition.key}: {partition.error}")
                        continue
                    staging.write(series, partition)
                    # As it lies on disk, so that what was fetched need not be held until the last has come.
                    done[partition.key] = staging.read(series, partition.key) or partition
                    # At once: a run that is killed later has recorded what it had done.
                    _record(context, report, done[partition.key])
                    progress.info(
                        "%s: %d of %d partitions staged",
                        report.name,
                        len(done),
                        len(wanted),
                        extra={"done": len(done), "total": len(wanted)},
                    )
                    if told := pace.told(len(done) + len(failed) - len(wanted) + len(missing)):
                        context.log.info(f"{report.name}: {told}")
                        # Seen in the list of runs, where nobody has to open the log.
                        context.instance.add_run_tags(context.run.run_id, {PROGRESS_TAG: told})
    return done, failed, foretold


async def _foretell(
    context: dg.AssetExecutionContext,
    service: ReportService,
    engine: EngineResource,
    report: Report,
    missing: Mapping[str, Interval],
    lane: Lane,
    *,
    again: bool,
) -> Foretold:
    """Tell what the run is about to ask; a run goes on without where that cannot be said."""
    if not missing:
        return {}
    try:
        found = await estimate_backfill(service, engine, report, missing, lane, again=again)
    except (QueryError, RedisError) as error:
        context.log.info(f"{report.name}: no estimate, {error}")
        return {}
    context.log.info(f"{report.name}: {estimate_sentence(found, len(missing))}")
    return estimate_metadata(found)


def _record(context: dg.AssetExecutionContext, report: Report, partition: FetchedPartition) -> None:
    context.log_event(
        dg.AssetMaterialization(
            asset_key("staged", report), partition=partition.key, metadata=partition_metadata(partition)
        )
    )
    tell_staged(report, partition, event_log(context.op_execution_context))


def _fail_visibly(context: dg.AssetExecutionContext, report: Report, chunk: ChunkResult) -> None:
    """A truncated answer fails the completeness check there and then; the check passes when the parts have come."""
    sentence = chunk_sentence(chunk)
    context.log.warning(sentence)
    context.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=asset_key("staged", report),
            check_name=COMPLETE_CHECK,
            passed=False,
            description=sentence,
            blocking=True,
            metadata={"chunks": chunk_table([chunk])},
        )
    )


def _fail_checks(
    context: dg.AssetExecutionContext, report: Report, failed: Iterable[FailedPartition], config: FetchConfig
) -> None:
    """Partitions that could not be proven complete fail that check, each for itself; a sensor looks for them."""
    log = event_log(context.op_execution_context)
    for part in failed:
        if isinstance(part.error, IncompleteAnswer):
            chunk = config.chunk or report.fetch.max_query_interval
            metadata = {ATTEMPT_METADATA: config.attempt, "chunk": chunk, "chunks": chunk_table([part.error.chunk])}
            finding = CheckFinding(str(part.error), metadata)
            log(partition_evaluation(asset_key("staged", report), COMPLETE_CHECK, part.key, finding))


def _failed(report: Report, failed: list[FailedPartition], wanted: int) -> dg.Failure:
    first = failed[0]
    known = known_error(first.error)
    return dg.Failure(
        f"{len(failed)} of {wanted} partitions of {report.name} failed; {first.key}: {first.error}",
        metadata={
            FAILED_METADATA: dg.MetadataValue.table(
                [dg.TableRecord({"partition": part.key, "error": str(part.error)}) for part in failed]
            )
        },
        allow_retries=known is None or known.retryable,
    )


def _staged_partitions(staging: Staging, series: Series, keys: list[str]) -> list[FetchedPartition]:
    found = {key: staging.read(series, key) for key in keys}
    lacking = [key for key, partition in found.items() if partition is None]
    if lacking:
        raise dg.Failure(
            f"{len(lacking)} partitions are not staged, {lacking[0]} first: materialise staged/{series.report.name}",
            allow_retries=False,
        )
    return [partition for partition in found.values() if partition is not None]


def history_asset(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetsDefinition:
    """Moves checked partitions into PostgreSQL."""
    spec = _spec("history", report, partitions, "History: kept for years, with what of it is complete.")

    @dg.multi_asset(
        name=f"history__{report.name}",
        specs=[spec.with_io_manager_key("history_io_manager")],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @with_signature
    def history(context: dg.AssetExecutionContext, engine: EngineResource) -> dg.MaterializeResult[Any]:
        keys = keys_of_run(partitions, context.run.tags)
        found = _staged_partitions(engine.staging(), engine.tenant_series(report), keys)
        for partition in found:
            context.add_asset_metadata(
                {"dagster/partition_row_count": partition.rows.num_rows}, partition_key=partition.key
            )
        return dg.MaterializeResult(value=found)

    return history


def hot_asset(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetsDefinition:
    """Renders the partitions' answers for Redis."""
    spec = _spec("hot", report, partitions, "Hot: answers for a crowd of dashboards, for a few seconds.")

    @dg.multi_asset(
        name=f"hot__{report.name}",
        specs=[spec.with_io_manager_key("hot_io_manager")],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @with_signature
    async def hot(context: dg.AssetExecutionContext, engine: EngineResource) -> dg.MaterializeResult[Any]:
        intervals = partition_intervals(partitions, keys_of_run(partitions, context.run.tags))
        async with engine.service() as service:
            return dg.MaterializeResult(
                value=await service.cached_answers.render_many(service.series(report), list(intervals.values()))
            )

    return hot


def edge_asset(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetsDefinition:
    """Cuts the partitions' rows from history for publishing."""
    spec = _spec("edge", report, partitions, "Edge: published as Parquet for anyone with the URL.")

    @dg.multi_asset(
        name=f"edge__{report.name}",
        ins={"rows": dg.AssetIn(asset_key("history", report))},
        specs=[spec.with_io_manager_key("edge_io_manager")],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    @with_signature
    def edge(context: dg.AssetExecutionContext, engine: EngineResource, rows: Rows) -> dg.MaterializeResult[Any]:
        intervals = partition_intervals(partitions, keys_of_run(partitions, context.run.tags)).values()
        with engine.history() as history:
            coverage = history.coverage(engine.tenant_series(report))
        provisional = coverage.provisional & IntervalSet(intervals)
        rows_by_interval = {interval: is_publishable(report, rows.within(interval)) for interval in intervals}
        return dg.MaterializeResult(value=(rows_by_interval, next((part.start for part in provisional), None)))

    return edge


def report_assets(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """All assets of a report, for the tiers that it declares."""
    assets = [staged_asset(report, partitions), history_asset(report, partitions)]
    if Tier.hot in report.publish.tiers:
        assets.append(hot_asset(report, partitions))
    if Tier.edge in report.publish.tiers:
        assets.append(edge_asset(report, partitions))
    return assets
