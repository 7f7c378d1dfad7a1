"""The transport to a vendor: it applies quota, tokens and retries, so that code above sees only answers (G14)."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from cache_pipeline.errors import (
    AmbiguousSubmit,
    ClientUnknown,
    LoginRefused,
    UpstreamError,
    UpstreamRefused,
)
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.request_lane import RaisableLane, RequestLane, current_priority
from cache_pipeline.upstream.call_log import log_call
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.dialect import COMMON_DIALECT, DIALECT, SHOWN_PATH, Dialect, NamedLimit, shown_path
from cache_pipeline.upstream.error_bodies import read_named_limit
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import TokenSource
from cache_pipeline.upstream.quota import Grant, Purpose
from cache_pipeline.upstream.quota.quota import Quota
from cache_pipeline.upstream.rate_headers import parse_rate_headers
from cache_pipeline.upstream.response_body import read_whole_body
from cache_pipeline.upstream.retry import (
    MAYBE_SENT,
    NEVER_SENT,
    NOT_RECEIVED,
    RetriesExhausted,
    TransientFailure,
    is_transient,
    retry_with_backoff,
)

logger = logging.getLogger(__name__)

#: Statuses of a request that the vendor certainly did not accept: it waits for a slot or a token.
_NOT_ACCEPTED = frozenset({401, 429})
_REFUSAL_BODY_SECONDS = 2.0
_IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


@dataclass(frozen=True)
class _PendingRequest:
    """A request, its options, and its body, which is kept so that it can be sent again.

    Attributes:
        request: The request of the caller.
        body: Its whole body.
        lane: Its priority.
        pinned_client: Id of the only OAuth client to use; None for any.
        is_idempotent: It may be sent twice.
        is_streamed: The body of the answer is left unread.
        purpose: What it is for, as far as limits depend on it.
    """

    request: httpx.Request
    body: bytes
    lane: RequestLane
    pinned_client: str | None
    is_idempotent: bool
    is_streamed: bool
    purpose: Purpose

    @property
    def current_lane(self) -> Lane:
        """The lane in which it waits or was sent."""
        return current_priority(self.lane).lane


class QuotaTransport(httpx.AsyncBaseTransport):
    """Sends a request once the shared quota grants it, signed with the token of the granted client.

    A request's `extensions` hold its options: `lane` (a RequestLane; interactive if absent), `oauth_client` (the id of the only client to
    use), `idempotent` (True for a POST that may be sent twice, such as a synchronous query) and `streamed` (True for a body too
    large to hold in memory; it is left unread, and not requested again if the connection breaks). The state of a job is read even
    if it is to be streamed. The answer's `extensions["oauth_client"]` names the client that was used.

    The transport sends a request again, without the caller's help, after:

    * a 429, as often as needed within `retries.rate_limit_timeout_seconds`, when the quota grants it (G18);
    * a 401 for a token that should still be valid: the token is renewed once and the request sent once more (G23), and if that
      is refused too, once by another client, since the first one may have been disabled;
    * a 5xx, a timeout, a broken connection or a body that cannot be decompressed, with bounded backoff, if the request may be sent
      twice. Any other request, a submit, is sent again only if it was certainly not accepted: it never left (no connection), or the
      vendor says so (408, 425, or a 503 with Retry-After, which also says when to return). A bare 503, a 502 or a 504 may come from a proxy that had already passed the request on,
      so they are ambiguous, as is a timeout.

    If the caller is cancelled while its submit is being sent, the submit is completed and the caller still gets the answer, so that
    a query the vendor accepted is never forgotten. A submit that still waits for its grant, or that was certainly not accepted, is
    cancelled at once. A caller that cannot wait for the answer cancels a second time.

    Only requests to the vendor's own origin are counted and signed. A result at another address (a pre-signed URL in object
    storage) is fetched without the vendor's token, which would otherwise leak to a third party.

    Args:
        inner: Sends the requests.
        origin: The vendor's address; scheme, host and port decide whether a request is to the vendor.
        account: Vendor and name of the account, for messages.
        quota: The shared quota.
        tokens: Client id to its token source; the same ids as the quota's.
        retries: How often, and for how long, to retry.
        dialect: The vendor's words for errors, limits and jobs.
        sleep: Waits for the given seconds between retries.
        clock: Monotonic seconds.
        now: The wall clock, for a Retry-After that is a date.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        *,
        origin: httpx.URL,
        account: str,
        quota: Quota,
        tokens: Mapping[str, TokenSource],
        retries: RetryPolicy,
        dialect: Dialect = COMMON_DIALECT,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._inner = inner
        self._origin = _origin_of(origin)
        self._account = account
        self._quota = quota
        self._tokens = dict(tokens)
        self._retries = retries
        self._dialect = dialect
        self._sleep = sleep
        self._clock = clock
        self._now = now

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its answer: 2xx, 3xx or 4xx other than 429.

        Raises:
            UpstreamUnreachable: No answer after bounded retries.
            UpstreamFaulted: Still a 5xx after bounded retries.
            AmbiguousSubmit: A request that may not be sent twice was sent, and it is not known whether it was accepted.
            LoginRefused: No client of the pool, or not the pinned one, can log in.
            ClientUnknown: The pinned client is not configured.
            QuotaUnavailable: Redis is unavailable and the lane is backfill.
            UpstreamRefused: Still 429 after `retries.rate_limit_timeout_seconds`.
        """
        pending = await self._prepare(request)
        send = self._send_with_grant if _origin_of(request.url) == self._origin else self._send_unsigned
        try:
            return await retry_with_backoff(
                lambda: send(pending), lambda error: _may_retry(error, pending), self._retries, self._sleep
            )
        except RetriesExhausted as exhausted:
            raise _final_error(exhausted, pending) from exhausted.__cause__

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def _prepare(self, request: httpx.Request) -> _PendingRequest:
        pinned_client = request.extensions.get("oauth_client")
        if pinned_client is not None and pinned_client not in self._tokens:
            raise ClientUnknown(client_id=str(pinned_client), account=self._account, known=sorted(self._tokens))
        request.extensions = {**request.extensions, SHOWN_PATH: self._dialect.shown_path(request.url.path)}
        lane = request.extensions.get("lane", Lane.interactive)
        return _PendingRequest(
            request=request,
            body=await request.aread(),
            lane=lane if isinstance(lane, RaisableLane | Priority) else Lane(lane),
            pinned_client=pinned_client,
            is_idempotent=request.method in _IDEMPOTENT_METHODS or request.extensions.get("idempotent") is True,
            is_streamed=request.extensions.get("streamed") is True,
            purpose=Purpose(
                # It polls, reads or cancels a job that the vendor already has.
                is_follow_up=pinned_client is not None and request.method in ("GET", "DELETE"),
                endpoint=self._dialect.find_endpoint(request.method, request.url.path),
                starts_job=self._dialect.starts_job(request.method, request.url.path),
            ),
        )

    async def _send_unsigned(self, pending: _PendingRequest) -> httpx.Response:
        return await self._read_response(await self._send_in_time(_copy_request(pending, token=None)), pending)

    async def _send_with_grant(self, pending: _PendingRequest) -> httpx.Response:
        client_id, renewed, first_429_at = pending.pinned_client, set[str](), None
        given_up: str | None = None
        while True:
            try:
                async with asyncio.timeout(self._rate_limit_timeout(first_429_at)):
                    grant, token = await self._acquire_slot(pending, client_id, given_up)
            except TimeoutError:
                raise _rate_limit_error(pending, self._retries.rate_limit_timeout_seconds) from None
            except LoginRefused:
                if client_id == pending.pinned_client:
                    raise
                # The client was chosen only to renew its token, and that was refused: try the rest of the pool.
                client_id = pending.pinned_client
                continue
            exchange = self._exchange if pending.is_idempotent else self._send_uninterrupted
            response = await exchange(pending, grant, token)
            if response.status_code == 429:
                await response.aclose()
                # Another client may be free now, although the last one was chosen for its renewed token.
                client_id = pending.pinned_client
                first_429_at = self._clock() if first_429_at is None else first_429_at
            elif response.status_code == 401 and await self._invalidate(grant, token, renewed):
                await response.aclose()
                renewed.add(grant.client_id)
                client_id = grant.client_id
            elif response.status_code == 401 and given_up is None and self._has_other(grant, pending):
                await response.aclose()
                client_id, given_up = None, grant.client_id
            else:
                response.extensions["oauth_client"] = grant.client_id
                if response.status_code in _NOT_ACCEPTED:
                    return await self._read_response(response, pending)
                return response

    def _has_other(self, grant: Grant, pending: _PendingRequest) -> bool:
        """Return whether another client than that of a grant may send a request, and can log in."""
        others = [source for client_id, source in self._tokens.items() if client_id != grant.client_id]
        return pending.pinned_client is None and any(source.refusal is None for source in others)

    async def _invalidate(self, grant: Grant, token: str, renewed: Collection[str]) -> bool:
        """Return whether a token that was answered 401 is renewed; not if it is already the renewed one of this request."""
        source = self._tokens[grant.client_id]
        if grant.client_id in renewed:
            source.record_useless_renewal(token)
            return False
        return await source.invalidate(token)

    async def _send_uninterrupted(self, pending: _PendingRequest, grant: Grant, token: str) -> httpx.Response:
        """Send a request that may not be sent twice, to completion even if the caller is cancelled once."""
        exchange = asyncio.ensure_future(self._exchange(pending, grant, token))
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError as cancelled:
            try:
                response = await exchange
            except Exception as error:
                if _may_retry(error, pending):
                    raise cancelled from error
                raise
            if response.status_code in _NOT_ACCEPTED:
                await response.aclose()
                raise
            return response

    async def _exchange(self, pending: _PendingRequest, grant: Grant, token: str) -> httpx.Response:
        """Send the request and read the answer; leave the body of a 401 unread."""
        with log_call(self._account, grant.client_id, pending.current_lane, pending.request) as call:
            response = call.response = await self._send_and_settle(pending, grant, token)
        if response.status_code in _NOT_ACCEPTED:
            return response
        await self._read_response(response, pending)
        await self._record_jobs(pending.request, response, grant)
        return response

    async def _record_jobs(self, request: httpx.Request, response: httpx.Response, grant: Grant) -> None:
        """Record in the quota which job an answer says has started or ended."""
        method, path = request.method, request.url.path
        if grant.starts_job and (started := self._dialect.started_job(method, path, response)):
            await self._quota.name_job(grant, started)
        elif ended := self._dialect.ended_job(method, path, response):
            await self._quota.end_job(ended)

    async def _acquire_slot(
        self, pending: _PendingRequest, client_id: str | None, given_up: str | None
    ) -> tuple[Grant, str]:
        """Return a grant and its client's fresh token, skipping clients that cannot log in, and the one that was given up."""
        while True:
            grant = await self._quota.acquire(
                pending.lane,
                client_id,
                exclude=self._clients_without_login(client_id, given_up),
                purpose=pending.purpose,
            )
            source = self._tokens[grant.client_id]
            if (token := source.fresh_token) is not None:
                return grant, token
            # A login may take long. Meanwhile other requests may have the slot, and its time in flight must not run out.
            await self._quota.release(grant)
            try:
                await source.get_token()
            except LoginRefused as error:
                logger.error("%s: %s", self._account, error)

    def _clients_without_login(self, client_id: str | None, given_up: str | None) -> frozenset[str]:
        """Return the clients that cannot log in, and the one that was given up.

        Raises:
            LoginRefused: The client of this id, or every client but the one that was given up, cannot log in.
        """
        refusals = {each_id: refusal for each_id, source in self._tokens.items() if (refusal := source.refusal)}
        unusable = frozenset(refusals) | ({given_up} if given_up else frozenset[str]())
        if client_id in refusals:
            blocking = [client_id]
        else:
            blocking = sorted(refusals) if len(unusable) == len(self._tokens) else []
        if blocking:
            refusal = refusals[blocking[0]]
            raise LoginRefused(client_ids=blocking, login_url=refusal.login_url, reason=refusal.reason)
        return unusable

    async def _send_and_settle(self, pending: _PendingRequest, grant: Grant, token: str) -> httpx.Response:
        """Send the request, and settle the grant whether or not it was answered."""
        try:
            response = await self._send_in_time(_copy_request(pending, token))
        except NEVER_SENT:
            await self._quota.release(grant)
            raise
        except BaseException:
            await self._quota.settle(grant, remaining=None, retry_after=None, rejected=False)
            raise
        try:
            hints = parse_rate_headers(response.headers, self._now())
            is_rejected = response.status_code == 429
            await self._quota.settle(
                grant,
                remaining=hints.remaining,
                retry_after=hints.retry_after,
                rejected=is_rejected,
                status=response.status_code,
                limit=await _read_limit(response) if is_rejected else None,
            )
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _send_in_time(self, request: httpx.Request) -> httpx.Response:
        # The quota counts the request as in flight for so long and no longer. A read timeout alone does not bound an answer that
        # arrives slowly, byte by byte.
        seconds = self._quota.max_in_flight_seconds
        try:
            async with asyncio.timeout(seconds):
                response = await self._inner.handle_async_request(request)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer within {seconds:g} s", request=request) from None
        response.extensions[DIALECT] = self._dialect
        return response

    async def _read_response(self, response: httpx.Response, pending: _PendingRequest) -> httpx.Response:
        """Return the answer with its body, or raise `TransientFailure` for a 5xx, 408 or 425."""
        is_failure = is_transient(response.status_code)
        # What the answer says of a job is recorded, so it is read in any case.
        streamed = pending.is_streamed and not is_failure and not self._dialect.is_job(pending.request.url.path)
        await read_whole_body(response, streamed=streamed, host=pending.request.url.host)
        if is_failure:
            raise TransientFailure(response, parse_rate_headers(response.headers, self._now()).retry_after)
        return response

    def _rate_limit_timeout(self, first_429_at: float | None) -> float | None:
        if first_429_at is None:
            return None
        return max(0.0, first_429_at + self._retries.rate_limit_timeout_seconds - self._clock())


