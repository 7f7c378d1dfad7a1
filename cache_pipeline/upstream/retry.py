"""Retries requests that failed at the vendor or on the way there: bounded, exponential, with jitter."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from cache_pipeline.errors import CachePipelineError, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.dialect import shown_path
from cache_pipeline.upstream.error_bodies import parse_error_body
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota.model import MAX_PAUSE_SECONDS

T = TypeVar("T")

#: Retries of a request that the vendor answered with 504.
MAX_TIMEOUT_RETRIES = 1

# Raised before the first byte of a request left this machine.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# Raised when the request may have arrived.
MAYBE_SENT = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


#: The vendor did not receive the whole request, or would not process it yet: it was certainly not accepted.
NOT_RECEIVED = frozenset({408, 425})


def is_transient(status: int) -> bool:
    """Return whether the same request may succeed a little later."""
    return status >= 500 or status in NOT_RECEIVED


class TransientFailure(CachePipelineError):
    """A 5xx, 408 or 425 answer, read and closed. Internal to this package: the transport converts it to a public error."""

    def __init__(self, response: httpx.Response, retry_after: float | None) -> None:
        self.status = response.status_code
        self.retry_after = retry_after
        _, self.vendor_message, self.correlation_id = parse_error_body(response)
        super().__init__(f"{response.status_code} {self.vendor_message or response.reason_phrase}")


class RetriesExhausted(CachePipelineError):
    """The last failure of a request, and the number of attempts. Internal to this package, as is `TransientFailure`."""

    def __init__(self, error: TransientFailure | httpx.TransportError, attempts: int) -> None:
        self.error, self.attempts = error, attempts
        self.reason = str(error) or type(error).__name__
        super().__init__(self.reason)

    def public_error(
        self, request: httpx.Request, *, purpose: str = "", mask: Callable[[str], str] = str
    ) -> UpstreamFaulted | UpstreamUnreachable:
        """Return the error for callers of this package.

        Args:
            request: The request.
            purpose: What it was for, if that is not a query.
            mask: Removes secrets from what the vendor says.
        """
        if not isinstance(self.error, TransientFailure):
            reason = f"{purpose}: {self.reason}" if purpose else self.reason
            return UpstreamUnreachable(host=request.url.host, reason=reason, attempts=self.attempts)
        return UpstreamFaulted(
            status=self.error.status,
            method=request.method,
            path=shown_path(request),
            attempts=self.attempts,
            message=mask(self.error.vendor_message or ""),
            correlation_id=self.error.correlation_id,
            retry_after=_demanded_pause(self.error),
        )


async def retry_with_backoff(
    send: Callable[[], Awaitable[T]],
    may_retry: Callable[[BaseException], bool],
    policy: RetryPolicy,
    sleep: Callable[[float], Awaitable[object]],
) -> T:
    """Send until it succeeds, fails in a way that may not be retried, or has failed `policy.max_attempts` times.

    If a failure's Retry-After is longer than the backoff, wait that long, but no longer than the quota would. Do not retry if
    all waits together would exceed `policy.rate_limit_timeout_seconds`.

    Raises:
        RetriesExhausted: The last attempt failed at the vendor or on the way; other exceptions of `send` pass unchanged.
    """
    jitter = random.SystemRandom()
    attempts = timeouts = 0
    waited = 0.0

    def wait(state: RetryCallState) -> float:
        backoff = min(policy.max_wait_seconds, policy.first_wait_seconds * 2 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome else None
        return max(backoff * jitter.uniform(0.5, 1.0), _demanded_pause(error))

    async def pause(seconds: float) -> None:
        nonlocal waited
        waited += seconds
        await sleep(seconds)

    def should_retry(error: BaseException) -> bool:
        nonlocal timeouts
        if isinstance(error, TransientFailure) and error.status == 504:
            # A vendor that runs out of time twice will again: the caller asks for a shorter interval instead.
            timeouts += 1
        is_hopeless = timeouts > MAX_TIMEOUT_RETRIES
        is_in_time = waited + _demanded_pause(error) <= policy.rate_limit_timeout_seconds
        return may_retry(error) and not is_hopeless and is_in_time

    async def send_once() -> T:
        nonlocal attempts
        attempts += 1
        return await send()

    retrying = AsyncRetrying(
        stop=stop_after_attempt(policy.max_attempts),
        wait=wait,
        retry=retry_if_exception(should_retry),
        sleep=pause,
        reraise=True,
    )
    try:
        return await retrying(send_once)
    except (TransientFailure, *NEVER_SENT, *MAYBE_SENT) as error:
        raise RetriesExhausted(error, attempts) from error


def _demanded_pause(error: BaseException | None) -> float:
    """Return the seconds of the vendor's Retry-After, as far as they are believed."""
    retry_after = error.retry_after if isinstance(error, TransientFailure) else None
    return min(retry_after or 0.0, MAX_PAUSE_SECONDS)
