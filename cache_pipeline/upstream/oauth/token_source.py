"""One OAuth client's access token, as whoever signs a request sees it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from cache_pipeline.errors import LoginRefused, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy
from cache_pipeline.upstream.oauth.login import Login, LoginRequest, Send, client_credentials_login
from cache_pipeline.upstream.oauth.token_store import (
    LEASE_SECONDS,
    RENEW_AT,
    LocalTokens,
    LoginClaim,
    StoredToken,
    TokenStore,
)

_log = logging.getLogger(__name__)

# After a failed renewal the old token is used on; the login is tried again this much later.
_RENEW_AGAIN_SECONDS = 5.0
# While another process logs in: how often one without a living token looks, and one with a living token.
_LOOK_SECONDS = 0.05
_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class _Token:
    value: str = field(repr=False)
    renew_at: float
    dies_at: float
    mark: str


class TokenSource:
    """The access token of one OAuth client: renewed once for all at 80 % of its life, and swapped in one step (G23).

    Args:
        client: Whose token.
        login_url: Where to log in.
        send: Sends one request to the login, outside the quota: it is not a call of the limited API.
        retries: How often a login is repeated, and how long a refused client is left out.
        store: Where the token is shared with other processes; by default it is not.
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
        store: TokenStore | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        login_request: LoginRequest = client_credentials_login,
    ) -> None:
        self._client_id = client.client_id
        self._login_url = login_url
        self._login = Login(client, login_url, send, retries, sleep, login_request)
        self._store = store or LocalTokens()
        self._refused_for = retries.refused_login_wait_seconds
        self._clock = clock
        self._sleep = sleep
        self._renewing = asyncio.Lock()
        self._token: _Token | None = None
        self._not_before = 0.0
        self._dead_mark = ""
        self._refusal: tuple[LoginRefused, float] | None = None

    @property
    def fresh(self) -> str | None:
        """The token, if it needs no renewal now."""
        token = self._token
        return token.value if token and self._clock() < max(token.renew_at, self._not_before) else None

    @property
    def refusal(self) -> LoginRefused | None:
        """Why this client cannot log in, for as long as it is not worth trying again."""
        return self._refusal[0] if self._refusal and self._clock() < self._refusal[1] else None

    async def token(self) -> str:
        """Gives a token that is younger than 80 % of its life, logging in first if need be (G23).

        Whoever comes during a login, of this process or another, goes on with the token that lives or, where none does,
        waits for the new one. A renewal that cannot reach the login leaves the old token in use until it dies.

        Raises:
            LoginRefused: The login said no, to this process or a moment ago to another.
            UpstreamUnreachable: The login could not be reached, and no living token is left.
            UpstreamFaulted: The login failed, and no living token is left.
        """
        if (fresh := self.fresh) is not None:
            return fresh
        if self._renewing.locked() and (living := self._living()):
            return living.value
        async with self._renewing:
            if (fresh := self.fresh) is not None:
                return fresh
            return (await self._renewed()).value

    async def invalidate(self, token: str) -> None:
        """Drops `token` after a surprise 401, for all processes, so that it is renewed; a newer one is left alone."""
        if self._token is not None and self._token.value == token:
            self._dead_mark, self._token, self._not_before = self._token.mark, None, 0.0
            await self._store.drop(self._dead_mark)

    def _living(self) -> _Token | None:
        return self._token if self._token and self._clock() < self._token.dies_at else None

    async def _renewed(self) -> _Token:
        began = self._clock()
        while True:
            asked_at = self._clock()
            claim = await self._store.claim(self._dead_mark)
            if claim.token is not None:
                self._take_over(claim.token, asked_at)
            if self._token and self.fresh is not None and not claim.may_log_in:
                return self._token
            if claim.refused is not None:
                reason, seconds = claim.refused
                await self._store.give_back(claim, again_in=0)
                told = LoginRefused(client_ids=[self._client_id], login_url=self._login_url, reason=reason)
                raise self._refused(told, seconds)
            if claim.may_log_in:
                return await self._logged_in(claim)
            if living := self._living():
                self._not_before = min(self._clock() + _LOOK_AGAIN_SECONDS, living.dies_at)
                return living
            if self._clock() - began > LEASE_SECONDS:
                return await self._logged_in(claim)
            await self._sleep(_LOOK_SECONDS)

    async def _logged_in(self, claim: LoginClaim) -> _Token:
        asked_at = self._clock()
        try:
            new = await self._login()
        except LoginRefused as error:
            await self._store.refuse(claim, error.reason, self._refused_for)
            self._refused(error, self._refused_for)
            raise
        except (UpstreamUnreachable, UpstreamFaulted) as error:
            await self._store.give_back(claim, again_in=_RENEW_AGAIN_SECONDS)
            if (living := self._living()) is None:
                raise
            self._not_before = min(self._clock() + _RENEW_AGAIN_SECONDS, living.dies_at)
            _log.warning("OAuth client %s keeps its token for now: %s", self._client_id, error)
            return living
        except BaseException:
            await self._store.give_back(claim, again_in=0)
            raise
        self._refusal = None
        # In use at once, also where whoever logged in is cancelled before it is shared.
        token = self._token = _Token(
            new.value, asked_at + new.lifetime_seconds * RENEW_AT, asked_at + new.lifetime_seconds, ""
        )
        token = self._token = replace(token, mark=await self._store.keep(claim, new.value, new.lifetime_seconds))
        return token

    def _take_over(self, held: StoredToken, asked_at: float) -> None:
        dies_at = asked_at + held.left
        if self._token is None or dies_at > self._token.dies_at:
            self._token = _Token(held.value, dies_at - held.life * (1 - RENEW_AT), dies_at, held.mark)
            self._refusal = None

    def _refused(self, error: LoginRefused, seconds: float) -> LoginRefused:
        self._refusal = (error, self._clock() + seconds)
        return error
