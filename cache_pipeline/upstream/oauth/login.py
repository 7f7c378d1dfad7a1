"""Logs one OAuth client in: builds the request, retries it, and reads the token from the answer."""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from cache_pipeline.errors import LoginRefused
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy
from cache_pipeline.upstream.error_bodies import parse_error_body, read_body
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.uncounted import Send, send_uncounted

LoginRequest = Callable[[str, OAuthClient], httpx.Request]

#: RFC 6749, A.12, without spaces at its ends, which a header cannot hold.
_TOKEN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
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

    def once(self) -> "Login":
        """Return the login without its retries."""
        return replace(self, retries=replace(self.retries, max_attempts=1))

    async def __call__(self) -> NewToken:
        """Log in and return the token. Retry a login that cannot be reached, fails or throttles.

        Raises:
            LoginRefused: The login refused the client, or its answer has no token.
            UpstreamUnreachable: No answer after bounded retries.
            UpstreamFaulted: Still a 5xx or 429 after bounded retries.
        """
        response = await send_uncounted(
            self.send,
            self.build_request(self.url, self.client),
            self.retries,
            purpose="login",
            mask=self._mask_secret,
            sleep=self.sleep,
        )
        return self._parse_token(response)

    def _parse_token(self, response: httpx.Response) -> NewToken:
        if not response.is_success:
            code, message, _ = parse_error_body(response)
            reason = " ".join(part for part in (code, message) if part) or response.reason_phrase
            raise self._refusal(f"{response.status_code} {reason}")
        body = read_body(response)
        value = body.get("access_token")
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            # The HTTP library would show in its error a token that a header cannot hold.
            raise self._refusal(f"{response.status_code} without an access_token; is this the login URL?")
        return NewToken(value, _parse_seconds(body.get("expires_in")) or _DEFAULT_LIFETIME_SECONDS)

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
