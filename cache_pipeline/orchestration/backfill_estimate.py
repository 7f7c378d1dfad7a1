"""Estimates of a backfill: the job that makes one before it is launched, and the line in its log when it begins.

``estimate_job`` sends nothing to the vendor. The estimate is recorded as an observation on ``<report>/staged``, beside the
calls and minutes that backfills took. The plan itself comes from ``service.estimate``.
See https://docs.dagster.io/guides/build/jobs
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from cache_pipeline.bootstrap.accounts import quota_headroom
from cache_pipeline.bootstrap.reports import configured_days
from cache_pipeline.orchestration.naming import asset_key
from cache_pipeline.orchestration.partitions import partition_intervals, report_partitions
from cache_pipeline.orchestration.progress import format_duration
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.orchestration.run_tags import LANE_TAG
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report

if TYPE_CHECKING:
    from cache_pipeline.service.plan import Plan
    from cache_pipeline.service.report_service import ReportService

ESTIMATE_JOB = "estimate_job"
_MAX_ROWS = 200


class EstimateConfig(dg.Config):
    """Run config of ``estimate_job``: the backfill to estimate.

    Attributes:
        report: The report's name.
        first: Key of the first partition; by default the report's first.
        last: Key of the last partition; by default the last that has ended.
        refetch: Estimate a refetch of everything, even what history has.
        lane: Lane whose share of the quota the backfill would use.
    """

    report: str = Field(description="Name of the report")
    first: str | None = Field(None, description="First partition (default: the report's first)")
    last: str | None = Field(None, description="Last partition (default: the last that has ended)")
    refetch: bool = Field(default=False, description="Estimate a refetch of everything, even what history has")
    lane: str = Field(Lane.backfill.value, description=f"Lane of the requests: one of {', '.join(Lane)}")


def estimate_definitions(reports: Mapping[str, Report]) -> dg.Definitions:
    """Return the job that estimates a backfill of any report."""

    @dg.op(description="Plan the backfill and estimate its queries, calls and minutes at the current quota")
    async def estimate(
        context: dg.OpExecutionContext, config: EstimateConfig, cache_pipeline__engine: EngineResource
    ) -> None:
        with reported_failures():
            report = find_report(dict(reports), config.report)
            settings = cache_pipeline__engine.settings
            partitions = report_partitions(report, configured_days(settings))
            intervals = _select_intervals(partitions, config)
            async with cache_pipeline__engine.service() as service:
                plan = await estimate_backfill(
                    service, cache_pipeline__engine, report, intervals, _parse_lane(config), refetch=config.refetch
                )
        description = describe_estimate(plan, len(intervals))
        context.log.info(f"{report.name}: {description}")
        context.log_event(
            dg.AssetObservation(
                asset_key("staged", report),
                description=description,
                metadata={
                    "range": f"{next(iter(intervals))}...{next(reversed(intervals))}",
                    "partitions": len(intervals),
                    **estimate_metadata(plan),
                    "lane": config.lane,
                    "planned queries": _query_table(plan),
                },
            )
        )

    @dg.job(
        name=ESTIMATE_JOB,
        description="Estimate the queries, calls and minutes of a backfill; sends nothing to the vendor",
    )
    def job() -> None:
        estimate()

    return dg.Definitions(jobs=[job])


async def estimate_backfill(
    service: "ReportService",
    engine: EngineResource,
    report: Report,
    intervals: Mapping[str, Interval],
    lane: Lane,
    *,
    refetch: bool,
) -> "Plan":
    """Plan a backfill of adjacent partitions, given what is stored and staged now.

    Args:
        service: The report service.
        engine: Provides staging and settings.
        report: The report.
        intervals: Interval by key of the partitions.
        lane: Lane whose share of the quota the backfill uses.
        refetch: Fetch everything, even what history has.
    """
    series = engine.tenant_series(report)
    stored = await asyncio.to_thread(service.history.coverage, series)
    staged_keys = await asyncio.to_thread(engine.staging().final_partitions, series, intervals, stored)
    span = Interval(min(each.start for each in intervals.values()), max(each.end for each in intervals.values()))
    headroom = await quota_headroom(engine.settings, report, lane)
    # As in resources.py, imported by what needs it.
    from cache_pipeline.service.estimate import plan_backfill

    staged = IntervalSet(intervals[key] for key in staged_keys)
    return await plan_backfill(service, report, span, headroom, staged=staged, refetch=refetch)


def describe_estimate(plan: "Plan", partitions: int) -> str:
    """Describe a plan as ``100 partitions: 100 queries, about 320 calls and 12 min at the current quota``.

    Truncated answers, which cannot be foreseen, add to it.
    """
    if not plan.chunks:
        return f"{partitions} partitions: everything is stored already, no queries are needed"
    measured = plan.cost is not None and plan.cost.is_measured
    basis = (
        "measured on the latest queries of this report" if measured else "assumed: no query of this report was sent yet"
    )
    return (
        f"{partitions} partitions: {len(plan.chunks)} queries, about {plan.calls:.0f} calls and "
        f"{format_duration(plan.seconds)} at the current quota ({basis})"
        + ("" if plan.allotment is None else f"; {plan.allotment.describe(plan.calls)}")
    )


def estimate_metadata(plan: "Plan") -> dict[str, float]:
    """Return the estimate as figures that Dagster plots."""
    return {
        "estimated calls": round(plan.calls),
        "estimated queries": len(plan.chunks),
        "estimated minutes": round(plan.seconds / 60, 2),
        "estimated minutes waiting for quota": round(plan.wait_seconds / 60, 2),
        **({} if plan.allotment is None else {"share of the month's requests": plan.allotment.share(plan.calls)}),
    }


def _select_intervals(partitions: dg.TimeWindowPartitionsDefinition, config: EstimateConfig) -> dict[str, Interval]:
    first = config.first or partitions.get_first_partition_key()
    last = config.last or partitions.get_last_partition_key()
    ends = [str(key) for key in (first, last) if key is not None]
    unknown = [key for key in ends if not partitions.has_partition_key(key)]
    if unknown or len(ends) < 2:
        raise dg.Failure(
            f"{config.report} has no partition {unknown[0] if unknown else 'that has ended'}; its first is "
            f"{partitions.get_first_partition_key()}, its last {partitions.get_last_partition_key()}",
            allow_retries=False,
        )
    keys = list(partitions.get_partition_keys_in_range(dg.PartitionKeyRange(*ends)))
    if not keys:
        raise dg.Failure(f"{ends[0]} is after {ends[1]}: give the first partition first", allow_retries=False)
    return partition_intervals(partitions, keys)


def _parse_lane(config: EstimateConfig) -> Lane:
    try:
        return Lane(config.lane)
    except ValueError:
        raise dg.Failure(
            f"lane {config.lane!r} is unknown ({LANE_TAG}); expected one of {', '.join(Lane)}", allow_retries=False
        ) from None


def _query_table(plan: "Plan") -> dg.TableMetadataValue:
    steps = [step for step in plan.steps if step.calls][:_MAX_ROWS]
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"interval": str(step.interval), "reason": step.reason, "calls": round(step.calls, 1)})
            for step in steps
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("interval", "string"),
                dg.TableColumn("reason", "string"),
                dg.TableColumn("calls", "float"),
            ]
        ),
    )
