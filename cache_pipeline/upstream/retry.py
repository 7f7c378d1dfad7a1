"""Bounded, jittered, exponential repeats of what failed on the vendor's side or on the way there."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.error_bodies import parse_error_body
from cache_pipeline.upstream.http import httpx

T = TypeVar("T")

# Raised before the first byte of a request left this machine.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# Raised when it may have arrived.
MAYBE_SENT = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


class TransientFailure(CachePipelineError):
    """A 5xx answer, read and closed. Stays inside this folder: the transport turns it into an error of the tree."""

    def __init__(self, response: httpx.Response, retry_after: float | None) -> None:
        self.status = response.status_code
        self.retry_after = retry_after
        _, self.vendor_message, self.correlation_id = parse_error_body(response)
        super().__init__(f"{response.status_code} {self.vendor_message or response.reason_phrase}")


class RetriesExhausted(CachePipelineError):
    """The last failure of a request, and how many attempts were made. Stays inside this folder too."""

    def __init__(self, error: TransientFailure | httpx.TransportError, attempts: int) -> None:
        self.error, self.attempts = error, attempts
        self.reason = str(error) or type(error).__name__
        super().__init__(self.reason)


async def retry_with_backoff(
    send: Callable[[], Awaitable[T]],
    may_repeat: Callable[[BaseException], bool],
    policy: RetryPolicy,
    sleep: Callable[[float], Awaitable[object]],
) -> T:
    """Sends until it succeeds, fails in a way that may not be repeated, or has failed `policy.max_attempts` times.

    A fault's Retry-After is waited out where it is longer than the backoff, and not waited for at all where it is longer
    than the policy's patience.

    Raises:
        RetriesExhausted: The last attempt ended in a fault or on the way; other exceptions of `send` pass as they are.
    """
    jitter = random.SystemRandom()
    attempts = 0

    def wait(state: RetryCallState) -> float:
        backoff = min(policy.max_wait_seconds, policy.first_wait_seconds * 2 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome else None
        told = error.retry_after if isinstance(error, TransientFailure) else None
        return max(backoff * jitter.uniform(0.5, 1.0), told or 0.0)

    async def pause(seconds: float) -> None:
        await sleep(seconds)

    def repeat(error: BaseException) -> bool:
        too_long = (
            isinstance(error, TransientFailure) and (error.retry_after or 0.0) > policy.rate_limit_timeout_seconds
        )
        return may_repeat(error) and not too_long

    async def once() -> T:
        nonlocal attempts
        attempts += 1
        return await send()

    retrying = AsyncRetrying(
        stop=stop_after_attempt(policy.max_attempts),
        wait=wait,
        retry=retry_if_exception(repeat),
        sleep=pause,
        reraise=True,
    )
    try:
        return await retrying(once)
    except (TransientFailure, *NEVER_SENT, *MAYBE_SENT) as error:
        raise RetriesExhausted(error, attempts) from error
