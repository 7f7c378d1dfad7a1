"""Logs one OAuth client in: builds the request, retries it, and reads the token from the answer."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast
from urllib.parse import quote

from cache_pipeline.errors import LoginRefused, UpstreamError, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy
from cache_pipeline.upstream.error_bodies import parse_error_body
from cache_pipeline.upstream.http import httpx
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

Send = Callable[[httpx.Request], Awaitable[httpx.Response]]
LoginRequest = Callable[[str, OAuthClient], httpx.Request]

# Assumed if the login gives no lifetime: the shortest one that a vendor is known to give.
_DEFAULT_LIFETIME_SECONDS = 300.0


@dataclass(frozen=True)
class NewToken:
    """The result of a login: the token, and its lifetime in seconds from the moment it was requested."""

    value: str = field(repr=False)
    lifetime_seconds: float


def client_credentials_login(login_url: str, client: OAuthClient) -> httpx.Request:
    """Build the client-credentials login request: id and secret by Basic auth, never in the URL."""
    pair = f"{client.client_id}:{client.client_secret.get_secret_value()}"
    return httpx.Request(
        "POST",
        login_url,
        headers={"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()},
        data={"grant_type": "client_credentials"},
    )


@dataclass(frozen=True)
class Login:
    """Logs one OAuth client in.

    Attributes:
        client: The client to log in.
        url: Address of the login.
        send: Sends one request to the login, outside the quota, because it is not a call of the limited API.
        retries: How often a login that cannot be reached or fails is retried.
        sleep: Waits for the given seconds.
        build_request: Builds the login request; vendors with their own kind of login pass a function here.
    """

    client: OAuthClient
    url: str
    send: Send
    retries: RetryPolicy
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    build_request: LoginRequest = client_credentials_login

    async def __call__(self) -> NewToken:
        """Log in and return the token. Retry a login that cannot be reached, fails or throttles.

        Raises:
            LoginRefused: The login refused the client, or its answer has no token.
            UpstreamUnreachable: No answer after bounded retries.
            UpstreamFaulted: Still a 5xx or 429 after bounded retries.
        """
        request = self.build_request(self.url, self.client)
        try:
            response = await retry_with_backoff(
                lambda: self._send_once(request),
                lambda error: isinstance(error, (TransientFailure, *NEVER_SENT, *MAYBE_SENT)),
                self.retries,
                self.sleep,
            )
        except RetriesExhausted as exhausted:
            raise self._final_error(request, exhausted) from exhausted.__cause__
        return self._parse_token(response)

    async def _send_once(self, request: httpx.Request) -> httpx.Response:
        response = await read_whole_body(await self.send(request), streamed=False, host=request.url.host)
        if is_transient(response.status_code) or response.status_code == 429:
            raise TransientFailure(response, parse_rate_headers(response.headers, datetime.now(UTC)).retry_after)
        return response

    def _parse_token(self, response: httpx.Response) -> NewToken:
        if not response.is_success:
            code, message, _ = parse_error_body(response)
            reason = " ".join(part for part in (code, message) if part) or response.reason_phrase
            raise self._refusal(f"{response.status_code} {reason}")
        try:
            parsed: object = response.json()
        except ValueError:
            parsed = None
        body = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
        value = body.get("access_token")
        if not isinstance(value, str) or not value:
            raise self._refusal(f"{response.status_code} without an access_token; is this the login URL?")
        return NewToken(value, _parse_seconds(body.get("expires_in")) or _DEFAULT_LIFETIME_SECONDS)

    def _final_error(self, request: httpx.Request, exhausted: RetriesExhausted) -> UpstreamError:
        if isinstance(exhausted.error, TransientFailure):
            return UpstreamFaulted(
                status=exhausted.error.status,
                method=request.method,
                path=request.url.path,
                attempts=exhausted.attempts,
                message=self._mask_secret(exhausted.error.vendor_message or ""),
                correlation_id=exhausted.error.correlation_id,
            )
        return UpstreamUnreachable(
            host=request.url.host, reason=f"login: {exhausted.reason}", attempts=exhausted.attempts
        )

    def _refusal(self, reason: str) -> LoginRefused:
        return LoginRefused(client_ids=[self.client.client_id], login_url=self.url, reason=self._mask_secret(reason))

    def _mask_secret(self, text: str) -> str:
        # A careless login may echo what it was sent.
        secret = self.client.client_secret.get_secret_value()
        for form in {secret, quote(secret), quote(secret, safe="")} - {""}:
            text = text.replace(form, "***")
        return text


def _parse_seconds(value: object) -> float | None:
    try:
        seconds = float(str(value))
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
