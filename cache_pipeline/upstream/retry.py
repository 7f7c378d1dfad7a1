"""Retries requests that failed at the vendor or on the way there: bounded, exponential, with jitter."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.error_bodies import parse_error_body
from cache_pipeline.upstream.http import httpx

T = TypeVar("T")

#: Retries of a request that the vendor answered with 504.
MAX_TIMEOUT_RETRIES = 1

# Raised before the first byte of a request left this machine.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# Raised when the request may have arrived.
MAYBE_SENT = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


class TransientFailure(CachePipelineError):
    """A 5xx answer, read and closed. Internal to this package: the transport converts it to a public error."""

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


async def retry_with_backoff(
    send: Callable[[], Awaitable[T]],
    may_retry: Callable[[BaseException], bool],
    policy: RetryPolicy,
    sleep: Callable[[float], Awaitable[object]],
) -> T:
    """Send until it succeeds, fails in a way that may not be retried, or has failed `policy.max_attempts` times.

    If a failure's Retry-After is longer than the backoff, wait that long. If it is longer than
    `policy.rate_limit_timeout_seconds`, do not retry at all.

    Raises:
        RetriesExhausted: The last attempt failed at the vendor or on the way; other exceptions of `send` pass unchanged.
    """
    jitter = random.SystemRandom()
    attempts = timeouts = 0

    def wait(state: RetryCallState) -> float:
        backoff = min(policy.max_wait_seconds, policy.first_wait_seconds * 2 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome else None
        retry_after = error.retry_after if isinstance(error, TransientFailure) else None
        return max(backoff * jitter.uniform(0.5, 1.0), retry_after or 0.0)

    async def pause(seconds: float) -> None:
        await sleep(seconds)

    def should_retry(error: BaseException) -> bool:
        nonlocal timeouts
        retry_after = error.retry_after if isinstance(error, TransientFailure) else None
        if isinstance(error, TransientFailure) and error.status == 504:
            # A vendor that runs out of time twice will again: the caller asks for a shorter interval instead.
            timeouts += 1
        is_hopeless = timeouts > MAX_TIMEOUT_RETRIES
        return may_retry(error) and not is_hopeless and (retry_after or 0.0) <= policy.rate_limit_timeout_seconds

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
