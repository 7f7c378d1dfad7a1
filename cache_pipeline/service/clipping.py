"""The part of a request whose buckets have begun, as a canonical query; needs no store."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from cache_pipeline.query.query_request import QueryRequest
from cache_pipeline.query.retention import clip_to_now, future_interval_error
from cache_pipeline.query.series import CanonicalQuery


def clip_request(request: QueryRequest, now: datetime, tenant: str) -> CanonicalQuery:
    """Return the query of a tenant for the part of a request whose buckets have begun.

    Raises:
        InvalidInterval: No bucket has begun.
    """
    elapsed = clip_to_now(request.interval, request.requested, now)
    if elapsed is None:
        raise future_interval_error(request.interval)
    query = replace(request, interval=elapsed).canonical_query(tenant)
    if not request.is_rolled_up:
        return query
    return replace(query, elapsed=clip_to_now(elapsed, request.declared, now))
