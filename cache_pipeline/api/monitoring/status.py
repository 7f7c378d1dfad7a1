"""The state of the deployment for operators: what `/v1/status` returns and the operations page draws."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from cache_pipeline.api import schemas
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.bootstrap.reports import configured_days
from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.lane import Lane
from cache_pipeline.service.status import report_status
from cache_pipeline.storage.ports.ad_hoc_series import AdHocSeriesInfo
from cache_pipeline.storage.ports.ledger import LedgerState
from cache_pipeline.storage.ports.status import FailedJob
from cache_pipeline.upstream.quota import ClientQuota, QuotaPolicy

T = TypeVar("T")

_MAX_FAILED_JOBS = 20
_MAX_AD_HOC_SERIES = 100
#: Results of requests that were answered with figures.
_ANSWERED = ("hit", "not_modified")
_NO_TIER = "none"


async def read_quota(query_service: QueryService) -> schemas.QuotaView:
    """Return the state of each OAuth client, what each lane may send now, further limits, and the month's requests."""
    now = query_service.report_service.clock()
    view = schemas.QuotaView(clients=[], limits=[], months=[])
    for account, (policy, shared) in query_service.quotas.items():
        view.clients += [_client_view(account, policy, each) for each in await shared.snapshot()]
        view.limits += [
            schemas.LimitView(
                account=account,
                name=each.name,
                counts=each.counts,
                limit=each.limit,
                window_seconds=each.window_seconds,
                used=each.used,
            )
            for each in await shared.shared_limits()
        ]
        if (month := await shared.allotment(now)) is not None:
            view.months.append(
                schemas.MonthView(
                    account=account,
                    allotted=month.monthly,
                    used=month.used,
                    expected=month.expected,
                    runs_out_at=month.runs_out_at,
                )
            )
    return view


def _client_view(account: str, policy: QuotaPolicy, client: ClientQuota) -> schemas.ClientQuotaView:
    return schemas.ClientQuotaView(
        account=account,
        client=client.client_id,
        state=client.state,
        limit=policy.limit,
        window_seconds=policy.window_seconds,
        used=client.used,
        in_flight=client.in_flight,
        remaining={
            str(lane): 0 if client.throttled_for_s else max(0, policy.slots(lane) - client.used) for lane in Lane
        },
        throttled_for_seconds=client.throttled_for_s,
        granted_total=client.granted_total,
        rejected_total=client.rejected_total,
    )


async def read_status(query_service: QueryService, tenant: str, days: int) -> schemas.StatusView:
    """Return the state of the deployment.

    While a store is down its parts are None, and `unavailable` says why; the others are still returned.

    Args:
        query_service: The service.
        tenant: The tenant whose failed jobs and ad hoc series are shown.
        days: Number of local days to show of each report.
    """
    unavailable: dict[str, str] = {}

    async def part(name: str, work: Awaitable[T]) -> T | None:
        try:
            return await work
        except CachePipelineError as error:
            unavailable[name] = str(error)
            return None

    status_queries = query_service.status_queries
    async with asyncio.TaskGroup() as group:
        reports = group.create_task(part("reports", _read_reports(query_service, days)))
        today = group.create_task(part("today", _read_today(query_service)))
        quota = group.create_task(part("quota", read_quota(query_service)))
        queries = group.create_task(part("queries", _read_open_queries(query_service)))
        jobs = group.create_task(part("jobs", query_service.jobs.counts()))
        oldest = group.create_task(part("oldestJobSeconds", _read_oldest_job(query_service)))
        workers = group.create_task(part("workers", query_service.heartbeats.count()))
        ad_hoc = group.create_task(part("adHocSeries", query_service.ad_hoc_requests.series(tenant)))
        failed = group.create_task(part("failedJobs", status_queries.failed_jobs(tenant, _MAX_FAILED_JOBS)))
    return schemas.StatusView(
        generated_at=query_service.clock(),
        reports=reports.result(),
        today=today.result(),
        quota=quota.result(),
        queries=_by_name(queries.result()),
        jobs=_by_name(jobs.result()),
        oldest_job_seconds=oldest.result(),
        workers=asdict(counted) if (counted := workers.result()) is not None else None,
        failed_jobs=_views(failed.result()),
        ad_hoc_series=_ad_hoc_views(ad_hoc.result()),
        unavailable=unavailable,
    )


def _by_name(counts: Mapping[Any, int] | None) -> dict[str, int] | None:
    return {str(name): count for name, count in counts.items()} if counts is not None else None


def _views(failed: Sequence[FailedJob] | None) -> list[schemas.FailedJobView] | None:
    if failed is None:
        return None
    return [
        schemas.FailedJobView(
            report=each.report,
            finished_at=each.finished_at,
            type=str(each.problem.get("type", "")),
            detail=str(each.problem.get("detail", "")),
        )
        for each in failed
    ]


def _ad_hoc_views(series: Sequence[AdHocSeriesInfo] | None) -> list[schemas.AdHocSeriesView] | None:
    return None if series is None else [schemas.ad_hoc_series_view(each) for each in series[:_MAX_AD_HOC_SERIES]]


async def _read_open_queries(query_service: QueryService) -> dict[LedgerState, int]:
    return await asyncio.to_thread(query_service.report_service.ledger.open_by_state)


async def _read_oldest_job(query_service: QueryService) -> float:
    return (await query_service.status_queries.job_backlog()).oldest_seconds


async def _read_reports(query_service: QueryService, days: int) -> list[schemas.ReportStatusView]:
    service, now = query_service.report_service, query_service.clock()
    series = {name: service.series(report) for name, report in query_service.reports.items()}
    coverages = await asyncio.to_thread(service.history.coverages, list(series.values()))
    partition_days = configured_days(query_service.settings)
    return [
        schemas.report_status_view(report_status(report, partition_days, coverages[series[name].id], now, days))
        for name, report in query_service.reports.items()
    ]


async def _read_today(query_service: QueryService) -> schemas.TodayView:
    service, now = query_service.report_service, query_service.clock()
    await query_service.counters.flush()
    requests = await query_service.counters.read_requests_of_today()
    series = {name: service.series(report) for name, report in query_service.reports.items()}
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    spent = await query_service.status_queries.vendor_requests(series.values(), midnight)
    by_tier = Counter[str]()
    for (tier, result), count in requests.items():
        # The pages and the health checks have no tier.
        if result in _ANSWERED and tier != _NO_TIER:
            by_tier[tier] += count
    by_report = {name: spent[each.id] for name, each in series.items() if each.id in spent}
    return schemas.TodayView(
        answered=by_tier.total(),
        by_tier=dict(by_tier),
        vendor_requests=sum(by_report.values()),
        vendor_requests_by_report=dict(sorted(by_report.items(), key=lambda item: -item[1])),
    )
