"""Provides one OAuth client's valid access token, and renews it when needed."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from cache_pipeline.errors import LoginRefused, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy
from cache_pipeline.upstream.oauth.login import Login, LoginRequest, client_credentials_login
from cache_pipeline.upstream.oauth.token_store import (
    LOGIN_LEASE_SECONDS,
    RENEWAL_AGE,
    LocalTokens,
    LoginClaim,
    StoredToken,
    TokenStore,
)
from cache_pipeline.upstream.uncounted import Send

logger = logging.getLogger(__name__)

# After a failed renewal the old token stays in use. The login is tried again after this time, or later if it says so.
_RENEWAL_RETRY_SECONDS = 5.0
# A client of which two new tokens were answered 401 within this time does not log in for that reason again for as long.
_USELESS_RENEWAL_SECONDS = 60.0
# While another process logs in: how often a process without a valid token checks, and one with a valid token.
_CHECK_SECONDS = 0.05
_CHECK_WITH_TOKEN_SECONDS = 1.0


@dataclass(frozen=True)
class _Token:
    value: str = field(repr=False)
    renew_at: float
    expires_at: float
    token_id: str


class TokenSource:
    """The access token of one OAuth client: renewed once for all processes at 80 % of its lifetime, and replaced atomically (G23).

    Args:
        client: The client that the token belongs to.
        login_url: Address of the login.
        send: Sends one request to the login, outside the quota, because it is not a call of the limited API.
        retries: How often a login is retried, and for how long a refused client is not tried.
        store: Shares the token with other processes; by default it is not shared.
        clock: Monotonic seconds.
        sleep: Waits for the given seconds.
        login_request: Builds the login request; vendors with their own kind of login pass a function here.
    """

    def __init__(
        self,
        client: OAuthClient,
        login_url: str,
        send: Send,
        *,
        retries: RetryPolicy,
        store: TokenStore | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        login_request: LoginRequest = client_credentials_login,
    ) -> None:
        self._client_id = client.client_id
        self._login_url = login_url
        self._login = Login(client, login_url, send, retries, sleep, login_request)
        self._store = store or LocalTokens()
        self._refused_login_wait_seconds = retries.refused_login_wait_seconds
        self._clock = clock
        self._sleep = sleep
        self._renewal_lock = asyncio.Lock()
        self._token: _Token | None = None
        self._no_renewal_before = 0.0
        self._no_invalidation_before = 0.0
        self._suspect_until = 0.0
        self._useless_token = ""
        self._invalid_id = ""
        self._refusal: tuple[LoginRefused, float] | None = None

    @property
    def fresh_token(self) -> str | None:
        """The token, if it needs no renewal now."""
        token = self._token
        return token.value if token and self._clock() < max(token.renew_at, self._no_renewal_before) else None

    @property
    def refusal(self) -> LoginRefused | None:
        """Why this client cannot log in, for as long as it is not worth trying again."""
        return self._refusal[0] if self._refusal and self._clock() < self._refusal[1] else None

    async def get_token(self) -> str:
        """Return a token that is younger than 80 % of its lifetime, logging in first if needed (G23).

        During a login, of this process or another, other callers continue with the valid token or, if there is none, wait for the
        new one. A renewal is tried once. If it fails or is refused, the old token stays in use until it expires.

        Raises:
            LoginRefused: The login refused the client, in this process or recently in another, and there is no valid token.
            UpstreamUnreachable: The login could not be reached, and there is no valid token.
            UpstreamFaulted: The login failed, and there is no valid token.
        """
        if (fresh := self.fresh_token) is not None:
            return fresh
        if self._renewal_lock.locked() and (valid := self._valid_token()):
            return valid.value
        async with self._renewal_lock:
            if (fresh := self.fresh_token) is not None:
                return fresh
            return (await self._renew()).value

    async def invalidate(self, token: str) -> bool:
        """Delete `token` for all processes after an unexpected 401, so that it is renewed; a newer token stays.

        Returns:
            Whether to send the request again. For a minute after a second renewed token was refused too, none is deleted.
        """
        if self._clock() < self._no_invalidation_before:
            return False
        if self._token is not None and self._token.value == token:
            self._invalid_id, self._token, self._no_renewal_before = self._token.token_id, None, 0.0
            await self._store.delete(self._invalid_id)
        return True

    def record_useless_renewal(self, token: str) -> None:
        """Record that the vendor refuses a new token too. After a second one it would refuse the next one as well.

        A single one may have been revoked, or have been refused to another process before. While it stayed in use, every request
        of this client would fail.
        """
        if token == self._useless_token:
            return
        now, self._useless_token = self._clock(), token
        if now < self._suspect_until:
            self._no_invalidation_before = now + _USELESS_RENEWAL_SECONDS
        self._suspect_until = max(now, self._no_invalidation_before) + _USELESS_RENEWAL_SECONDS

    def _valid_token(self) -> _Token | None:
        return self._token if self._token and self._clock() < self._token.expires_at else None

    def _keep_valid_token(self, seconds: float) -> _Token | None:
        """Return the token if it is still valid, and do not renew it for so many seconds."""
        if valid := self._valid_token():
            self._no_renewal_before = min(self._clock() + seconds, valid.expires_at)
        return valid

    async def _renew(self) -> _Token:
        started = self._clock()
        while True:
            claimed_at = self._clock()
            claim = await self._store.claim(self._invalid_id)
            if claim.token is not None:
                self._adopt(claim.token, claimed_at)
            if self._token and self.fresh_token is not None and not claim.may_log_in:
                return self._token
            if claim.refusal is not None:
                reason, seconds = claim.refusal
                await self._store.release(claim, retry_after_seconds=0)
                if valid := self._keep_valid_token(seconds):
                    return valid
                refused = LoginRefused(client_ids=[self._client_id], login_url=self._login_url, reason=reason)
                raise self._remember_refusal(refused, seconds)
            if claim.may_log_in:
                return await self._log_in(claim)
            if valid := self._keep_valid_token(_CHECK_WITH_TOKEN_SECONDS):
                return valid
            if self._clock() - started > LOGIN_LEASE_SECONDS:
                return await self._log_in(claim)
            await self._sleep(_CHECK_SECONDS)

    async def _log_in(self, claim: LoginClaim) -> _Token:
        started = self._clock()
        # A request that has a valid token does not wait while a failing login is tried several times.
        login = self._login.once() if self._valid_token() else self._login
        try:
            new = await login()
        except LoginRefused as error:
            await self._store.record_refusal(claim, error.reason, self._refused_login_wait_seconds)
            if valid := self._keep_valid_token(self._refused_login_wait_seconds):
                logger.warning("OAuth client %s keeps its token until it expires: %s", self._client_id, error)
                return valid
            self._remember_refusal(error, self._refused_login_wait_seconds)
            raise
        except (UpstreamUnreachable, UpstreamFaulted) as error:
            pause = _RENEWAL_RETRY_SECONDS
            if isinstance(error, UpstreamFaulted):
                pause = max(pause, error.retry_after)
            await self._store.release(claim, retry_after_seconds=pause)
            if (valid := self._keep_valid_token(pause)) is None:
                raise
            logger.warning("OAuth client %s keeps its token for now: %s", self._client_id, error)
            return valid
        except BaseException:
            await self._store.release(claim, retry_after_seconds=0)
            raise
        self._refusal = None
        # Use the token at once, so that it is not lost if the caller is cancelled before it is shared.
        lifetime = new.lifetime_seconds
        token = self._token = _Token(new.value, started + lifetime * RENEWAL_AGE, started + lifetime, "")
        token = self._token = replace(token, token_id=await self._store.store(claim, new.value, lifetime))
        return token

    def _adopt(self, stored: StoredToken, claimed_at: float) -> None:
        expires_at = claimed_at + stored.remaining_seconds
        if self._token is None or expires_at > self._token.expires_at:
            renew_at = expires_at - stored.lifetime_seconds * (1 - RENEWAL_AGE)
            self._token = _Token(stored.value, renew_at, expires_at, stored.token_id)
            self._refusal = None

    def _remember_refusal(self, error: LoginRefused, seconds: float) -> LoginRefused:
        self._refusal = (error, self._clock() + seconds)
        return error
