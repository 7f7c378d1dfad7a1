"""The one door to a vendor: quota, tokens and repeats happen here, so that code above sees only answers (G14)."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cache_pipeline.errors import (
    AmbiguousSubmit,
    ClientUnknown,
    LoginRefused,
    UpstreamError,
    UpstreamFaulted,
    UpstreamRefused,
    UpstreamUnreachable,
)
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.call_log import log_call
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import TokenSource
from cache_pipeline.upstream.quota import Grant, Quota
from cache_pipeline.upstream.rate_headers import read_hints
from cache_pipeline.upstream.response_body import read_whole_body
from cache_pipeline.upstream.retry import MAYBE_SENT, NEVER_SENT, RetriesExhausted, TransientFailure, retry_with_backoff

_log = logging.getLogger(__name__)

#: Answers to a request that surely was not taken: what it waits for is a slot or a token.
_NOT_TAKEN = frozenset({401, 429})
_SAFE_TO_REPEAT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


@dataclass(frozen=True)
class _PendingRequest:
    """What a request says about itself, and its body, kept so that it can be sent again."""

    request: httpx.Request
    body: bytes
    lane: Lane
    pinned: str | None
    idempotent: bool
    streamed: bool


class QuotaTransport(httpx.AsyncBaseTransport):
    """Sends a request once the shared quota grants it, signed with the token of the granted client.

    A request says by `extensions` who is asking: `lane` (a Lane; interactive if absent), `oauth_client` (the id of the one
    client that will do), `idempotent` (True for a POST that may be sent twice, such as a synchronous query) and `streamed`
    (True for a body too large to be held: it is then left on the wire, and not asked for again if it breaks off). The
    answer's `extensions["oauth_client"]` names the client used.

    What is sent again, unseen by the caller:

    * a 429, as often as needed within `retries.rate_limit_timeout_seconds` seconds, when the quota lets it (G18);
    * a 401 to a token that should still live: renewed once, sent once more (G23);
    * a 5xx, a timeout or a broken connection, with bounded backoff, if the request may be sent twice. Any other request, a
      submit, is sent again only where it was surely not taken: it never left (no connection), or a 503 says by Retry-After
      that the vendor turned it away and when to come back. A bare 503, a 502 or a 504 may come from a proxy that had already
      passed it on, so they are ambiguous, as is a timeout.

    A submit whose caller is cancelled while it is on the wire is carried to its end, and the caller gets the answer all the same:
    what the vendor took must not be forgotten. One that still waits for its grant, or that was surely not taken, is cancelled
    there and then; whoever cannot wait for the answer cancels once more.

    Only requests to the vendor's own origin are counted and signed. A result that lies elsewhere (a pre-signed URL in object
    storage) is fetched without the vendor's token, which would otherwise leak to a stranger.

    Args:
        inner: What really sends.
        origin: The vendor's address, whose scheme, host and port say what is its own.
        platform: Its name, for messages.
        quota: The shared quota.
        tokens: Client id to its token source; the same ids as the quota's.
        retries: How patient to be.
        sleep: Waits so many seconds between repeats.
        clock: Seconds that only grow.
        now: The wall clock, for a Retry-After that is a date.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        *,
        origin: httpx.URL,
        platform: str,
        quota: Quota,
        tokens: Mapping[str, TokenSource],
        retries: RetryPolicy,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._inner = inner
        self._origin = _origin_of(origin)
        self._platform = platform
        self._quota = quota
        self._tokens = dict(tokens)
        self._retries = retries
        self._sleep = sleep
        self._clock = clock
        self._now = now

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request and gives its answer: 2xx, 3xx or 4xx other than 429.

        Raises:
            UpstreamUnreachable: No answer after bounded repeats.
            UpstreamFaulted: A 5xx that stayed.
            AmbiguousSubmit: A request that may not be sent twice was sent, and it is not known whether it was taken.
            LoginRefused: No client of the pool, or not the pinned one, can log in.
            ClientUnknown: The pinned client is not configured.
            QuotaUnavailable: Redis is away and the lane is backfill.
            UpstreamRefused: Still 429 after `retries.rate_limit_timeout_seconds`.
        """
        errand = await self._errand(request)
        send = self._send_granted if _origin_of(request.url) == self._origin else self._send_unsigned
        try:
            return await retry_with_backoff(
                lambda: send(errand), lambda error: _may_repeat(error, errand), self._retries, self._sleep
            )
        except RetriesExhausted as gave_up:
            raise _record_answer(gave_up, errand) from gave_up.__cause__

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()

    async def _errand(self, request: httpx.Request) -> _PendingRequest:
        pinned = request.extensions.get("oauth_client")
        if pinned is not None and pinned not in self._tokens:
            raise ClientUnknown(client_id=str(pinned), platform=self._platform, known=sorted(self._tokens))
        return _PendingRequest(
            request=request,
            body=await request.aread(),
            lane=Lane(request.extensions.get("lane", Lane.interactive)),
            pinned=pinned,
            idempotent=request.method in _SAFE_TO_REPEAT or request.extensions.get("idempotent") is True,
            streamed=request.extensions.get("streamed") is True,
        )

    async def _send_unsigned(self, errand: _PendingRequest) -> httpx.Response:
        response = await self._inner.handle_async_request(_copy(errand, token=None))
        return await self._checked(response, errand)

    async def _send_granted(self, errand: _PendingRequest) -> httpx.Response:
        pinned, renewed, first_refusal = errand.pinned, set[str](), None
        while True:
            try:
                async with asyncio.timeout(self._patience_left(first_refusal)):
                    grant, token = await self._admit(errand.lane, pinned)
            except TimeoutError:
                raise _too_patient(errand, self._retries.rate_limit_timeout_seconds) from None
            except LoginRefused:
                if pinned == errand.pinned:
                    raise
                # Pinned only to renew a token, and that was refused: the rest of the pool may do.
                pinned = errand.pinned
                continue
            exchange = self._exchanged if errand.idempotent else self._carried
            response = await exchange(errand, grant, token)
            if response.status_code == 429:
                await response.aclose()
                first_refusal = self._clock() if first_refusal is None else first_refusal
            elif response.status_code == 401 and grant.client_id not in renewed:
                await response.aclose()
                await self._tokens[grant.client_id].invalidate(token)
                renewed.add(grant.client_id)
                pinned = grant.client_id
            else:
                response.extensions["oauth_client"] = grant.client_id
                return await self._checked(response, errand) if response.status_code in _NOT_TAKEN else response

    async def _carried(self, errand: _PendingRequest, grant: Grant, token: str) -> httpx.Response:
        """The same for a request that may not be sent twice: a caller who is cancelled once does not break it off."""
        exchange = asyncio.ensure_future(self._exchanged(errand, grant, token))
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError as cancelled:
            try:
                response = await exchange
            except Exception as error:
                if _may_repeat(error, errand):
                    raise cancelled from error
                raise
            if response.status_code in _NOT_TAKEN:
                await response.aclose()
                raise
            return response

    async def _exchanged(self, errand: _PendingRequest, grant: Grant, token: str) -> httpx.Response:
        """Sends, and reads the answer; a refusal that may be waited out is left unread."""
        with log_call(self._platform, grant.client_id, errand.lane, errand.request) as call:
            response = call.response = await self._send_once(errand, grant, token)
        return response if response.status_code in _NOT_TAKEN else await self._checked(response, errand)

    async def _admit(self, lane: Lane, pinned: str | None) -> tuple[Grant, str]:
        """Takes a grant whose client has a young token, passing over clients that cannot log in."""
        while True:
            grant = await self._quota.acquire(lane, pinned, without=self._cannot_log_in(pinned))
            source = self._tokens[grant.client_id]
            if (token := source.fresh) is not None:
                return grant, token
            # A login may take long: meanwhile others may have the slot, and the hold of a slot must not run out.
            await self._quota.release(grant)
            try:
                await source.token()
            except LoginRefused as error:
                _log.error("%s: %s", self._platform, error)

    def _cannot_log_in(self, pinned: str | None) -> frozenset[str]:
        refused = {client_id: refusal for client_id, each in self._tokens.items() if (refusal := each.refusal)}
        hopeless = [pinned] if pinned in refused else sorted(refused) if len(refused) == len(self._tokens) else []
        if hopeless:
            last = refused[hopeless[0]]
            raise LoginRefused(client_ids=hopeless, login_url=last.login_url, reason=last.reason)
        return frozenset(refused)

    async def _send_once(self, errand: _PendingRequest, grant: Grant, token: str) -> httpx.Response:
        """Sends, and tells the quota what came of it, whatever came of it."""
        try:
            response = await self._within_hold(_copy(errand, token))
        except NEVER_SENT:
            await self._quota.release(grant)
            raise
        except BaseException:
            await self._quota.settle(grant, remaining=None, retry_after=None, rejected=False)
            raise
        try:
            hints = read_hints(response.headers, self._now())
            await self._quota.settle(
                grant,
                remaining=hints.remaining,
                retry_after=hints.retry_after,
                rejected=response.status_code == 429,
                status=response.status_code,
            )
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _within_hold(self, request: httpx.Request) -> httpx.Response:
        # The quota holds the slot for so long and no longer; a single read timeout does not bound a slow trickle.
        hold = self._quota.policy.in_flight_seconds
        try:
            async with asyncio.timeout(hold):
                return await self._inner.handle_async_request(request)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer within {hold:g} s", request=request) from None

    async def _checked(self, response: httpx.Response, errand: _PendingRequest) -> httpx.Response:
        """Gives the answer with its body, or raises it if it is the vendor's fault."""
        faulted = response.status_code >= 500
        await read_whole_body(response, streamed=errand.streamed and not faulted, host=errand.request.url.host)
        if faulted:
            raise TransientFailure(response, read_hints(response.headers, self._now()).retry_after)
        return response

    def _patience_left(self, first_refusal: float | None) -> float | None:
        if first_refusal is None:
            return None
        return max(0.0, first_refusal + self._retries.rate_limit_timeout_seconds - self._clock())


