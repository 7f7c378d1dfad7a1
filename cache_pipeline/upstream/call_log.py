"""Writes one log line and one span for each request to a vendor."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from cache_pipeline.query.lane import Lane
from cache_pipeline.telemetry.spans import annotate, span
from cache_pipeline.upstream.dialect import shown_path
from cache_pipeline.upstream.error_bodies import vendor_request_id
from cache_pipeline.upstream.http import httpx

logger = logging.getLogger(__name__)


@dataclass
class UpstreamCall:
    """A request in progress; ``response`` is set once it is answered."""

    response: httpx.Response | None = None


@contextmanager
def log_call(account: str, oauth_client: str, lane: Lane, request: httpx.Request) -> Generator[UpstreamCall]:
    """Log one request when the block ends, with or without an error. Secrets in its address are left out."""
    started, call, path = time.monotonic(), UpstreamCall(), shown_path(request)
    with span(
        "upstream call",
        account=account,
        oauth_client=oauth_client,
        lane=lane,
        method=request.method,
        path=path,
    ) as current:
        try:
            yield call
        finally:
            status = call.response.status_code if call.response is not None else None
            request_id = vendor_request_id(call.response) if call.response is not None else None
            annotate(current, status=status, vendor_correlation_id=request_id)
            logger.info(
                "%s %s: %s",
                request.method,
                path,
                status or "no answer",
                extra={
                    "account": account,
                    "oauth_client": oauth_client,
                    "lane": str(lane),
                    "status": status,
                    "seconds": round(time.monotonic() - started, 4),
                    "vendor_correlation_id": request_id,
                },
            )
