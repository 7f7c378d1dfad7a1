"""Access tokens: one source per OAuth client, renewed before they grow old (G23)."""

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote

from cache_pipeline.upstream.body import with_body
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy
from cache_pipeline.upstream.errors import (
    LoginRefused,
    UpstreamError,
    UpstreamFaulted,
    UpstreamUnreachable,
    vendor_words,
)
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.retrying import MAYBE_SENT, NEVER_SENT, Fault, GaveUp, with_backoff

_log = logging.getLogger(__name__)

Send = Callable[[httpx.Request], Awaitable[httpx.Response]]
LoginRequest = Callable[[str, OAuthClient], httpx.Request]

# A token is renewed once it is older than this share of its life (G23).
_RENEW_AT = 0.8
# Assumed where the login does not say: the shortest life that Genesys lets an administrator choose.
_DEFAULT_LIFE_SECONDS = 300.0
# After a failed renewal the old token is used on; the login is tried again this much later.
_RENEW_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, repr=False)
class _Token:
    value: str
    life: float
    renew_at: float
    dies_at: float


def client_credentials_login(login_url: str, client: OAuthClient) -> httpx.Request:
    """Builds the client-credentials login: id and secret by Basic auth, never in the URL."""
    pair = f"{client.client_id}:{client.client_secret.get_secret_value()}"
    return httpx.Request(
        "POST",
        login_url,
        headers={"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()},
        data={"grant_type": "client_credentials"},
    )


class TokenSource:
    """The access token of one OAuth client.

    It lives in this process alone. Shared through Redis it would be a secret at rest, in need of a key of its own, to save
    one login per process and day; vendors allow several live tokens per client. Sharing may come later, behind this class.

    Args:
        client: Whose token.
        login_url: Where to log in.
        send: Sends one request to the login, outside the quota: it is not a call of the limited API.
        retries: How often a login that cannot be reached or faults is repeated.
        clock: Seconds that only grow.
        sleep: Waits so many seconds.
        login_request: Builds the login; another vendor's form goes in here.
    """

    def __init__(
        self,
        client: OAuthClient,
        login_url: str,
        send: Send,
        *,
        retries: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        login_request: LoginRequest = client_credentials_login,
    ) -> None:
        self._client = client
        self._login_url = login_url
        self._send = send
        self._retries = retries
        self._clock = clock
        self._sleep = sleep
        self._login_request = login_request
        self._renewing = asyncio.Lock()
        self._token: _Token | None = None
        self._not_before = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether `token` answers without logging in."""
        return self._token is not None and self._clock() < max(self._token.renew_at, self._not_before)

    async def token(self) -> str:
        """Gives a token that is younger than 80 % of its life, logging in first if need be (G23).

        Whoever comes during a login waits for that one. A renewal that cannot reach the login leaves the old token in use
        until it dies.

        Raises:
            LoginRefused: The login said no.
            UpstreamUnreachable: The login could not be reached, and no living token is left.
            UpstreamFaulted: The login failed, and no living token is left.
        """
        if self._token is not None and self.is_fresh:
            return self._token.value
        async with self._renewing:
            if self._token is not None and self.is_fresh:
                return self._token.value
            try:
                self._token = await self._login()
            except (UpstreamUnreachable, UpstreamFaulted) as error:
                if self._token is None or self._clock() >= self._token.dies_at:
                    raise
                self._not_before = min(self._clock() + _RENEW_AGAIN_SECONDS, self._token.dies_at)
                _log.warning("OAuth client %s keeps its token for now: %s", self._client.client_id, error)
            return self._token.value

    def invalidate(self, token: str) -> None:
        """Drops `token` after a surprise 401, so that the next call logs in; a newer token is left alone."""
        if self._token is not None and self._token.value == token:
            self._token = None

    async def _login(self) -> _Token:
        asked_at = self._clock()
        request = self._login_request(self._login_url, self._client)
        try:
            response = await with_backoff(
                lambda: self._ask(request),
                lambda error: isinstance(error, (Fault, *NEVER_SENT, *MAYBE_SENT)),
                self._retries,
                self._sleep,
            )
        except GaveUp as gave_up:
            raise self._gave_up(request, gave_up) from gave_up.__cause__
        return self._read(response, asked_at)

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        response = await with_body(await self._send(request), streamed=False, host=request.url.host)
        if response.status_code >= 500 or response.status_code == 429:
            raise Fault(response, _seconds(response.headers.get("Retry-After")))
        return response

    def _read(self, response: httpx.Response, asked_at: float) -> _Token:
        if not response.is_success:
            code, message, _ = vendor_words(response)
            told = " ".join(word for word in (code, message) if word) or response.reason_phrase
            raise self._refused(f"{response.status_code} {told}")
        try:
            parsed: object = response.json()
        except ValueError:
            parsed = None
        body = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
        value = body.get("access_token")
        if not isinstance(value, str) or not value:
            raise self._refused(f"{response.status_code} without an access_token; is this the login URL?")
        life = _seconds(str(body.get("expires_in"))) or _DEFAULT_LIFE_SECONDS
        return _Token(value, life, asked_at + life * _RENEW_AT, asked_at + life)

    def _gave_up(self, request: httpx.Request, gave_up: GaveUp) -> UpstreamError:
        if isinstance(gave_up.error, Fault):
            return UpstreamFaulted(
                status=gave_up.error.status,
                method=request.method,
                path=request.url.path,
                attempts=gave_up.attempts,
                message=self._without_secret(gave_up.error.message),
                correlation_id=gave_up.error.correlation_id,
            )
        return UpstreamUnreachable(host=request.url.host, reason=f"login: {gave_up.reason}", attempts=gave_up.attempts)

    def _refused(self, reason: str) -> UpstreamError:
        return LoginRefused(
            client_ids=[self._client.client_id],
            login_url=self._login_url,
            reason=self._without_secret(reason) or "",
        )

    def _without_secret(self, text: str | None) -> str | None:
        # A careless login may echo what it was sent.
        if not text:
            return text
        secret = self._client.client_secret.get_secret_value()
        for form in {secret, quote(secret)} - {""}:
            text = text.replace(form, "***")
        return text


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
