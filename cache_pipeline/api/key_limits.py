"""What a key is limited to, beside its tenant and its reports: paths, query types, and divisions as a filter that no query can leave out.

A route that does not apply that filter is closed to keys that are limited to divisions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from cache_pipeline.api.problems import Problem
from cache_pipeline.errors import InvalidQuery, QueryError
from cache_pipeline.path_patterns import raw_path
from cache_pipeline.query.filters import Filter, FilterDeclaration, Predicate
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.payload import QueryPayload
from cache_pipeline.query.query_request import QueryOverrides
from cache_pipeline.query.report import Report
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.vendors.registry import find_vendor

_OWN_PREFIX = "/v1/"
_KEEPS_DIVISIONS = "keeps_divisions"
EndpointT = TypeVar("EndpointT", bound=Callable[[Request], Awaitable[Response]])


def keeps_divisions(endpoint: EndpointT) -> EndpointT:
    """Mark an endpoint at a vendor's path that applies the filter of keys which are limited to divisions."""
    setattr(endpoint, _KEEPS_DIVISIONS, True)
    return endpoint


def check_request(caller: Principal, request: Request) -> None:
    """Refuse a request at a path that the caller's key may not use.

    Raises:
        Problem: 403.
    """
    scope = request.scope
    path = raw_path(scope)
    if caller.paths is not None and not any(pattern.admits(scope["method"], path) for pattern in caller.paths):
        raise Problem("forbidden", 403, "this key may not use this path: it was created for others")
    is_filtered = path.startswith(_OWN_PREFIX) or getattr(scope.get("endpoint"), _KEEPS_DIVISIONS, False)
    if caller.divisions is not None and not is_filtered:
        raise Problem(
            "forbidden",
            403,
            "this key may not use this path: it is limited to divisions, and what is here does not name them",
        )


def may_query(caller: Principal, report: Report | LiveReport) -> bool:
    """Return whether the caller may query a report.

    What has several divisions at once cannot be filtered by them afterwards, so a caller that is limited to divisions sees the
    reports whose own filter names no other ones.
    """
    if not caller.may_query(report.name) or not caller.may_ask(report.query_type):
        return False
    if caller.divisions is None:
        return True
    dimension = find_vendor(report.platform).division_dimension
    if dimension is None or not isinstance(report, Report):
        return False
    named = report.filters.named_values(dimension)
    return named is not None and caller.divisions.issuperset(named)


def check_query_type(caller: Principal, query_type: str) -> None:
    """Refuse a query of a type that the caller's key may not ask for.

    Raises:
        Problem: 403.
    """
    if not caller.may_ask(query_type):
        raise Problem("forbidden", 403, f"this key may not query {query_type}: it was created for other query types")


def check_account_access(caller: Principal, tenant: str, action: str) -> None:
    """Refuse a key that does not see all figures of the deployment's vendor account, whose own answers cannot be limited.

    Args:
        caller: The caller.
        tenant: The tenant of the account.
        action: What the caller may not do, such as ``read details``.

    Raises:
        Problem: 403.
    """
    if caller.reports is not None:
        reason = "it is bound to reports"
    elif caller.tenant != tenant:
        reason = "it is of another tenant than the vendor's account"
    else:
        return
    raise Problem("forbidden", 403, f"this key may not {action}: {reason}")


def limit_overrides(caller: Principal, platform: str, overrides: QueryOverrides) -> QueryOverrides:
    """Return what a query changes in its report, with the filter that the caller is limited to.

    Raises:
        InvalidQuery: The query is for other divisions alone.
        Problem: 403 if the vendor's figures do not name their division.
    """
    if caller.divisions is None:
        return overrides
    dimension = find_vendor(platform).division_dimension
    if dimension is None:
        raise Problem("forbidden", 403, f"this key is limited to divisions, which figures of {platform} do not name")
    predicate = Predicate(dimension=dimension, values=tuple(sorted(caller.divisions)))
    permitted = Filter.from_conjunctions(FilterDeclaration(predicates=(predicate,)).to_conjunctions())
    try:
        return replace(overrides, filters=overrides.filters.intersect(permitted) if overrides.filters else permitted)
    except QueryError as error:
        raise InvalidQuery("filters", f"{error}; this key is limited to divisions") from error


def limit_payload(caller: Principal, payload: QueryPayload) -> QueryPayload:
    """Return a query in a vendor's form with the filter that the caller is limited to; see `limit_overrides`."""
    overrides = limit_overrides(caller, payload.platform, payload.overrides)
    return payload if overrides is payload.overrides else replace(payload, overrides=overrides)
