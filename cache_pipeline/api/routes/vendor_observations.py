"""Routes of the vendors' own questions about the present, answered for half a minute by one request to the vendor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from cache_pipeline.api.dependencies import authenticate
from cache_pipeline.api.key_limits import check_query_type, may_query
from cache_pipeline.api.query_service import QueryService, ServedAnswer
from cache_pipeline.api.response_headers import CacheStatusSource
from cache_pipeline.api.routes.vendor_answers import VendorRoute, not_ready, own_headers, rate_limit_headers, read_json
from cache_pipeline.errors import UnknownReport
from cache_pipeline.query.ad_hoc import AD_HOC_PREFIX
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.payload import find_only_account
from cache_pipeline.service.live_answers import LiveAnswers
from cache_pipeline.service.live_observations import LiveObservations
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline.vendors.served import ObservationPath, ObservationQuery, ServedApi

#: A caller who waits no longer than this gets answers that are at hand, but none that have to be asked for.
_LEAST_HOLD_SECONDS = 1


def observation_routes(served: ServedApi) -> list[VendorRoute]:
    """Return the routes of a vendor's questions about the present."""
    return [VendorRoute(path.path, _endpoint(served.vendor, path), methods=["POST"]) for path in served.observations]


def _endpoint(vendor: str, path: ObservationPath) -> Callable[[Request], Awaitable[Response]]:
    # Starlette takes a partial for an application.
    async def answer(request: Request) -> Response:
        return await _answer(vendor, path, request)

    return answer


async def _answer(vendor: str, path: ObservationPath, request: Request) -> Response:
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    check_query_type(caller, path.query_type)
    sent = await request.body()
    query = path.read(read_json(sent))
    live = query_service.report_service.live
    if live is None:
        raise RuntimeError("the service was opened without live reports")
    declared = _find_declared(query_service, caller, vendor, path, query)
    report = declared or _undeclared(query_service, caller, vendor, path)
    hold = max(_LEAST_HOLD_SECONDS, query_service.settings.api.vendor_hold_seconds)
    deadline = asyncio.timeout(hold)
    try:
        async with deadline:
            if query.ids:
                await live.seek_unlisted(report, caller.tenant, query.ids)
            ids = None if declared is not None else await _narrow(live, report, caller.tenant, query)
            answer, is_hot = await LiveObservations(live).answer(report, caller.tenant, ids)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise not_ready(request, 1) from None
    served = ServedAnswer(answer, CacheStatusSource.hot if is_hot else CacheStatusSource.vendor)
    request.state.tier = served.source
    body = query_service.rendered_answers.get(answer, report.name, path.path, sent)
    if body is None:
        body = await asyncio.to_thread(_render, query, answer.body)
        query_service.rendered_answers.store(answer, report.name, path.path, sent, body)
    headers = {"Cache-Control": "no-store", **own_headers(query_service, report, served), **rate_limit_headers(request)}
    return Response(body, headers=headers, media_type="application/json")


def _render(query: ObservationQuery, document: bytes) -> bytes:
    return json.dumps(query.write(json.loads(document)), ensure_ascii=False, separators=(",", ":")).encode()


def _find_declared(
    query_service: QueryService, caller: Principal, vendor: str, path: ObservationPath, query: ObservationQuery
) -> LiveReport | None:
    """Return the declared live report with the fewest metrics that has those of the query."""
    found = [
        report
        for report in query_service.live_reports.values()
        if (report.platform, report.query_type) == (vendor, path.query_type)
        and may_query(caller, report)
        and query.metrics <= set(report.metrics)
    ]
    return min(found, key=lambda report: (len(report.metrics), report.name), default=None)


def _undeclared(query_service: QueryService, caller: Principal, vendor: str, path: ObservationPath) -> LiveReport:
    """Return a live report with all metrics, so that all queries share its answers.

    Raises:
        UnknownReport: The key is bound to reports, or the settings allow declared ones alone.
        InvalidQuery: The vendor has several accounts.
    """
    if caller.reports is not None or not query_service.settings.api.ad_hoc_series:
        raise UnknownReport(f"no live report that this key may query has these metrics of {path.query_type}")
    account = find_only_account(vendor, query_service.report_service.accounts)
    kind = find_vendor(vendor).live[path.query_type]
    return LiveReport.model_validate(
        {
            "name": f"{AD_HOC_PREFIX}{path.query_type}".lower(),
            "description": "What no declared live report holds",
            "platform": vendor,
            "account": account,
            "query_type": path.query_type,
            "group_by": kind.dimensions,
            "metrics": list(kind.metrics),
        }
    )


async def _narrow(live: LiveAnswers, report: LiveReport, tenant: str, query: ObservationQuery) -> Sequence[str] | None:
    """Return the ids that a query names, if all that the vendor lists would take more than one request."""
    if query.ids is None:
        return None
    listed = await live.listed_ids(report, tenant)
    most = find_vendor(report.platform).live[report.query_type].ids_per_request
    return None if len(listed) <= most else sorted(query.ids.intersection(listed))