async def _read_limit(response: httpx.Response) -> NamedLimit | None:
    """Return the limit that a 429 names; a body that does not come is no reason to fail."""
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(_REFUSAL_BODY_SECONDS):
            await response.aread()
        return read_named_limit(response)
    return None


def _origin_of(url: httpx.URL) -> tuple[str, str, int | None]:
    default_port = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, url.port or default_port


def _copy_request(pending: _PendingRequest, token: str | None) -> httpx.Request:
    # A copy, so that the request which the caller can see never holds the token.
    headers = pending.request.headers.copy()
    headers.pop("Authorization", None)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Request(
        pending.request.method,
        pending.request.url,
        headers=headers,
        content=pending.body,
        extensions=pending.request.extensions,
    )


def _is_refused_for_now(error: TransientFailure) -> bool:
    """Return whether the vendor certainly did not accept the request, and may accept it later."""
    return error.status in NOT_RECEIVED or (error.status == 503 and error.retry_after is not None)


def _may_retry(error: BaseException, pending: _PendingRequest) -> bool:
    if isinstance(error, NEVER_SENT):
        return True
    if isinstance(error, TransientFailure):
        return pending.is_idempotent or _is_refused_for_now(error)
    return isinstance(error, MAYBE_SENT) and pending.is_idempotent


def _final_error(exhausted: RetriesExhausted, pending: _PendingRequest) -> UpstreamError:
    """Return the public error for the failure of the last attempt."""
    error = exhausted.error
    if isinstance(error, TransientFailure):
        is_ambiguous = error.status in (502, 503, 504) and not _is_refused_for_now(error)
    else:
        is_ambiguous = not isinstance(error, NEVER_SENT)
    if is_ambiguous and not pending.is_idempotent:
        request = pending.request
        return AmbiguousSubmit(method=request.method, path=shown_path(request), reason=exhausted.reason)
    return exhausted.public_error(pending.request)


def _rate_limit_error(pending: _PendingRequest, waited_seconds: float) -> UpstreamRefused:
    return UpstreamRefused(
        status=429,
        method=pending.request.method,
        path=shown_path(pending.request),
        message=f"the vendor's rate limit still holds after {waited_seconds:g} s of waiting; send fewer requests, or more slowly",
    )
