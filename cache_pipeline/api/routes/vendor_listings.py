"""Routes of the vendors' own listings, such as that of queues, answered from stored names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cache_pipeline.api.dependencies import authenticate
from cache_pipeline.api.key_limits import keeps_divisions, may_query
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.api.routes.vendor_answers import VendorRoute, rate_limit_headers
from cache_pipeline.query.names import NameSelection
from cache_pipeline.query.payload import find_only_account
from cache_pipeline.service.names import needed_lookups
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ports.names import NameScope
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline.vendors.served import ListingPath, ServedApi
from cache_pipeline.vendors.spec import Lookup


def listing_routes(served: ServedApi) -> list[VendorRoute]:
    """Return the routes of a vendor's listings."""
    lookups = {lookup.name: lookup for lookup in find_vendor(served.vendor).lookups}
    return [
        VendorRoute(path.path, _endpoint(served.vendor, lookups[path.lookup], path), methods=["GET"])
        for path in served.listings
    ]


def _endpoint(vendor: str, lookup: Lookup, path: ListingPath) -> Callable[[Request], Awaitable[Response]]:
    # Starlette takes a partial for an application.
    async def answer(request: Request) -> Response:
        return await _answer(vendor, lookup, path, request)

    # Its entries are divisions, so those of the key are known by their ids.
    return keeps_divisions(answer) if find_vendor(vendor).division_dimension in lookup.dimensions else answer


async def _answer(vendor: str, lookup: Lookup, path: ListingPath, request: Request) -> Response:
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    _check_permission(query_service, caller, vendor, lookup)
    service = query_service.report_service
    if service.listings is None:
        raise RuntimeError("the service was opened without listings")
    listing = path.read(request.query_params.multi_items())
    account = find_only_account(vendor, service.accounts)
    scope = NameScope(caller.tenant, f"{vendor}/{account}")
    selection = _limit(caller, listing.selection)
    page, listed_at = await service.listings.page(scope, lookup, selection)
    age = max(0, int((query_service.clock() - listed_at).total_seconds()))
    headers = {"Cache-Control": "no-store", "Age": str(age), **rate_limit_headers(request)}
    return JSONResponse(listing.write(page), headers=headers)


def _limit(caller: Principal, selection: NameSelection) -> NameSelection:
    """Return those of some divisions that the caller may see."""
    if caller.divisions is None:
        return selection
    ids = caller.divisions if selection.ids is None else caller.divisions.intersection(selection.ids)
    return replace(selection, ids=tuple(sorted(ids)))


def _check_permission(query_service: QueryService, caller: Principal, vendor: str, lookup: Lookup) -> None:
    """Let a key that is bound to reports list only what one of them has the ids of."""
    if caller.reports is None:
        return
    service = query_service.report_service
    permitted = (report for report in query_service.reports.values() if may_query(caller, report))
    if not any(
        report.platform == vendor and lookup in needed_lookups(report, service.columns(report)) for report in permitted
    ):
        raise Problem("forbidden", 403, f"no report that this key may query has ids of {lookup.name}")
