"""One login of one OAuth client: the request, its repeats, and what the answer says."""

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
from cache_pipeline.upstream.rate_headers import read_hints
from cache_pipeline.upstream.response_body import read_whole_body
from cache_pipeline.upstream.retry import MAYBE_SENT, NEVER_SENT, RetriesExhausted, TransientFailure, retry_with_backoff

Send = Callable[[httpx.Request], Awaitable[httpx.Response]]
LoginRequest = Callable[[str, OAuthClient], httpx.Request]

# Assumed where the login does not say: the shortest life that Genesys lets an administrator choose.
_DEFAULT_LIFE_SECONDS = 300.0


@dataclass(frozen=True)
class NewToken:
    """What a login gave: the token, and the seconds it lives from when it was asked for."""

    value: str = field(repr=False)
    lifetime_seconds: float


def client_credentials_login(login_url: str, client: OAuthClient) -> httpx.Request:
    """Builds the client-credentials login: id and secret by Basic auth, never in the URL."""
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
        client: Who logs in.
        url: Where.
        send: Sends one request to the login, outside the quota: it is not a call of the limited API.
        retries: How often a login that cannot be reached or faults is repeated.
        sleep: Waits so many seconds.
        build_request: Builds the request; another vendor's form goes in here.
    """

    client: OAuthClient
    url: str
    send: Send
    retries: RetryPolicy
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    build_request: LoginRequest = client_credentials_login

    async def __call__(self) -> NewToken:
        """Logs in, repeating what cannot be reached, faults or throttles.

        Raises:
            LoginRefused: The login said no, or its answer holds no token.
            UpstreamUnreachable: No answer after bounded repeats.
            UpstreamFaulted: A 5xx or 429 that stayed.
        """
        request = self.build_request(self.url, self.client)
        try:
            response = await retry_with_backoff(
                lambda: self._ask(request),
                lambda error: isinstance(error, (TransientFailure, *NEVER_SENT, *MAYBE_SENT)),
                self.retries,
                self.sleep,
            )
        except RetriesExhausted as gave_up:
            raise self._gave_up(request, gave_up) from gave_up.__cause__
        return self._read(response)

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        response = await read_whole_body(await self.send(request), streamed=False, host=request.url.host)
        if response.status_code >= 500 or response.status_code == 429:
            raise TransientFailure(response, read_hints(response.headers, datetime.now(UTC)).retry_after)
        return response

    def _read(self, response: httpx.Response) -> NewToken:
        if not response.is_success:
            code, message, _ = parse_error_body(response)
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
        return NewToken(value, _seconds(body.get("expires_in")) or _DEFAULT_LIFE_SECONDS)

    def _gave_up(self, request: httpx.Request, gave_up: RetriesExhausted) -> UpstreamError:
        if isinstance(gave_up.error, TransientFailure):
            return UpstreamFaulted(
                status=gave_up.error.status,
                method=request.method,
                path=request.url.path,
                attempts=gave_up.attempts,
                message=self._masked(gave_up.error.vendor_message or ""),
                correlation_id=gave_up.error.correlation_id,
            )
        return UpstreamUnreachable(host=request.url.host, reason=f"login: {gave_up.reason}", attempts=gave_up.attempts)

    def _refused(self, reason: str) -> LoginRefused:
        return LoginRefused(client_ids=[self.client.client_id], login_url=self.url, reason=self._masked(reason))

    def _masked(self, text: str) -> str:
        # A careless login may echo what it was sent.
        secret = self.client.client_secret.get_secret_value()
        for form in {secret, quote(secret), quote(secret, safe="")} - {""}:
            text = text.replace(form, "***")
        return text


def _seconds(told: object) -> float | None:
    try:
        seconds = float(str(told))
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
