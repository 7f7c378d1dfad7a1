"""Ad hoc series: the declaration of a query that no declared report holds, so that its rows are fetched, stored and reused like theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from cache_pipeline.errors import InvalidQuery, QueryError
from cache_pipeline.query.calendar import Step
from cache_pipeline.query.payload import QueryPayload, find_only_account
from cache_pipeline.query.report import DEFAULT_ACCOUNT, Cadence, Report
from cache_pipeline.query.series import Series

#: Begins the names of ad hoc series, which are also the names of their tables.
AD_HOC_PREFIX = "ad_hoc_"
_DIGITS = 16
#: The requests from which a declaration is proposed.
PROPOSAL_REQUESTS = 20
_PROPOSED_DIGITS = 6
#: A proposed report begins so long before its first request: most queries ask for at most two months.
_PROPOSED_PAST = timedelta(days=62)
#: An ad hoc series has no beginning of its own; the vendor's retention limits what is asked of it.
_START = date(2000, 1, 1)


def declare_ad_hoc(payload: QueryPayload, delivery: str, account_ids: Iterable[str]) -> dict[str, Any]:
    """Return the declaration of a series that holds a query, as JSON.

    Queries that differ only in interval and metrics belong to one series. Buckets longer than a week are rolled up from days.

    Args:
        payload: The query, with its granularity, dimensions and metrics.
        delivery: How it is fetched, as a declaration has it.
        account_ids: The vendor accounts of the deployment, such as ``vendor/main``.

    Raises:
        InvalidQuery: There is no such series, or it is not clear which account it belongs to.
    """
    overrides = payload.overrides
    step = _step(overrides.granularity)
    fits_week = step.divides(Cadence.week.step)
    stored = step if fits_week else Cadence.day.step
    partition = Cadence.day if stored.divides(Cadence.day.step) else Cadence.week
    declaration: dict[str, Any] = {
        "name": f"{AD_HOC_PREFIX}series",
        "description": "A query that no declared report holds",
        "platform": payload.platform,
        "query_type": payload.subject,
        "granularity": str(stored),
        "group_by": list(overrides.group_by or ()),
        "metrics": list(overrides.metrics or ()),
        "time_zone": overrides.time_zone or "UTC",
        "partition": str(partition),
        "start": _START.isoformat(),
        "fetch": {"delivery": delivery, "max_query_interval": str(partition.step)},
        "publish": {"tiers": ["history", "hot"]},
    }
    if (account := find_only_account(payload.platform, account_ids)) != DEFAULT_ACCOUNT:
        declaration["account"] = account
    if overrides.filters:
        declaration["filters"] = overrides.filters.declaration.model_dump(mode="json", exclude_defaults=True)
    series = Series(read_ad_hoc(declaration), "")
    return declaration | {"name": f"{AD_HOC_PREFIX}{series.id[:_DIGITS]}"}


def read_ad_hoc(declaration: dict[str, Any]) -> Report:
    """Return the report of a declaration.

    Raises:
        InvalidQuery: A field is wrong.
    """
    try:
        return Report.model_validate(declaration)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "payload"
        raise InvalidQuery(field, first["msg"].removeprefix("Value error, ")) from error


def propose_declaration(
    declaration: Mapping[str, Any], metrics: Iterable[str], first_requested_at: datetime
) -> dict[str, Any]:
    """Return the declaration of a report that would hold all that was asked of a series.

    It has another name, because the table of the series is dropped some time after its last request.
    """
    digits = str(declaration["name"]).removeprefix(AD_HOC_PREFIX)[:_PROPOSED_DIGITS]
    groups = ", ".join(declaration["group_by"])
    return {
        **declaration,
        "name": f"{declaration['query_type']}_{digits}".lower(),
        "description": f"Figures of {declaration['query_type']}{f' by {groups}' if groups else ''}",
        "metrics": sorted(metrics),
        "start": (first_requested_at - _PROPOSED_PAST).date().isoformat(),
    }


def _step(granularity: str | None) -> Step:
    try:
        return Step.parse(granularity or "")
    except QueryError as error:
        raise InvalidQuery("granularity", str(error)) from error