def _origin_of(url: httpx.URL) -> tuple[str, str, int | None]:
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, url.port or default


def _copy(errand: _PendingRequest, token: str | None) -> httpx.Request:
    # A copy, so that the request which the caller can see never carries the token.
    headers = errand.request.headers.copy()
    headers.pop("Authorization", None)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Request(
        errand.request.method,
        errand.request.url,
        headers=headers,
        content=errand.body,
        extensions=errand.request.extensions,
    )


def _may_repeat(error: BaseException, errand: _PendingRequest) -> bool:
    if isinstance(error, NEVER_SENT):
        return True
    if isinstance(error, TransientFailure):
        return errand.idempotent or (error.status == 503 and error.retry_after is not None)
    return isinstance(error, MAYBE_SENT) and errand.idempotent


def _record_answer(gave_up: RetriesExhausted, errand: _PendingRequest) -> UpstreamError:
    """Says in the words of the error tree what the last attempt ended with."""
    method, url, error = errand.request.method, errand.request.url, gave_up.error
    if isinstance(error, TransientFailure):
        turned_away = error.status == 503 and error.retry_after is not None
        ambiguous = error.status in (502, 503, 504) and not turned_away
    else:
        ambiguous = not isinstance(error, NEVER_SENT)
    if ambiguous and not errand.idempotent:
        return AmbiguousSubmit(method=method, path=url.path, reason=gave_up.reason)
    if isinstance(error, TransientFailure):
        return UpstreamFaulted(
            status=error.status,
            method=method,
            path=url.path,
            attempts=gave_up.attempts,
            message=error.vendor_message,
            correlation_id=error.correlation_id,
        )
    return UpstreamUnreachable(host=url.host, reason=gave_up.reason, attempts=gave_up.attempts)


def _too_patient(errand: _PendingRequest, patience: float) -> UpstreamRefused:
    return UpstreamRefused(
        status=429,
        method=errand.request.method,
        path=errand.request.url.path,
        message=f"the vendor's rate limit still holds after {patience:g} s of waiting; ask for less, or more slowly",
    )
