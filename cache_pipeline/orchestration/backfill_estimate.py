"""What a backfill would take, seen in the UI before it is launched, and told in its log when it begins.

``estimate_job`` sends the vendor nothing. What it finds is an observation on ``staged/<report>``, beside what backfills
then really took.
See https://docs.dagster.io/guides/build/jobs
"""

from collections.abc import Mapping

import dagster as dg
from pydantic import Field

from cache_pipeline.bootstrap import quota_headroom
from cache_pipeline.orchestration.naming import asset_key
from cache_pipeline.orchestration.partitions import partition_intervals, report_partitions
from cache_pipeline.orchestration.progress import duration
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.orchestration.run_tags import LANE_TAG
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.service.estimate import plan_backfill
from cache_pipeline.service.planner import Plan
from cache_pipeline.service.report_service import ReportService

ESTIMATE_JOB = "estimate_job"
_MOST_ROWS = 200


class EstimateConfig(dg.Config):
    """Which backfill is meant.

    Attributes:
        report: the report's name.
        first: key of the first partition; by default that of the first there is.
        last: key of the last partition; by default that of the last that has ended.
        again: as if everything were asked for anew, as restatements are.
        lane: whose share of the quota it would have.
    """

    report: str = Field(description="Name of the report")
    first: str | None = Field(None, description="First partition; by default the first there is")
    last: str | None = Field(None, description="Last partition; by default the last that has ended")
    again: bool = Field(default=False, description="As if everything were asked for anew, whatever is held")
    lane: str = Field(Lane.backfill.value, description=f"One of {', '.join(Lane)}")


def estimate_definitions(reports: Mapping[str, Report]) -> dg.Definitions:
    """The job that estimates a backfill of any report."""

    @dg.op(description="Counts what the vendor would be asked for, and how long the quota makes that last")
    async def estimate(context: dg.OpExecutionContext, config: EstimateConfig, engine: EngineResource) -> None:
        with reported_failures():
            report = find_report(dict(reports), config.report)
            settings = engine.settings
            partitions = report_partitions(report, settings.partitions_from, settings.partitions_to)
            wanted = _chosen(partitions, config)
            async with engine.service() as service:
                found = await estimate_backfill(service, engine, report, wanted, _lane(config), again=config.again)
        told = estimate_sentence(found, len(wanted))
        context.log.info(f"{report.name}: {told}")
        context.log_event(
            dg.AssetObservation(
                asset_key("staged", report),
                description=told,
                metadata={
                    "range": f"{next(iter(wanted))}...{next(reversed(wanted))}",
                    "partitions": len(wanted),
                    **estimate_metadata(found),
                    "lane": config.lane,
                    "what would be asked": _chunk_table(found),
                },
            )
        )

    @dg.job(
        name=ESTIMATE_JOB,
        description="What a backfill of a report's partitions would ask of the vendor, and how long it would take; asks nothing",
    )
    def job() -> None:
        estimate()

    return dg.Definitions(jobs=[job])


async def estimate_backfill(
    service: ReportService,
    engine: EngineResource,
    report: Report,
    wanted: Mapping[str, Interval],
    lane: Lane,
    *,
    again: bool,
) -> Plan:
    """The plan of a backfill of some adjacent partitions, as of now."""
    staged = engine.staging().final_partitions(engine.tenant_series(report), wanted)
    span = Interval(min(each.start for each in wanted.values()), max(each.end for each in wanted.values()))
    room = await quota_headroom(engine.settings, report, lane)
    lying = IntervalSet(wanted[key] for key in staged)
    return await plan_backfill(service, report, span, room, staged=lying, refetch=again)


def estimate_sentence(found: Plan, partitions: int) -> str:
    """``100 partitions: 100 queries, about 320 calls and 12 min at the present quota``; answers that are cut off add to it."""
    if not found.chunks:
        return f"{partitions} partitions: all is held, the vendor is asked nothing"
    learned = found.cost is not None and found.cost.is_measured
    basis = "as the latest queries of this report took" if learned else "assumed, for none was sent yet"
    return (
        f"{partitions} partitions: {len(found.chunks)} queries, about {found.calls:.0f} calls and "
        f"{duration(found.seconds)} at the present quota ({basis})"
    )


def estimate_metadata(found: Plan) -> dict[str, float]:
    """The same as numbers to plot."""
    return {
        "estimated calls": round(found.calls),
        "estimated queries": len(found.chunks),
        "estimated minutes": round(found.seconds / 60, 2),
        "of these waiting for the quota": round(found.wait_seconds / 60, 2),
    }


def _chosen(partitions: dg.TimeWindowPartitionsDefinition, config: EstimateConfig) -> dict[str, Interval]:
    first = config.first or partitions.get_first_partition_key()
    last = config.last or partitions.get_last_partition_key()
    every = [str(key) for key in (first, last) if key is not None]
    unknown = [key for key in every if not partitions.has_partition_key(key)]
    if unknown or len(every) < 2:
        raise dg.Failure(
            f"{config.report} has no partition {unknown[0] if unknown else 'that has ended'}: its first is "
            f"{partitions.get_first_partition_key()}, its last {partitions.get_last_partition_key()}",
            allow_retries=False,
        )
    keys = list(partitions.get_partition_keys_in_range(dg.PartitionKeyRange(*every)))
    if not keys:
        raise dg.Failure(f"{every[0]} lies after {every[1]}: give the first partition first", allow_retries=False)
    return partition_intervals(partitions, keys)


def _lane(config: EstimateConfig) -> Lane:
    try:
        return Lane(config.lane)
    except ValueError:
        raise dg.Failure(
            f"{config.lane!r} is no lane ({LANE_TAG}): use {', '.join(Lane)}", allow_retries=False
        ) from None


def _chunk_table(found: Plan) -> dg.TableMetadataValue:
    asked = [step for step in found.steps if step.calls][:_MOST_ROWS]
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"interval": str(each.interval), "why": each.reason, "calls": round(each.calls, 1)})
            for each in asked
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("interval", "string"),
                dg.TableColumn("why", "string"),
                dg.TableColumn("calls", "float"),
            ]
        ),
    )
