"""Sends the requests that no quota counts: logins, and discovery of addresses."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota.model import MAX_IN_FLIGHT_SECONDS
from cache_pipeline.upstream.rate_headers import parse_rate_headers
from cache_pipeline.upstream.response_body import read_whole_body
from cache_pipeline.upstream.retry import (
    MAYBE_SENT,
    NEVER_SENT,
    RetriesExhausted,
    TransientFailure,
    is_transient,
    retry_with_backoff,
)

#: Sends one request, outside the quota.
Send = Callable[[httpx.Request], Awaitable[httpx.Response]]


async def send_uncounted(
    send: Send,
    request: httpx.Request,
    retries: RetryPolicy,
    *,
    purpose: str,
    mask: Callable[[str], str] = str,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    timeout_seconds: float = MAX_IN_FLIGHT_SECONDS,
) -> httpx.Response:
    """Send a request until it is answered otherwise than by a 429 or a failure, and return the answer, read.

    Args:
        send: Sends it once.
        request: The request, which may be sent several times.
        retries: How often.
        purpose: What it is for, for messages.
        mask: Removes secrets from what the answer says.
        sleep: Waits for the given seconds between retries.
        timeout_seconds: How long one answer may take, its body included.

    Raises:
        UpstreamUnreachable: No answer after bounded retries.
        UpstreamFaulted: Still a 5xx or 429 after bounded retries.
    """

    async def send_once() -> httpx.Response:
        try:
            async with asyncio.timeout(timeout_seconds):
                response = await read_whole_body(await send(request), streamed=False, host=request.url.host)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer within {timeout_seconds:g} s", request=request) from None
        response.request = request
        if is_transient(response.status_code) or response.status_code == 429:
            raise TransientFailure(response, parse_rate_headers(response.headers, datetime.now(UTC)).retry_after)
        return response

    try:
        return await retry_with_backoff(
            send_once,
            lambda error: isinstance(error, (TransientFailure, *NEVER_SENT, *MAYBE_SENT)),
            retries,
            sleep,
        )
    except RetriesExhausted as exhausted:
        # Without its cause, whose text is not masked.
        raise exhausted.public_error(request, purpose=purpose, mask=mask) from None
